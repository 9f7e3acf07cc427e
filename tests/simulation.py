"""Sweeps without training: an objective in place of learning, and a scheduler that may do anything.

What a real sweep does with a block (`StackTrainable`, Tune) is played by `end`: the same rules for
pruning and divergence, on a made-up curve that depends on configuration, seed and task alone.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from optuna.distributions import BaseDistribution

from lmc_ray.sweep import Range, Study
from lmc_ray.sweep.cells import Block, Cell, Outcome, Place, outcome
from lmc_ray.sweep.proposals import Direction, History, Trial
from lmc_ray.sweep.study import Protocol, StudyRun

TASKS = 4
CHANCE = 0.1
PLACE = Place(
    benchmark="rotated-digits",
    tasks=TASKS,
    angle=30.0,
    classes_per_task=None,
    fingerprint="00" * 32,
    network="mlp-8-8",
)
CHANCES = {"rotated-digits": CHANCE, "permuted-digits": CHANCE}
SPACES: dict[str, dict[str, Any]] = {
    "stable-sgd": {
        "learning_rate": Range(0.01, 2.0, log=True),
        "dropout": Range(0.0, 0.5),
        "batch_size": [16, 32],
    },
    "mcsgd": {
        "learning_rate": Range(0.01, 2.0, log=True),
        "memory_per_class": Range(1, 5),
    },
    "multitask": {"learning_rate": Range(0.01, 2.0, log=True)},
    "naive-sgd": {},
}


def study(method: str = "stable-sgd", **changes: Any) -> Study:
    return Study(**({"method": method, "space": SPACES[method]} | changes))


def protocol(**changes: Any) -> Protocol:
    return Protocol(**({"place": PLACE, "trials": 16, "seeds": 3} | changes))


def propose(
    space: Mapping[str, BaseDistribution],
    trials: Sequence[Trial],
    number: int,
    seed: int,
    directions: Sequence[Direction],
) -> dict[str, Any]:
    """What is proposed to somebody who knows these trials, and has never asked before."""
    return told(trials, History(space, TASKS, directions)).propose(number, seed)


def prune_below(trials: Sequence[Trial], tasks: int) -> tuple[float | None, ...]:
    return told(trials, History({}, tasks, ["maximize"])).prune_below()


def told(trials: Sequence[Trial], history: History) -> History:
    for trial in trials:
        history.tell(trial)
    return history


def noise(cell: Cell, task: int) -> float:
    return random.Random(f"{cell.id}/{task}").uniform(-0.05, 0.05)


def curve(cell: Cell) -> tuple[float, ...]:
    """Accuracy after each task; it ends where learning diverges, and is the last one if joint."""
    values = cell.hyperparameters
    rate, tasks = values.learning_rate, cell.place.tasks
    memory = getattr(values, "memory_per_class", 1)
    base = 0.8 - 0.3 * abs(rate - 0.1) - 0.2 * values.dropout + 0.01 * memory
    whole = [base - 0.05 * task + noise(cell, task) for task in range(tasks)]
    if rate > 1.2 and noise(cell, 99) > 0:  # some of a block's seeds, or all
        return tuple(whole[:1])
    return (whole[-1],) if at_once(cell) else tuple(whole)


def at_once(cell: Cell) -> bool:
    return getattr(cell.hyperparameters, "multitask_schedule", None) == "joint"


def end(block: Block) -> dict[str, Outcome]:
    """What comes of a block, by the rules of `StackTrainable`."""
    tasks = block.cells[0].place.tasks
    curves = {cell.id: curve(cell) for cell in block.cells}
    joint = at_once(block.cells[0])
    diverged = {cell for cell, values in curves.items() if len(values) < tasks and not joint}
    known = {cell: () if joint else values for cell, values in curves.items()}
    for task in range(tasks):
        limit = block.prune_below[task] if block.prune_below else None
        now = [values[task] if len(values) > task else CHANCE for values in known.values()]
        if limit is not None and fmean(now) < limit:
            return {
                cell: outcome("diverged", values, CHANCE)
                if cell in diverged and len(values) <= task
                else outcome("pruned", values[: task + 1], CHANCE)
                for cell, values in curves.items()
            }
    return {
        cell: outcome("diverged" if cell in diverged else "finished", values, CHANCE)
        for cell, values in curves.items()
    }


@dataclass
class Result:
    """Everything that a sweep decides."""

    params: list[dict[str, Any]]
    trials: list[Trial | None]
    limits: list[tuple[float | None, ...]]
    chosen: list[dict[str, Any]]
    ledger: Mapping[str, Outcome]
    ran: list[Block] = field(default_factory=list)
    """Blocks that ended, in the order in which they did."""
    restarts: int = 0

    @property
    def decisions(self) -> tuple[Any, ...]:
        """What must not depend on order, machines or kills."""
        return self.params, self.trials, self.limits, self.chosen, dict(self.ledger)


Choose = Callable[[Sequence[str]], str]


def first(actions: Sequence[str]) -> str:
    """The scheduler of a quiet day: one worker, first in, first out."""
    return "end 0" if "end 0" in actions else "start"


def simulate(
    make: Callable[[], StudyRun],
    choose: Choose = first,
    workers: int = 1,
    fails: Callable[[Block], bool] = lambda block: False,
) -> Result:
    """Run one study to its end.

    Args:
        make: builds the study anew, at every start of the driver.
        choose: what happens next: `start` a block, `end N` of the running ones, or `kill`: the
            driver dies, what runs is lost, what was committed is told to the next one.
        workers: blocks that run at a time.
        fails: blocks that fail for good.
    """
    run = make()
    ledger: dict[str, Outcome] = {}
    running: list[Block] = []
    ended: list[Block] = []
    restarts, more = 0, True
    while run.stage != "done":
        actions = [f"end {n}" for n in range(len(running))]
        actions += ["start"] * (more and len(running) < workers)
        assert actions, f"the study waits for nothing in stage {run.stage}"
        action = choose([*actions, "kill"])
        if action == "kill":
            run, running, more = make(), [], True
            restarts += 1
        elif action == "start":
            block = run.next()
            more = block is not None
            if block is None:
                continue
            if all(cell.id in ledger for cell in block.cells):
                run.tell(block, {cell.id: ledger[cell.id] for cell in block.cells})
            else:
                running.append(block)
        else:
            block = running.pop(int(action.split()[1]))
            ended.append(block)
            outcomes = None if fails(block) else end(block)
            ledger |= outcomes or {}
            run.tell(block, outcomes)
            more = True
    return Result(
        params=[proposal.params for proposal in run.proposals],
        trials=[proposal.trial for proposal in run.proposals],
        limits=[proposal.prune_below for proposal in run.proposals],
        chosen=run.chosen,
        ledger=ledger,
        ran=ended,
        restarts=restarts,
    )
