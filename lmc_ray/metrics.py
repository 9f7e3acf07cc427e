"""Numbers from an accuracy matrix a[t, i]: accuracy on task i after learning task t (both 0-based).

Entries with i > t are never read. Everything is a fraction in [0, 1] (differences in [-1, 1]).
Definitions: Mirzadeh et al. 2021, section 5; Chaudhry et al. 2018 for forgetting.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Summary:
    """The four summary numbers of a run; forgetting and transfer are None for a single task."""

    average_accuracy: float
    forgetting: float | None
    backward_transfer: float | None
    learning_accuracy: float | None


def average_accuracy(matrix: NDArray[np.float64]) -> float:
    """Mean accuracy over all tasks after the last one."""
    return float(matrix[-1].mean())


def accuracy_curve(rows: Iterable[tuple[int, float]]) -> tuple[float, ...]:
    """Average accuracy after each task that was measured, from (after_task, accuracy) pairs."""
    after: dict[int, list[float]] = {}
    for task, accuracy in rows:
        after.setdefault(task, []).append(accuracy)
    return tuple(float(np.mean(after[task])) for task in sorted(after))


def forgetting(matrix: NDArray[np.float64]) -> float | None:
    """1/(T-1) Σ_{i<T} max_{i≤t<T} (a_{t,i} - a_{T,i})."""
    last = len(matrix) - 1
    if last == 0:
        return None
    return float(np.mean([matrix[i:last, i].max() - matrix[last, i] for i in range(last)]))


def backward_transfer(matrix: NDArray[np.float64]) -> float | None:
    """1/(T-1) Σ_{i<T} (a_{T,i} - a_{i,i})."""
    last = len(matrix) - 1
    if last == 0:
        return None
    return float(np.mean(matrix[last, :last] - matrix.diagonal()[:last]))


def summarize(matrix: NDArray[np.float64]) -> Summary:
    """All summary numbers of a complete matrix (a method that learns its tasks in turn)."""
    return Summary(
        average_accuracy=average_accuracy(matrix),
        forgetting=forgetting(matrix),
        backward_transfer=backward_transfer(matrix),
        learning_accuracy=float(matrix.diagonal().mean()),
    )
