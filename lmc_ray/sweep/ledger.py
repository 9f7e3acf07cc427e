"""The ledger of a sweep: what the results root holds of it, and what has yet to be written."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.store.files import one_line
from lmc_ray.store.presence import check_flag, plant_flag
from lmc_ray.sweep.backoff import Backoff, out_of_reach, reached
from lmc_ray.sweep.cells import Block, Outcome
from lmc_ray.sweep.events import tell, tell_block
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes

Key = tuple[str, str, int | None]
"""A study's benchmark and name, and a number of its trials."""


class Ledger:
    """What the root holds of the studies' cells and trials.

    Workers commit cells themselves; trials, and cells taken over from other sweeps, are the
    driver's to commit. A driver that starts again knows from here what is not to be run again.

    Args:
        studies: those of the sweep, or some of them.
        store: the results root.
        workplace: names the sweep, and says how long to wait for a root that is away.
        chances: accuracy of guessing, for diverged cells, by benchmark.
        waits: told the reason whenever the root has to be waited for.
        several: whether the sweep may hold other benchmarks than these studies'.
    """

    def __init__(
        self,
        studies: Sequence[StudyRun],
        store: Store,
        workplace: Workplace,
        chances: Mapping[str, float],
        waits: Callable[[str], None],
        *,
        several: bool,
    ) -> None:
        self.outcomes = stored_outcomes(store, workplace.sweep, chances)
        """Of every cell that has ended, by its id."""
        self._studies = studies
        self._store = store
        self._workplace = workplace
        self._chances = chances
        self._waits = waits
        self._several = several
        self._elsewhere: dict[str, str] = {}
        """Another sweep that has run a cell, by the cell's id."""
        self._of_others: dict[str, dict[str, Outcome]] = {}
        """Outcomes of such sweeps, read where they are wanted."""
        self._taken_over: dict[str, dict[str, Any]] = {}
        """Cells of theirs that are not committed for this sweep yet, with what is new."""
        self._written: dict[Key, tuple[str, list[str]]] = {}
        """Trials that earlier starts have committed: their states and cells."""
        self._known: dict[Key, dict[str, Any]] = {}
        """Configurations that earlier starts have tried."""
        self._studies_of: dict[str, str] = {}
        """Which study an earlier start ran a cell for, by the cell's id."""
        self._unwritten = {
            study.key: list(range(0, study.trials, study.protocol.generation)) for study in studies
        }
        """Where the generations begin whose trials are not committed."""

    def read(self) -> None:
        """What the root knows of this sweep's trials, and of its cells elsewhere.

        Raises:
            UserError: the sweep's cells are not of these studies.
        """
        sweep, studies = self._workplace.sweep, {study.key: study for study in self._studies}
        with self._store.database() as database:
            elsewhere = """
                SELECT cell_id, sweep FROM runs WHERE sweep <> ? AND status <> 'pruned'
                ORDER BY coalesce(reused_from, ''), sweep
            """
            for cell, other in database.execute(elsewhere, [sweep]).fetchall():
                self._elsewhere.setdefault(cell, other)
            cells = """
                SELECT benchmark, coalesce(study, method), trial, config, cell_id FROM runs
                WHERE sweep = ? ORDER BY cell_id
            """
            for benchmark, name, trial, config, cell in database.execute(cells, [sweep]).fetchall():
                self._studies_of[cell] = name
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

    def plant_flag(self) -> None:
        """Mark the root, so that a root that is away later is not taken for an empty one.

        Raises:
            UserError: nothing can be written there.
        """
        try:
            plant_flag(self._store.root)
        except OSError as problem:
            raise self.out_of_reach(one_line(problem)) from None

    def holds(self, block: Block) -> bool:
        """Whether all cells of a block have ended."""
        return all(cell.id in self.outcomes for cell in block.cells)

    def of(self, block: Block) -> dict[str, Outcome]:
        """The outcomes of a block whose cells have all ended, by id."""
        return {cell.id: self.outcomes[cell.id] for cell in block.cells}

    def missing(self, block: Block) -> Block:
        """The part of a block that it lacks."""
        missing = tuple(cell for cell in block.cells if cell.id not in self.outcomes)
        if len(missing) == len(block.cells):
            return block
        # The limits are for the mean of the whole block: the study prunes it afterwards.
        return replace(block, cells=missing, prune_below=())

    def failed(self, study: StudyRun, block: Block) -> bool:
        """Whether the block is a trial that failed before an earlier start ended."""
        state, _ = self._written.get((*study.key, block.trial), ("", []))
        return study.stage == "search" and state == "failed"

    def check(self, study: StudyRun, block: Block) -> None:
        """Compare a block with what the root has in its place.

        Raises:
            UserError: its cells are another study's; it is a trial and another proposal, or pruned
                by other proposals' medians: the sweep's name belongs to another search.
        """
        for cell in block.cells:
            if (name := self._studies_of.get(cell.id, block.study)) != block.study:
                raise self._other_sweep(f"what is {block.study} now was {name}")
        if block.trial is None or study.stage != "search":
            return
        key = *study.key, block.trial
        cells = [cell.id for cell in block.cells]
        params = study.proposals[block.trial].params
        same = self._known.get(key, params) == params
        same &= self._written.get(key, ("", cells))[1] == cells
        if not same or self._pruned_elsewhere(study, block):
            raise self._other_sweep("another search space or other options")

    def take_over(self, block: Block) -> None:
        """Take over cells that another sweep of this root has run.

        A pruned cell is no result of its specification alone, so it is not taken over.

        Raises:
            UserError: the root is away for too long.
        """
        for cell in block.cells:
            if cell.id in self._elsewhere and cell.id not in self.outcomes:
                other = self._elsewhere[cell.id]
                if other not in self._of_others:
                    self._of_others[other] = self._stored(other)
                if cell.id not in self._of_others[other]:
                    return  # the sweep is at its end
                self.outcomes[cell.id] = self._of_others[other][cell.id]
                self._taken_over[cell.id] = {"study": block.study, "trial": block.trial}
                tell_block("taken over", block, f"from sweep {other}", [cell.id])

    def commit(self) -> None:
        """Commit what has come up, in several tries if it must be, until Ctrl-C.

        Raises:
            UserError: the root is away for too long.
        """
        backoff = Backoff(self._workplace.patience)
        while True:
            try:
                check_flag(self._store.root)
                self._write()
                return
            except (OSError, UnavailableError) as problem:
                tell("commit retried", f"trials and cells taken over: {problem}")
                self._waits(one_line(problem))
                if not backoff.wait():
                    if INTERRUPT.seen:
                        return
                    raise self.out_of_reach(one_line(problem)) from None

    def out_of_reach(self, reason: str) -> UserError:
        """The error of a root that was waited for in vain."""
        return out_of_reach(self._store.root, self._workplace.sweep, reason)

    @property
    def _only_benchmark(self) -> str | None:
        """Meant where an old file names none and every cell of its trials has failed."""
        benchmarks = {benchmark for benchmark, _ in (study.key for study in self._studies)}
        return benchmarks.pop() if len(benchmarks) == 1 else None

    def _study_of(self, benchmark: str, name: str) -> StudyRun | None:
        """The study that a stored cell belongs to, if it is among these.

        Where the sweep has one benchmark, a cell on another is the study's all the same: it gives
        the other sweep away.
        """
        for study in self._studies:
            if study.key == (benchmark, name) or (not self._several and study.study.name == name):
                return study
        return None

    def _pruned_elsewhere(self, study: StudyRun, block: Block) -> bool:
        """Whether a cell was pruned where this block has no limit."""
        if study.protocol.asynchronous:
            return False
        ended = (self.outcomes.get(cell.id) for cell in block.cells)
        tasks = [len(each.curve) for each in ended if each and each.status == "pruned"]
        limits = block.prune_below
        return any(not 0 < t <= len(limits) or limits[t - 1] is None for t in tasks)

    def _other_sweep(self, reason: str) -> UserError:
        return UserError(
            f"sweep '{self._workplace.sweep}' was made with other options ({reason}):"
            " choose another --name, or leave it out"
        )

    def _stored(self, sweep: str) -> dict[str, Outcome]:
        """Those of another sweep's cells; none after Ctrl-C while the root is away."""
        try:
            return reached(
                lambda: stored_outcomes(self._store, sweep, self._chances),
                self._workplace.patience,
                self._waits,
            )
        except UnavailableError as problem:
            if INTERRUPT.seen:
                return {}
            raise self.out_of_reach(str(problem)) from None

    def _write(self) -> None:
        """Commit the cells taken over, then the trials of every generation that is whole now."""
        if self._taken_over:
            self._store.reuse(self._workplace.sweep, uuid.uuid4().hex, self._taken_over)
            self._taken_over = {}
        for study in self._studies:
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
                    self._store.commit(self._workplace.sweep, uuid.uuid4().hex, {"trials": rows})
                unwritten.remove(start)


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
