"""The searcher that Ray Tune asks what to run next: all studies of a sweep, and its ledger."""

import json
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.store.files import one_line
from lmc_ray.store.presence import check_flag, plant_flag
from lmc_ray.sweep.backoff import Backoff, out_of_reach, reached
from lmc_ray.sweep.cells import Block, Outcome, Pack
from lmc_ray.sweep.events import tell, tell_block
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes

Key = tuple[str, str, int | None]
"""A study's benchmark and name, and a number of its trials."""

MAX_FAILURES = 3
"""How often a pack may lose its worker before its blocks count as failed."""

_EVENTS = {"finished": "committed", "pruned": "pruned", "diverged": "diverged"}


class Conductor(Searcher):
    """Hands out the blocks of all studies in packs; what the ledger holds is told, not run.

    Args:
        studies: in order of preference when several have something to run.
        store: the results root.
        workplace: goes to every worker.
        chances: accuracy of guessing, for diverged cells, by benchmark.
        packings: how blocks share stacks, by benchmark.
        changed: called whenever a block has ended; True if it has run just now.
        hindered: told whenever a commit has to wait, or a stack was too large.
        several: whether the sweep may hold other benchmarks than these studies'.
    """

    def __init__(
        self,
        studies: Sequence[StudyRun],
        store: Store,
        workplace: Workplace,
        chances: Mapping[str, float],
        packings: Mapping[str, Packing],
        changed: Callable[[bool], None],
        hindered: Callable[[str], None] = lambda reason: None,
        *,
        several: bool = False,
    ) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.studies = studies
        self.store = store
        self.workplace = workplace
        self.changed = changed
        self.hindered = hindered
        self.ledger = stored_outcomes(store, workplace.sweep, chances)
        self.chances = chances
        self.packings = packings
        self.several = several
        self.ready: deque[tuple[StudyRun, list[Block]]] = deque()
        """Packs to run, in the order in which the studies gave them out; their blocks are whole."""
        self.running: dict[str, tuple[StudyRun, list[Block]]] = {}
        self.fits: dict[str, int] = {}
        """Replicas of a stack, by benchmark, where more have run out of memory."""
        self.links: dict[str, dict[str, Any]] = {}
        """Cells of other sweeps that are taken over but not committed yet, with what is new."""
        self.done = 0
        self.failed: list[Block] = []
        self.too_large = False
        """Whether a block has failed because one replica was too much for the memory."""
        self.problem: UserError | None = None
        """What the user has to mend before the sweep can go on."""
        self.recovered: Counter[str] = Counter()
        """How often Tune itself has tried a pack again, by its trial's id there."""
        self.given_up: list[str] = []
        """The ids of packs that have failed for good."""
        self._failures: Counter[tuple[str, ...]] = Counter()
        """How often a block has lost its worker, or its worker an error, by its cells."""
        self._elsewhere: dict[str, str] = {}
        self._outcomes: dict[str, dict[str, Outcome]] = {}
        self._written: dict[Key, tuple[str, list[str]]] = {}
        """Trials that earlier starts have committed: their states and cells."""
        self._known: dict[Key, dict[str, Any]] = {}
        """Configurations that earlier starts have tried."""
        self._unwritten = {
            study.key: list(range(0, study.trials, study.protocol.generation)) for study in studies
        }
        """Where the generations begin whose trials are not committed."""

    def start(self) -> None:
        """Take up what the root holds; to be called once, before the first `suggest`.

        Raises:
            UserError: the sweep's name belongs to a sweep with other options, or the root is gone.
        """
        self._read()
        if not any(study.protocol.asynchronous for study in self.studies):
            self._advance()  # whatever gives a foreign name away comes up here
        if self.problem:
            raise self.problem
        try:
            plant_flag(self.store.root)
        except OSError as problem:
            raise self._out_of_reach(one_line(problem)) from None

    @property
    def finished(self) -> bool:
        """Whether every study is done."""
        return all(study.stage == "done" for study in self.studies)

    def suggest(self, trial_id: str) -> Any:
        """The next pack of what is not in the ledger; None while all studies wait.

        Tune's type says dictionary or None, and its protocol says `Searcher.FINISHED` at the end.
        """
        if not self.problem:
            self._advance()
        self._commit()
        if self.problem or INTERRUPT.seen:
            return Searcher.FINISHED
        if self.ready:
            study, blocks = self.ready.popleft()
            pack = self._fitting(study, blocks)
            now = blocks[: len(pack.blocks)]
            self.running[trial_id] = study, now
            if later := blocks[len(now) :]:
                self.ready.appendleft((study, later))
            return {"pack": pack, "workplace": self.workplace}
        return Searcher.FINISHED if self.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take the outcomes of a pack's blocks, or their failure after all retries."""
        study, blocks = self.running.pop(trial_id)
        result = result or {}
        outcomes: list[tuple[str, Outcome]] | None = result.get("outcomes")
        for block in blocks:
            _tell_resumed(block, result)
        if "lost" in result:  # neither done nor failed: the next start runs it
            for block in blocks:
                tell_block("not committed", block, result["lost"])
            self.problem = self._out_of_reach(result["lost"])
            return
        if "mistake" in result:
            for block in blocks:
                tell_block("not run", block, result["mistake"])
            self.problem = UserError(result["mistake"])
            return
        if result.get("too_large", 0) > 1:
            self._halve(study, blocks, result["too_large"])
            return
        if error and self._lost(trial_id, blocks) <= MAX_FAILURES:
            # Tune gives up at once where the worker is lost that it was to use again.
            for block in blocks:
                tell_block("run again", block)
            self.ready.appendleft((study, blocks))
            return
        if error:
            self.given_up.append(trial_id)
        self.too_large |= "too_large" in result
        ended = {} if error or outcomes is None else dict(outcomes)
        self.ledger |= ended
        for block in blocks:
            if ended:
                _tell_outcomes(block, ended, result)
                if all(cell.id in self.ledger for cell in block.cells):
                    self._tell(study, block, ran=True)
                else:  # it did not fit into one stack
                    self.ready.appendleft((study, [block]))
            else:
                tell_block("failed", block)
                self.failed.append(block)
                study.tell(block, None)
        self._commit()

    def _lost(self, trial_id: str, blocks: Sequence[Block]) -> int:
        """How often the pack has been lost by now."""
        times = 1 + self.recovered.pop(trial_id, 0)
        for block in blocks:
            self._failures[_key(block)] += times
        return max(self._failures[_key(block)] for block in blocks)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Between tasks there is something for the log only."""
        _, blocks = self.running[trial_id]
        for block in blocks:
            if "waits" in result:
                tell_block("commit retried", block, result["waits"])
            else:
                _tell_resumed(block, result)
        if "waits" in result:
            self._wait_for_root(result["waits"])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher so as to restore it; ours is rebuilt from the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _read(self) -> None:
        """What the root knows of this sweep and of its cells elsewhere.

        Raises:
            UserError: the sweep's cells are not of these studies.
        """
        sweep, studies = self.workplace.sweep, {study.key: study for study in self.studies}
        with self.store.database() as database:
            elsewhere = """
                SELECT cell_id, sweep FROM runs WHERE sweep <> ? AND status <> 'pruned'
                ORDER BY coalesce(reused_from, ''), sweep
            """
            for cell, other in database.execute(elsewhere, [sweep]).fetchall():
                self._elsewhere.setdefault(cell, other)
            cells = """
                SELECT benchmark, study, trial, config FROM runs WHERE sweep = ? ORDER BY cell_id
            """
            for benchmark, name, trial, config in database.execute(cells, [sweep]).fetchall():
                if study := self._study_of(benchmark, name):
                    values = json.loads(config)
                    if difference := study.difference(values):
                        raise self._other_sweep(f"{name}: {difference}")
                    if trial is not None:
                        params = {n: study.stored(values, n) for n in study.space}
                        self._known[benchmark, name, trial] = params
            trials = """
                SELECT coalesce(benchmark, $1), study, number, generation, params, state, cells,
                    len("values")
                FROM tried WHERE sweep = $2
            """
            rows = database.execute(trials, [self._only_benchmark, sweep]).fetchall()
            for benchmark, name, trial, generation, params, state, ids, objectives in rows:
                study = self._study_of(benchmark, name)
                if study and state == "complete" and study.pareto != (objectives == 2):
                    raise self._other_sweep(f"{name}: --pareto")
                if study and study.generation(trial) != generation:
                    raise self._other_sweep(f"{name}: trials proposed together")
                self._known[benchmark, name, trial] = json.loads(params)
                self._written[benchmark, name, trial] = state, ids
        for (benchmark, name, trial), params in self._known.items():
            study = studies.get((benchmark, name))
            if study and study.protocol.asynchronous:
                study.repeat[trial] = params

    @property
    def _only_benchmark(self) -> str | None:
        """Meant where an old file names none and every cell of its trials has failed."""
        benchmarks = {benchmark for benchmark, _ in (study.key for study in self.studies)}
        return benchmarks.pop() if len(benchmarks) == 1 else None

    def _study_of(self, benchmark: str, name: str) -> StudyRun | None:
        """The study that a stored cell belongs to, if it is among these.

        Where the sweep has one benchmark, a cell on another is the study's all the same: it gives
        the other sweep away.
        """
        for study in self.studies:
            if study.key == (benchmark, name) or (not self.several and study.study.name == name):
                return study
        return None

    def _missing(self, block: Block) -> Block:
        """The part of a block that the ledger lacks."""
        missing = tuple(cell for cell in block.cells if cell.id not in self.ledger)
        if len(missing) == len(block.cells):
            return block
        # The limits are for the mean of the whole block: the study prunes it afterwards.
        return replace(block, cells=missing, prune_below=())

    def _fitting(self, study: StudyRun, blocks: Sequence[Block]) -> Pack:
        """What of these blocks goes into the next stack: all, where that much memory is."""
        fits = self.fits.get(study.protocol.place.benchmark)
        pack: list[Block] = []
        for block in map(self._missing, blocks):
            if fits is not None and len(Pack((*pack, block)).cells) > fits:
                if not pack:  # seeds of one configuration, in two stacks
                    pack.append(replace(block, cells=block.cells[:fits], prune_below=()))
                break
            pack.append(block)
        return Pack(tuple(pack))

    def _halve(self, study: StudyRun, blocks: list[Block], replicas: int) -> None:
        """Run what was too large for the memory again, in smaller stacks."""
        benchmark = study.protocol.place.benchmark
        fits = self.fits[benchmark] = min(replicas // 2, self.fits.get(benchmark, replicas))
        reason = f"out of memory with {replicas} replicas a stack on {benchmark}"
        for block in blocks:
            tell_block("too large", block, reason)
        self.hindered(f"{reason}: going on with {fits}")
        self.ready.appendleft((study, blocks))

    def _advance(self) -> None:
        """Take blocks from the studies until all of them wait, or fill a stack if asynchronous.

        Whatever the root holds is told at once. Packs are made of all blocks that come together,
        and then lack those: what was committed before changes no stack.
        """
        moved = True
        while moved:
            moved = False
            for study in self.studies:
                together: dict[Any, list[Block]] = {}
                waiting: list[Block] = []
                while not self._enough(study, waiting) and (block := study.next()) is not None:
                    moved = True
                    together.setdefault(_batch(study, block), []).append(block)
                    if self._foreign(study, block):
                        self.problem = self._other_sweep("another search space or other options")
                        return
                    # Whatever has become of its cells since: later ones were proposed on that.
                    if self._failed_before(study, block):
                        study.tell(block, None)
                        continue
                    self._reuse(block)
                    if self.problem:
                        return
                    if all(cell.id in self.ledger for cell in block.cells):
                        self._tell(study, block, ran=False)
                    else:
                        waiting.append(block)
                for blocks in together.values():
                    for pack in self._packing(study).packs(blocks):
                        if missing := [block for block in pack if block in waiting]:
                            self.ready.append((study, missing))

    def _enough(self, study: StudyRun, waiting: Sequence[Block]) -> bool:
        """Whether an asynchronous study has to wait: the later it proposes, the more it knows."""
        if not study.protocol.asynchronous:
            return False
        replicas = sum(len(block.cells) for block in waiting)
        return bool(self.ready) or replicas >= self._packing(study).replicas

    def _packing(self, study: StudyRun) -> Packing:
        return self.packings[study.protocol.place.benchmark]

    def _tell(self, study: StudyRun, block: Block, *, ran: bool) -> None:
        study.tell(block, {cell.id: self.ledger[cell.id] for cell in block.cells})
        self.done += 1
        self.changed(ran)

    def _foreign(self, study: StudyRun, block: Block) -> bool:
        """Whether the ledger has another proposal under this number: another sweep's name."""
        if block.trial is None or study.stage != "search":
            return False
        key = *study.key, block.trial
        params = study.proposals[block.trial].params
        _, cells = self._written.get(key, ("", [cell.id for cell in block.cells]))
        same = [cell.id for cell in block.cells] == cells
        return not same or self._known.get(key, params) != params or self._pruned(study, block)

    def _pruned(self, study: StudyRun, block: Block) -> bool:
        """Whether a cell was pruned where this block has no limit: by other proposals' medians."""
        if study.protocol.asynchronous:
            return False
        ended = (self.ledger.get(cell.id) for cell in block.cells)
        tasks = [len(each.curve) for each in ended if each and each.status == "pruned"]
        limits = block.prune_below
        return any(not 0 < t <= len(limits) or limits[t - 1] is None for t in tasks)

    def _other_sweep(self, reason: str) -> UserError:
        return UserError(
            f"sweep '{self.workplace.sweep}' was made with other options ({reason}):"
            " choose another --name, or leave it out"
        )

    def _failed_before(self, study: StudyRun, block: Block) -> bool:
        """Whether this trial is known to have failed."""
        state, _ = self._written.get((*study.key, block.trial), ("", []))
        return study.stage == "search" and state == "failed"

    def _reuse(self, block: Block) -> None:
        """Take over cells that another sweep of this root has run.

        A pruned cell is no result of its specification alone, so it is not taken over.
        """
        for cell in block.cells:
            if cell.id in self._elsewhere and cell.id not in self.ledger:
                other = self._elsewhere[cell.id]
                if other not in self._outcomes:
                    self._outcomes[other] = self._stored(other)
                if cell.id not in self._outcomes[other]:
                    return  # the sweep is at its end
                self.ledger[cell.id] = self._outcomes[other][cell.id]
                self.links[cell.id] = {"study": block.study, "trial": block.trial}
                tell_block("taken over", block, f"from sweep {other}", [cell.id])

    def _stored(self, sweep: str) -> dict[str, Outcome]:
        """Those of another sweep's cells; `problem` says if the root is away for too long."""
        try:
            return reached(
                lambda: stored_outcomes(self.store, sweep, self.chances),
                self.workplace.patience,
                self._wait_for_root,
            )
        except UnavailableError as problem:
            if not INTERRUPT.seen:
                self.problem = self._out_of_reach(str(problem))
            return {}

    def _commit(self) -> None:
        """Commit what has come up, in several tries if it must be; `problem` says if in vain."""
        backoff = Backoff(self.workplace.patience)
        while not self.problem:
            try:
                check_flag(self.store.root)
                self._write()
                return
            except (OSError, UnavailableError) as problem:
                tell("commit retried", f"trials and cells taken over: {problem}")
                self._wait_for_root(one_line(problem))
                if not backoff.wait():
                    if not INTERRUPT.seen:
                        self.problem = self._out_of_reach(one_line(problem))
                    return
            except UserError as problem:
                self.problem = problem

    def _wait_for_root(self, reason: str) -> None:
        self.hindered(f"waiting for the results root: {reason}")

    def _out_of_reach(self, reason: str) -> UserError:
        return out_of_reach(self.store.root, self.workplace.sweep, reason)

    def _write(self) -> None:
        """The cells taken over, then the trials of every generation that is whole now."""
        if self.links:
            self.store.reuse(self.workplace.sweep, uuid.uuid4().hex, self.links)
            self.links = {}
        for study in self.studies:
            self._write_trials(study)

    def _write_trials(self, study: StudyRun) -> None:
        unwritten = self._unwritten[study.key]
        for start in list(takewhile(lambda number: number < len(study.proposals), unwritten)):
            numbers = range(start, min(start + study.protocol.generation, study.trials))
            if len(study.proposals) < numbers.stop:
                return
            new = [n for n in numbers if (*study.key, n) not in self._written]
            rows = [row for number in new if (row := _trial_row(study, number))]
            if len(rows) == len(new):
                if rows:
                    self.store.commit(self.workplace.sweep, uuid.uuid4().hex, {"trials": rows})
                unwritten.remove(start)


def _batch(study: StudyRun, block: Block) -> tuple[str, int]:
    """With what else a block of a study becomes ready: its generation, or all of its stage."""
    if block.trial is None or study.stage != "search" or study.protocol.asynchronous:
        return study.stage, 0
    return study.stage, study.generation(block.trial)


def _tell_resumed(block: Block, result: Mapping[str, Any]) -> None:
    """With the first result after it."""
    if result.get("resumed") and result["resumed"] == result["task"] - 1:
        tell_block("resumed", block, f"after task {result['resumed']} on {_host(result)}")


def _tell_outcomes(
    block: Block, outcomes: Mapping[str, Outcome], result: Mapping[str, Any]
) -> None:
    """Of the cells that have run now; a pruned block may have left its pack before the end."""
    own = {cell.id: outcomes[cell.id] for cell in block.cells if cell.id in outcomes}
    accuracy = fmean(outcome.value for outcome in own.values())
    for status, event in _EVENTS.items():
        cells = [cell for cell, outcome in own.items() if outcome.status == status]
        if cells:
            learned = len(own[cells[0]].curve) if status == "pruned" else result["task"]
            tasks = f"{learned} tasks on {_host(result)}"
            tell_block(event, block, f"accuracy {accuracy:.4f} after {tasks}", cells)


def _host(result: Mapping[str, Any]) -> str:
    """Where Tune says that a result comes from."""
    return f"{result.get('hostname')}, process {result.get('pid')}"


def _key(block: Block) -> tuple[str, ...]:
    return tuple(cell.id for cell in block.cells)


def _trial_row(study: StudyRun, number: int) -> dict[str, Any] | None:
    proposal = study.proposals[number]
    trial = proposal.trial
    if trial is None:
        return None
    benchmark, name = study.key
    return {
        "benchmark": benchmark,
        "study": name,
        "number": number,
        "generation": study.generation(number),
        "state": trial.state,
        "params": json.dumps(proposal.params, sort_keys=True),
        "value": trial.values[0] if trial.values and not study.pareto else None,
        "values": list(trial.values),
        "pruned_at_task": len(trial.curve) if trial.state == "pruned" else None,
        "cells": list(proposal.cells),
    }
