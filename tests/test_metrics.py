"""Numbers from an accuracy matrix, against hand-computed examples and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmc_ray.metrics import (
    Summary,
    accuracy_curve,
    average_accuracy,
    backward_transfer,
    forgetting,
    summarize,
)

Matrix = NDArray[np.float64]


def lower(*rows: list[float]) -> Matrix:
    """A matrix of which only the lower triangle may be read: the rest is NaN."""
    matrix = np.full((len(rows), len(rows)), np.nan)
    for t, row in enumerate(rows):
        matrix[t, : t + 1] = row
    return matrix


@st.composite
def matrices(draw: st.DrawFn, least: int = 2) -> Matrix:
    tasks = draw(st.integers(least, 6))
    fraction = st.floats(0, 1)
    rows = (draw(st.lists(fraction, min_size=t, max_size=t)) for t in range(1, tasks + 1))
    return lower(*rows)


def test_hand_computed() -> None:
    matrix = lower([0.9], [0.7, 0.8], [0.95, 0.5, 0.6])
    # Task 1 was at best 0.9 before the end and is 0.95 now; task 2 fell from 0.8 to 0.5.
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.95) + (0.8 - 0.5)) / 2)
    assert backward_transfer(matrix) == pytest.approx(((0.95 - 0.9) + (0.5 - 0.8)) / 2)
    assert average_accuracy(matrix) == pytest.approx((0.95 + 0.5 + 0.6) / 3)
    assert summarize(matrix).learning_accuracy == pytest.approx((0.9 + 0.8 + 0.6) / 3)


def test_the_best_moment_counts_not_the_first() -> None:
    matrix = lower([0.5], [0.9, 0.7], [0.6, 0.4, 0.3])
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.4)) / 2)
    assert backward_transfer(matrix) == pytest.approx(((0.6 - 0.5) + (0.4 - 0.7)) / 2)


def test_the_last_task_is_neither_forgotten_nor_its_own_maximum() -> None:
    # max over t < T: the final accuracy itself is no candidate, so forgetting may be negative.
    assert forgetting(lower([0.5], [0.75, 0.1])) == pytest.approx(-0.25)


def test_one_task() -> None:
    assert summarize(lower([0.75])) == Summary(0.75, None, None, 0.75)


@given(matrices())
def test_definitions(a: Matrix) -> None:
    tasks = len(a)
    last = tasks - 1
    lost = [max(a[t, i] - a[last, i] for t in range(i, last)) for i in range(last)]
    gained = [a[last, i] - a[i, i] for i in range(last)]
    found = summarize(a)
    assert found.average_accuracy == pytest.approx(sum(a[last]) / tasks, abs=1e-12)
    assert found.learning_accuracy == pytest.approx(
        sum(a[i, i] for i in range(tasks)) / tasks, abs=1e-12
    )
    assert found.forgetting == pytest.approx(sum(lost) / last, abs=1e-12)
    assert found.backward_transfer == pytest.approx(sum(gained) / last, abs=1e-12)


@given(matrices())
def test_invariants(a: Matrix) -> None:
    tasks = len(a)
    found = summarize(a)
    assert found.forgetting is not None
    assert found.backward_transfer is not None
    assert found.learning_accuracy is not None
    assert 0 <= found.average_accuracy <= 1
    assert -1 <= found.forgetting <= 1
    # The best moment is at least the first one.
    assert found.forgetting >= -found.backward_transfer - 1e-12
    # What was learned plus what came later is what is left.
    assert found.average_accuracy == pytest.approx(
        found.learning_accuracy + (tasks - 1) / tasks * found.backward_transfer, abs=1e-12
    )
    # Forgetting does not care for the last task, nor for a shift of a task's whole column.
    shifted = a.copy()
    shifted[:, 0] -= 0.25
    shifted[-1, -1] = 0
    assert forgetting(shifted) == pytest.approx(found.forgetting, abs=1e-12)


@given(matrices())
def test_if_accuracy_only_falls_forgetting_is_lost_transfer(a: Matrix) -> None:
    falling = lower(*(sorted(row[: t + 1]) for t, row in enumerate(a)))
    for i in range(len(falling)):
        falling[i:, i] = np.sort(falling[i:, i])[::-1]
    found = summarize(falling)
    assert found.forgetting is not None
    assert found.backward_transfer == pytest.approx(-found.forgetting, abs=1e-12)
    assert found.forgetting >= 0


def test_accuracy_curve() -> None:
    rows = [(2, 0.25), (1, 0.5), (2, 0.75), (4, 1.0)]
    assert accuracy_curve(rows) == (0.5, 0.5, 1.0)
    assert accuracy_curve([]) == ()


@given(matrices(least=1))
def test_the_curve_ends_in_the_average(a: Matrix) -> None:
    rows = [(t + 1, float(a[t, i])) for t in range(len(a)) for i in range(t + 1)]
    assert accuracy_curve(rows)[-1] == pytest.approx(average_accuracy(a), abs=1e-12)
