"""What the search proposes next: a pure function of the spec and of the trials already known."""

import hashlib
from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
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
LATEST, BEST = 500, 100
"""How many trials the sampler sees at most: the latest, and of earlier ones the best (or the Pareto
front). It takes at most 25 for good ones, so of these it misses none."""


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


class History:
    """What a proposal may know: trials, told one by one.

    However many there are, a proposal takes no longer, and the order in which they were told
    changes nothing as long as there are no more than `LATEST`.

    Args:
        space: what is searched.
        tasks: of the benchmark.
        directions: one an objective.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution], tasks: int, directions: Sequence[Direction]
    ) -> None:
        self._space, self._directions = dict(space), list(directions)
        self._latest: deque[Trial] = deque(maxlen=LATEST)
        self._best: list[Trial] = []
        self._accuracies: list[list[float]] = [[] for _ in range(tasks)]
        """Of the complete trials, sorted, by task."""
        self._study: optuna.Study | None = None

    def tell(self, trial: Trial) -> None:
        """From here on proposals know the trial; a failed one says nothing."""
        if trial.state == "failed":
            return
        self._study = None
        self._latest.append(trial)
        if trial.state != "complete":
            return
        if len(self._directions) > 1:
            self._best = pareto_front([*self._best, trial])
        else:
            insort(self._best, trial, key=lambda each: (-each.values[0], each.number))
            del self._best[BEST:]
        if len(trial.curve) == len(self._accuracies):
            for accuracies, accuracy in zip(self._accuracies, trial.curve, strict=True):
                insort(accuracies, accuracy)

    def propose(self, number: int, seed: int) -> dict[str, Any]:
        """Parameters of proposal `number`, from a sampler seeded by (seed, number).

        Args:
            number: 0-based, over the whole study.
            seed: of the sweep.
        """
        if self._study is None:
            self._study = optuna.create_study(directions=self._directions)
            known = {trial.number: trial for trial in (*self._best, *self._latest)}
            self._study.add_trials([_frozen(known[n], self._space) for n in sorted(known)])
        key = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
        self._study.sampler = TPESampler(
            seed=int.from_bytes(key, "little"), n_startup_trials=STARTUP_TRIALS, multivariate=True
        )
        return self._study.ask(self._space).params

    def prune_below(self) -> tuple[float | None, ...]:
        """Per task, the median of the complete trials; None in the first quarter of the tasks.

        Too few complete trials, or a method without intermediate values: nothing is pruned.
        """
        if not self._accuracies or len(self._accuracies[0]) < PRUNING_NEEDS:
            return ()
        tasks = len(self._accuracies)
        return tuple(
            None if task < floor(tasks / 4) or task == tasks - 1 else _median(accuracies)
            for task, accuracies in enumerate(self._accuracies)
        )


def _median(ascending: Sequence[float]) -> float:
    return (ascending[(len(ascending) - 1) // 2] + ascending[len(ascending) // 2]) / 2


def _frozen(trial: Trial, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Optuna's view: diverged is complete at chance accuracy, pruned keeps its curve."""
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
