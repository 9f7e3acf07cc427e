"""One method's way through a sweep: search on validation, rank again, confirm on test.

A study is a state machine: `next` says what to run, `tell` takes what came of it. All it decides
follows from its spec and the outcomes, never from the order in which they arrive, so a sweep that
was killed and started again, or ran elsewhere, proposes the same trials.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, cast

from lmc_ray.errors import UserError
from lmc_ray.learners import hyperparameters
from lmc_ray.sweep.cells import PROTOCOL, Block, Cell, Outcome, Place, configuration
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.proposals import Direction, History, Trial, pareto_front
from lmc_ray.sweep.space import distributions, fixed, holds

SEARCH_SEEDS_FROM = 10_000
"""The search's seeds start here, the confirmation's at 0: they never meet."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How every study of a sweep searches and confirms."""

    place: Place
    trials: int
    seeds: int
    """Fresh seeds of the confirmation; 0: none, only a search."""
    generation: int = 5
    """Trials proposed together; a proposal sees the generations before the last."""
    search_seeds: int = 2
    rerank: int = 5
    """How many of the best trials are ranked again on further seeds; below 2: none."""
    rerank_seeds: int = 3
    path_points: int = 21
    keep_minima: tuple[int, ...] = ()
    """The tasks after which confirmed cells keep the weights of their minima."""
    sweep_seed: int = 0
    pareto: bool = False
    asynchronous: bool = False


@dataclass
class _Proposal:
    """One number of the search: its parameters, and its trial once all cells have ended."""

    params: dict[str, Any]
    cells: tuple[str, ...]
    """Their ids. The cells themselves go when they have ended: they take most of the memory."""
    prune_below: tuple[float | None, ...]
    same_as: int | None = None
    """An earlier number with the same parameters: its outcome counts, nothing runs."""
    trial: Trial | None = None


class StudyRun:
    """A study on its way. Blocks come out of `next` and go back into `tell`."""

    def __init__(self, study: Study, protocol: Protocol, stack: int) -> None:
        """Check everything that a user can get wrong.

        Args:
            study: the method and its space.
            protocol: shared by all studies of the sweep.
            stack: confirmation seeds that train together; a choice of the machine, not of the spec.

        Raises:
            UserError: the space, a first setting or a number of trials or seeds does not fit.
        """
        own = protocol.trials if study.trials is None else study.trials
        for name, number, least in (
            ("trials", min(own, protocol.trials), 0),
            ("generation", protocol.generation, 1),
            ("seeds", protocol.seeds, 0),
            ("replicas", stack, 1),
        ):
            if number < least:
                raise UserError(f"--{name} must be at least {least}, got {number}")
        if protocol.keep_minima and not protocol.seeds:
            raise UserError("--seeds 0 keeps no minima: confirm at least 1, or leave minima out")
        if protocol.seeds > SEARCH_SEEDS_FROM:
            raise UserError(f"--seeds must be at most {SEARCH_SEEDS_FROM}, got {protocol.seeds}")
        self.study = study
        self.protocol = protocol
        self.space = distributions(study.method, study.space)
        self.fixed = fixed(study.space)
        self.trials = min(own, protocol.trials) if self.space else 0
        """Search trials; without anything to search, the fixed values are confirmed."""
        for first in study.first:
            hyperparameters(study.method, dict(first))
        self.stack = stack
        self.pareto = protocol.pareto and "memory_per_class" in self.space
        self.proposals: list[_Proposal] = []
        self.stage: Literal["search", "rerank", "confirm", "done"] = "search"
        self.queue: deque[Block] = deque()
        self.waiting: set[str] = set()
        """Cells handed out or queued in the present stage and not yet told."""
        self.outcomes: dict[str, Outcome | None] = {}
        self.chosen: list[dict[str, Any]] = []
        """The configurations that are confirmed; several in a Pareto search."""
        self.repeat: dict[int | None, dict[str, Any]] = {}
        """Proposals of an earlier start, by number: an asynchronous search cannot infer them."""
        self.best: float | None = None
        """The best validation accuracy so far."""
        self._history = History(self.space, protocol.place.tasks, self._directions)
        self._told = 0
        """How many proposals the history knows, if not asynchronous."""
        self._open: list[int] = []
        """Proposals whose trial has not ended, in order."""
        self._firsts: dict[frozenset[tuple[str, Any]], int] = {}
        """The first proposal of each configuration."""

    @property
    def key(self) -> tuple[str, str]:
        """What a sweep has one of: a study's name on a benchmark."""
        return self.protocol.place.benchmark, self.study.name

    @property
    def total_blocks(self) -> int:
        """How many blocks the study will run, as far as known now."""
        protocol = self.protocol
        stacks = -(-protocol.seeds // self.stack)
        ranked = min(protocol.rerank, self.trials) if self._reranks else 0
        repeated = len(self.proposals) - len(self._firsts)
        return self.trials - repeated + ranked + stacks * max(1, len(self.chosen))

    @property
    def together(self) -> int:
        """Cells that train as one stack, however few replicas a stack is to have."""
        if not self.trials:
            return 1
        return max(self.protocol.search_seeds, self.protocol.rerank_seeds if self._reranks else 0)

    @property
    def path_points(self) -> int:
        """Points on the paths of confirmed cells; multitask's are measured in the trios."""
        measured = self.study.paths and self.study.method != "multitask"
        return self.protocol.path_points if measured else 0

    def next(self) -> Block | None:
        """A block to run now; None if the study waits for outcomes or is done."""
        if self.stage == "search":
            while len(self.proposals) < self.trials:
                if not self._ready(len(self.proposals)):
                    return None
                block = self._propose(len(self.proposals))
                if self.proposals[-1].same_as is None:
                    return block
                self._settle()
            if self._open:
                return None
            self._start_rerank()
        if self.stage == "rerank" and not self.queue and not self.waiting:
            self._start_confirm()
        if self.stage == "confirm" and not self.queue and not self.waiting:
            self.stage = "done"
        return self.queue.popleft() if self.queue else None

    def tell(self, block: Block, outcomes: Mapping[str, Outcome] | None) -> None:
        """Take the outcomes of all cells of a block, by id; None if it failed for good."""
        for cell in block.cells:
            self.outcomes[cell.id] = None if outcomes is None else outcomes[cell.id]
            self.waiting.discard(cell.id)
        if self.stage == "search":
            self._settle()

    def difference(self, specification: Mapping[str, Any]) -> str | None:
        """The first option in which a stored cell is none of this study's; None if it may be one.

        An option that came later than the cell is not compared.
        """
        if specification["method"] != self.study.method:
            return f"its method was {specification['method']}, is {self.study.method} now"
        for name, value in self.shared.items():
            stored = self.stored(specification, name)
            if name in self.space and not holds(self.space[name], stored):
                return f"{name} {stored} is out of its range now"
            if name not in self.space and stored != value:
                return f"{name} was {stored}, is {value} now"
        if specification["purpose"] != self._purpose:
            return None
        points, wanted = specification["path_points"], self.path_points
        if points != wanted:
            return f"it measured {_paths_of(points)}, it is to measure {_paths_of(wanted)}"
        kept, keep = tuple(specification.get("keep_minima", ())), self.protocol.keep_minima
        if kept != keep:
            return f"it kept {_minima_of(kept)}, it is to keep {_minima_of(keep)}"
        return None

    def stored(self, specification: Mapping[str, Any], name: str) -> Any:
        """What a stored cell ran with, of what is in `shared`; see `Cell.specification`."""
        if name not in specification:
            fields = type(self._hyperparameters({})).__dataclass_fields__
            if name in fields and fields[name].metadata.get("later"):
                return fields[name].default
        return specification.get(name, self.shared[name])

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What all cells of the study share, where it is not searched."""
        place = asdict(self.protocol.place) | {"protocol": PROTOCOL}
        return place | asdict(self._hyperparameters({}))

    def generation(self, number: int) -> int:
        """The generation of a proposal, 0-based."""
        return number // self.protocol.generation

    def _ready(self, number: int) -> bool:
        """Whether the generations that a proposal must see are whole; the history then has them."""
        if self.protocol.asynchronous:
            return True
        seen = max(0, (self.generation(number) - 1) * self.protocol.generation)
        if self._open and self._open[0] < seen:
            return False
        for proposal in self.proposals[self._told : seen]:
            self._history.tell(cast(Trial, proposal.trial))
        self._told = max(self._told, seen)
        return True

    def _propose(self, number: int) -> Block:
        """Make the next proposal, from what the history knows.

        Equal proposals are one trial told twice, or the one's fate would depend on the other's.
        """
        sweep_seed = self.protocol.sweep_seed
        if number in self.repeat:
            params = self.repeat[number]
        elif number < len(self.study.first):
            first = self.study.first[number]
            params = {
                name: first[name]
                for name, distribution in self.space.items()
                if name in first and holds(distribution, first[name])
            }
            missing = {name: d for name, d in self.space.items() if name not in params}
            if missing:
                nothing = History(missing, self.protocol.place.tasks, self._directions)
                params |= nothing.propose(number, sweep_seed)
        else:
            params = self._history.propose(number, sweep_seed)
        limits = () if self.pareto or self._at_once(params) else self._history.prune_below()
        seeds = range(SEARCH_SEEDS_FROM, SEARCH_SEEDS_FROM + self.protocol.search_seeds)
        block = self._block(number, params, seeds, limits)
        first_of = self._firsts.setdefault(frozenset(params.items()), number)
        same = None if first_of == number else first_of
        cells = tuple(cell.id for cell in block.cells)
        self.proposals.append(_Proposal(params, cells, limits, same))
        self._open.append(number)
        return block

    def _settle(self) -> None:
        """Make trials of the proposals all of whose cells have ended."""
        for number in list(self._open):
            trial = self.proposals[number].trial = self._trial(number, self.proposals[number])
            if trial is None:
                continue
            self._open.remove(number)
            if trial.state == "complete":
                self.best = max(trial.values[0], self.best or trial.values[0])
            if self.protocol.asynchronous:
                self._history.tell(trial)

    def _trial(self, number: int, proposal: _Proposal) -> Trial | None:
        """The trial of a proposal; None while a cell of it has not ended."""
        if proposal.same_as is not None:
            same = self.proposals[proposal.same_as].trial
            return same and Trial(number, same.params, same.state, same.values, same.curve)
        if not all(cell in self.outcomes for cell in proposal.cells):
            return None
        ended = [each for cell in proposal.cells if (each := self.outcomes[cell]) is not None]
        if len(ended) < len(proposal.cells):
            return Trial(number, proposal.params, "failed", (), ())
        if not self.protocol.asynchronous:
            ended = _as_pruned(ended, proposal.prune_below)
        states = {outcome.status for outcome in ended}
        state = "pruned" if "pruned" in states else "complete"
        if states == {"diverged"}:
            state = "diverged"
        values = [fmean(outcome.value for outcome in ended)]
        if self.pareto:
            values.append(proposal.params["memory_per_class"])
        whole = min(len(outcome.curve) for outcome in ended)
        curve = tuple(fmean(o.curve[t] for o in ended) for t in range(whole))
        return Trial(number, proposal.params, state, tuple(values), curve)

    def _start_rerank(self) -> None:
        self.stage = "rerank"
        if self._reranks:
            start = SEARCH_SEEDS_FROM + self.protocol.search_seeds
            for trial in self._ranking()[: self.protocol.rerank]:
                seeds = range(start, start + self.protocol.rerank_seeds)
                self._enqueue(self._block(trial.number, trial.params, seeds))

    def _start_confirm(self) -> None:
        """Choose the best by the mean over all search seeds, and give it fresh seeds and test."""
        self.stage = "confirm"
        if not self.trials:
            self.chosen = [{}]
        elif self.pareto:
            self.chosen = [dict(trial.params) for trial in pareto_front(self._done())]
        elif ranking := self._ranking():
            finalists = ranking[: self.protocol.rerank] if self._reranks else []
            # One whose ranking failed has but the seeds that made it a finalist: luck may have.
            whole = [trial for trial in finalists if all(self._on_all_seeds(trial))]
            best = max(whole, key=self._mean_of_all_seeds) if whole else ranking[0]
            self.chosen = [dict(best.params)]
        seeds = range(self.protocol.seeds)
        for params in self.chosen:
            for start in range(0, len(seeds), self.stack):
                self._enqueue(self._block(None, params, seeds[start : start + self.stack]))

    @property
    def _reranks(self) -> bool:
        return self.protocol.rerank > 1 and self.trials > 1 and not self.pareto

    def _ranking(self) -> list[Trial]:
        """Different complete trials, best first; the smaller number among equals."""
        different = [t for t in self._done() if self.proposals[t.number].same_as is None]
        return sorted(different, key=lambda trial: (-trial.values[0], trial.number))

    def _done(self) -> list[Trial]:
        return [p.trial for p in self.proposals if p.trial and p.trial.state == "complete"]

    def _mean_of_all_seeds(self, trial: Trial) -> float:
        return fmean(outcome.value for outcome in self._on_all_seeds(trial) if outcome)

    def _on_all_seeds(self, trial: Trial) -> list[Outcome | None]:
        """Its outcomes in search and ranking; None for a seed whose block failed."""
        values = self._hyperparameters(trial.params)
        seeds = range(self.protocol.search_seeds + self.protocol.rerank_seeds)
        cells = [self._cell(values, SEARCH_SEEDS_FROM + seed, True) for seed in seeds]
        return [self.outcomes.get(cell.id) for cell in cells]

    def _at_once(self, params: Mapping[str, Any]) -> bool:
        """Whether tasks are learned together: until the end there is no accuracy to prune by."""
        return getattr(self._hyperparameters(params), "multitask_schedule", None) == "joint"

    @property
    def _directions(self) -> list[Direction]:
        return ["maximize", "minimize"] if self.pareto else ["maximize"]

    def _enqueue(self, block: Block) -> None:
        self.queue.append(block)
        self.waiting |= {cell.id for cell in block.cells}

    def _hyperparameters(self, params: Mapping[str, Any]) -> Any:
        return hyperparameters(self.study.method, {**self.fixed, **params})

    def _block(
        self,
        trial: int | None,
        params: Mapping[str, Any],
        seeds: range,
        limits: tuple[float | None, ...] = (),
    ) -> Block:
        values = self._hyperparameters(params)
        cells = tuple(self._cell(values, seed, trial is not None) for seed in seeds)
        return Block(study=self.study.name, trial=trial, cells=cells, prune_below=limits)

    @property
    def _purpose(self) -> Literal["confirm", "control"]:
        return "confirm" if self.study.control is None else "control"

    @property
    def chosen_configurations(self) -> set[str]:
        """What the confirmed cells' seeds share, as `configuration` has it."""
        cells = [self._cell(self._hyperparameters(params), 0, False) for params in self.chosen]
        return {configuration(cell.specification) for cell in cells}

    def _cell(self, values: Any, seed: int, search: bool) -> Cell:
        return Cell(
            method=self.study.method,
            place=self.protocol.place,
            hyperparameters=values,
            seed=seed,
            purpose="search" if search else self._purpose,
            path_points=0 if search else self.path_points,
            keep_minima=() if search else self.protocol.keep_minima,
        )


def _paths_of(points: int) -> str:
    return f"paths of {points} points" if points else "no paths"


def _minima_of(tasks: Sequence[int]) -> str:
    return f"minima of tasks {','.join(map(str, tasks))}" if tasks else "no minima"


def _as_pruned(ended: list[Outcome], limits: Sequence[float | None]) -> list[Outcome]:
    """The outcomes of a block's cells as this block's limits have them.

    A worker has kept to the limits already, but cells taken over from another sweep ran under
    theirs.
    """
    for task, limit in enumerate(limits):
        now = [each.curve[task] if task < len(each.curve) else each.value for each in ended]
        if limit is not None and fmean(now) < limit:
            return [
                Outcome("pruned", each.curve[task], each.curve[: task + 1])
                if task < len(each.curve)
                else each
                for each in ended
            ]
    return ended


def titles(studies: Sequence[StudyRun]) -> list[str]:
    """What people call each study, with its benchmark where there are several."""
    several = len({study.protocol.place.benchmark for study in studies}) > 1
    return [
        f"{each.study.title} on {each.protocol.place.benchmark}" if several else each.study.title
        for each in studies
    ]
