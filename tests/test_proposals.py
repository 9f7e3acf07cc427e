"""Proposals: a pure function of what is known; pruning; the Pareto front."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from simulation import propose, prune_below

from lmc_ray.sweep import Range, proposals
from lmc_ray.sweep.proposals import (
    PRUNING_NEEDS,
    STARTUP_TRIALS,
    Trial,
    pareto_front,
)
from lmc_ray.sweep.space import distributions

SPACE = distributions(
    "mcsgd",
    {
        "learning_rate": Range(0.01, 0.5, log=True),
        "dropout": Range(0.0, 0.5),
        "batch_size": [16, 32, 64],
        "connect_steps": Range(10, 100),
    },
)
STATES = ("complete", "pruned", "diverged", "failed")


def accuracy(params: dict[str, Any]) -> float:
    return 0.9 - (params["learning_rate"] - 0.1) ** 2 - params["dropout"] / 10


def trial(number: int, state: Any = "complete", **changes: Any) -> Trial:
    params = {
        "learning_rate": 0.02 + 0.01 * number,
        "dropout": 0.1,
        "batch_size": 16,
        "connect_steps": 10 + number,
    }
    value = 0.1 if state == "diverged" else accuracy(params)
    values = () if state == "failed" else (value,)
    same = {"params": params, "values": values, "curve": (0.9, 0.8)}
    return Trial(number=number, state=state, **(same | changes))


def history(length: int) -> list[Trial]:
    return [trial(number, STATES[number % 4 if number > 8 else 0]) for number in range(length)]


@settings(deadline=None, max_examples=15)
@given(number=st.integers(0, 50), seed=st.integers(0, 5), known=st.integers(0, 25))
def test_a_proposal_is_a_function_of_history_number_and_seed(
    number: int, seed: int, known: int
) -> None:
    first = propose(SPACE, history(known), number, seed, ["maximize"])
    optuna.create_study().ask(dict(SPACE))  # other studies leave no trace
    assert propose(dict(SPACE), tuple(history(known)), number, seed, ["maximize"]) == first
    assert set(first) == set(SPACE)
    for name, distribution in SPACE.items():
        inner = distribution.to_internal_repr(first[name])
        assert distribution.to_external_repr(inner) == first[name]


def test_numbers_and_seeds_make_different_proposals() -> None:
    found = [propose(SPACE, [], n, seed, ["maximize"]) for n in range(12) for seed in range(3)]
    assert len({each["learning_rate"] for each in found}) == len(found)


@pytest.mark.parametrize("known", [0, STARTUP_TRIALS - 1])
def test_before_enough_is_known_history_does_not_matter(known: int) -> None:
    alone = propose(SPACE, [], 7, 0, ["maximize"])
    assert propose(SPACE, history(known), 7, 0, ["maximize"]) == alone
    assert propose(SPACE, history(20), 7, 0, ["maximize"]) != alone


def test_the_search_learns() -> None:
    """Proposals that know are nearer to the best than those that do not."""
    known = []
    for number in range(40):
        params = propose(SPACE, known, number, 0, ["maximize"])
        known.append(trial(number, params=params, values=(accuracy(params),)))
    early = [t.values[0] for t in known[:STARTUP_TRIALS]]
    late = [t.values[0] for t in known[-STARTUP_TRIALS:]]
    assert median(late) > median(early)


def told(trials: Sequence[Trial], monkeypatch: pytest.MonkeyPatch) -> list[FrozenTrial]:
    """What Optuna gets to see."""
    seen: list[FrozenTrial] = []
    real = optuna.study.Study.add_trials

    def spy(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        seen.extend(trials)
        real(study, trials)

    monkeypatch.setattr(optuna.study.Study, "add_trials", spy)
    propose(SPACE, trials, len(trials), 0, ["maximize"])
    return seen


def test_optuna_is_told_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = trial(1, "pruned", curve=(0.5, 0.4, 0.3), values=(0.3,))
    diverged = trial(2, "diverged", values=(0.1,), curve=())
    seen = told([trial(0), pruned, diverged, trial(3, "failed", curve=())], monkeypatch)
    assert [each.state for each in seen] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.COMPLETE,
    ]
    assert seen[0].values == list(trial(0).values)
    assert seen[1].intermediate_values == {1: 0.5, 2: 0.4, 3: 0.3}
    assert seen[2].values == [0.1]
    assert [each.params for each in seen] == [t.params for t in (trial(0), pruned, diverged)]


def test_of_a_long_history_the_latest_and_the_best_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LATEST", 4)
    monkeypatch.setattr(proposals, "BEST", 3)
    values = [0.1, 0.8, 0.2, 0.9, 0.7, 0.8, 0.3, 0.95, 0.4, 0.5, 0.6]
    trials = [trial(number, values=(value,)) for number, value in enumerate(values)]
    seen = told(trials, monkeypatch)
    # Of two equals the earlier one, and none twice.
    assert [each.value for each in seen] == [0.8, 0.9, 0.95, 0.4, 0.5, 0.6]


@pytest.mark.parametrize("state", ["pruned", "diverged"])
def test_a_bad_trial_counts(state: Any) -> None:
    """A region where trials end early or diverge is avoided, not forgotten."""
    good = [trial(number) for number in range(12)]
    bad = [trial(n, state, curve=(0.2,), values=(0.1,)) for n in range(12, 20)]
    assert propose(SPACE, good + bad, 20, 0, ["maximize"]) != propose(
        SPACE, good, 20, 0, ["maximize"]
    )


def test_a_failed_trial_does_not_count() -> None:
    good = [trial(number) for number in range(12)]
    bad = [trial(n, "failed", values=(), curve=()) for n in range(12, 20)]
    assert propose(SPACE, good + bad, 20, 0, ["maximize"]) == propose(
        SPACE, good, 20, 0, ["maximize"]
    )


def test_two_objectives() -> None:
    space: dict[str, BaseDistribution] = distributions("mcsgd", {"memory_per_class": Range(1, 10)})
    known = [
        Trial(n, {"memory_per_class": 1 + n % 10}, "complete", (0.5 + n / 100, 1 + n % 10), (0.5,))
        for n in range(15)
    ]
    first = propose(space, known, 15, 0, ["maximize", "minimize"])
    assert first == propose(space, known, 15, 0, ["maximize", "minimize"])
    assert 1 <= first["memory_per_class"] <= 10


# Pruning


def curves(*all_curves: tuple[float, ...], state: Any = "complete") -> list[Trial]:
    return [trial(n, state, curve=curve) for n, curve in enumerate(all_curves)]


def test_pruning_takes_the_median_from_the_second_quarter_to_the_last_but_one_task() -> None:
    rows = [tuple((10 * row + task) / 100 for task in range(8)) for row in range(5)]
    limits = prune_below(curves(*rows), 8)
    assert limits == (None, None, 0.22, 0.23, 0.24, 0.25, 0.26, None)
    even = [*rows, tuple(0.5 + row for row in rows[-1])]
    assert prune_below(curves(*even), 8)[2:7] == pytest.approx((0.27, 0.28, 0.29, 0.30, 0.31))


@pytest.mark.parametrize(
    ("tasks", "free"), [(1, 1), (2, 0), (3, 0), (4, 1), (5, 1), (7, 1), (8, 2), (20, 5)]
)
def test_the_first_quarter_is_never_pruned(tasks: int, free: int) -> None:
    limits = prune_below(curves(*[(0.5,) * tasks] * PRUNING_NEEDS), tasks)
    wanted = [None] * free + [0.5] * (tasks - free)
    wanted[-1] = None  # all is done by then
    assert limits == tuple(wanted)


def test_few_complete_trials_prune_nothing() -> None:
    row = (0.5,) * 4
    assert prune_below([], 4) == ()
    assert prune_below(curves(*[row] * (PRUNING_NEEDS - 1)), 4) == ()
    assert prune_below(curves(*[row] * PRUNING_NEEDS), 4)


@pytest.mark.parametrize("state", ["pruned", "diverged", "failed"])
def test_only_whole_complete_trials_set_the_limit(state: Any) -> None:
    row = (0.5,) * 4
    few = curves(*[row] * (PRUNING_NEEDS - 1))
    assert prune_below([*few, *curves(*[row] * 9, state=state)], 4) == ()
    assert prune_below([*few, *curves(*[row[:-1]] * 9)], 4) == ()  # no intermediate values
    many = curves(*[row] * PRUNING_NEEDS)
    low = curves(*[(0.0,) * 4] * 9, state=state)
    assert prune_below([*many, *low], 4) == prune_below(many, 4)


def test_the_order_of_the_history_does_not_matter_to_pruning() -> None:
    rows = curves(*[(0.1 * n, 0.2 * n, 0.3 * n, 0.4 * n) for n in range(7)])
    assert prune_below(rows, 4) == prune_below(rows[::-1], 4)


# The Pareto front

POINTS = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(1, 5), st.sampled_from(["complete", "complete", "diverged"])
    ),
    max_size=12,
)


@given(POINTS)
def test_pareto_front_against_brute_force(points: list[tuple[int, int, Any]]) -> None:
    trials = [
        trial(n, state, values=(accuracy / 10, float(memory)))
        for n, (accuracy, memory, state) in enumerate(points)
    ]
    done = [t for t in trials if t.state == "complete"]
    found = pareto_front(trials)

    def beaten(one: Trial, by: Trial) -> bool:
        (accuracy, memory), (other, smaller) = one.values, by.values
        return other >= accuracy and smaller <= memory and by.values != one.values

    unbeaten = [t for t in done if not any(beaten(t, other) for other in done)]
    assert {t.values for t in found} == {t.values for t in unbeaten}
    # One a point, the smallest number; sorted by memory, and so by accuracy.
    assert [t.number for t in found] == [
        min(t.number for t in unbeaten if t.values == values)
        for values in sorted({t.values for t in unbeaten}, key=lambda v: v[1])
    ]
    assert pareto_front(trials[::-1]) == found
