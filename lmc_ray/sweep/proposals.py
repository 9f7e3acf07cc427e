"""What the search proposes next: a pure function of the spec and of the trials already known."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from statistics import median
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["maximize", "minimize"]

STARTUP_TRIALS = 10
PRUNING_NEEDS = 5
"""Complete trials without which nothing is pruned."""


@dataclass(frozen=True)
class Trial:
    """A configuration that the search tried, as far as it got."""

    number: int
    params: Mapping[str, Any]
    state: Literal["complete", "pruned", "diverged", "failed"]
    values: tuple[float, ...]
    """Objectives: accuracy, and memory in a Pareto search; chance accuracy if diverged."""
    curve: tuple[float, ...]
    """Mean over seeds of the average accuracy after each task."""


def propose(
    space: Mapping[str, BaseDistribution],
    history: Sequence[Trial],
    number: int,
    seed: int,
    directions: Sequence[Direction],
) -> dict[str, Any]:
    """Parameters of proposal `number`, from a sampler seeded by (seed, number) that sees `history`.

    Args:
        space: what is searched.
        history: the trials it may know.
        number: 0-based, over the whole study.
        seed: of the sweep.
        directions: one an objective.
    """
    key = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
    sampler = TPESampler(
        seed=int.from_bytes(key, "little"), n_startup_trials=STARTUP_TRIALS, multivariate=True
    )
    study = optuna.create_study(sampler=sampler, directions=list(directions))
    study.add_trials([frozen for t in history if (frozen := _frozen(t, space)) is not None])
    return study.ask(dict(space)).params


def _frozen(trial: Trial, space: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
    """Optuna's view: diverged is complete at chance accuracy, pruned keeps its curve."""
    if trial.state == "failed":
        return None
    params = {name: trial.params[name] for name in space}
    if trial.state == "pruned":
        steps = dict(enumerate(trial.curve, start=1))
        return create_trial(
            state=TrialState.PRUNED,
            params=params,
            distributions=dict(space),
            intermediate_values=steps,
        )
    return create_trial(params=params, distributions=dict(space), values=list(trial.values))


def prune_below(history: Sequence[Trial], tasks: int) -> tuple[float | None, ...]:
    """Per task, the median of the complete trials; None in the first quarter of the tasks.

    Too few complete trials, or a method without intermediate values: nothing is pruned.
    """
    curves = [t.curve for t in history if t.state == "complete" and len(t.curve) == tasks]
    if len(curves) < PRUNING_NEEDS:
        return ()
    first = floor(tasks / 4)
    return tuple(
        None if task < first or task == tasks - 1 else median(curve[task] for curve in curves)
        for task in range(tasks)
    )


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials that no other beats in accuracy at equal or smaller memory.

    Their values are (accuracy, memory); sorted by memory, the smaller number among equals.
    """
    best, front = float("-inf"), []
    done = [t for t in trials if t.state == "complete"]
    for trial in sorted(done, key=lambda t: (t.values[1], -t.values[0], t.number)):
        if trial.values[0] > best:
            best = trial.values[0]
            front.append(trial)
    return front
