"""The searcher that Ray Tune asks what to run next: all studies of a sweep, and its ledger."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from lmc_ray.errors import UserError
from lmc_ray.store import Store
from lmc_ray.sweep.cells import Block, Outcome
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes


class Conductor(Searcher):
    """Hands out blocks of all studies; what the ledger holds already is told, not run.

    Args:
        studies: in order of preference when several have something to run.
        store: the results root.
        workplace: goes to every worker.
        chance: accuracy of guessing, for diverged cells.
        changed: called whenever a block has ended; True if it has run just now.
    """

    def __init__(
        self,
        studies: Sequence[StudyRun],
        store: Store,
        workplace: Workplace,
        chance: float,
        changed: Callable[[bool], None],
    ) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.studies = studies
        self.store = store
        self.workplace = workplace
        self.changed = changed
        self.ledger = stored_outcomes(store, workplace.sweep, chance)
        self.chance = chance
        self.running: dict[str, tuple[StudyRun, Block]] = {}
        self.done = 0
        self.failed: list[Block] = []
        self.problem: UserError | None = None
        with store.database() as database:
            elsewhere = "SELECT cell_id FROM runs WHERE sweep <> ? AND status <> 'pruned'"
            found = database.execute(elsewhere, [workplace.sweep]).fetchall()
            self.elsewhere = {cell for (cell,) in found}
            known = "SELECT study, number, params FROM trials WHERE sweep = ?"
            rows = database.execute(known, [workplace.sweep]).fetchall()
            self.known = {(study, number): params for study, number, params in rows}

    @property
    def finished(self) -> bool:
        """Whether every study is done."""
        return all(study.stage == "done" for study in self.studies)

    def suggest(self, trial_id: str) -> Any:
        """The next block that is not in the ledger; None while all studies wait.

        Tune's type says dictionary or None, and its protocol says `Searcher.FINISHED` at the end.
        """
        moved = True
        while moved:
            moved = False
            for study in self.studies:
                while (block := study.next()) is not None:
                    moved = True
                    if self._foreign(study, block):
                        return Searcher.FINISHED
                    self._reuse(block)
                    missing = tuple(cell for cell in block.cells if cell.id not in self.ledger)
                    if missing:
                        self.running[trial_id] = (study, block)
                        run = replace(block, cells=missing)
                        return {"block": run, "workplace": self.workplace}
                    self._tell(study, block, ran=False)
        return Searcher.FINISHED if self.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take a block's outcomes, or its failure after all retries."""
        study, block = self.running.pop(trial_id)
        outcomes: list[tuple[str, Outcome]] | None = (result or {}).get("outcomes")
        if error or outcomes is None:
            self.failed.append(block)
            study.tell(block, None)
            return
        self.ledger |= dict(outcomes)
        self._tell(study, block, ran=True)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to learn between tasks."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher so as to restore it; ours is rebuilt from the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _tell(self, study: StudyRun, block: Block, *, ran: bool) -> None:
        study.tell(block, {cell.id: self.ledger[cell.id] for cell in block.cells})
        self.done += 1
        self._write_trials(study)
        self.changed(ran)

    def _foreign(self, study: StudyRun, block: Block) -> bool:
        """Whether the ledger has another proposal under this number: another sweep's name."""
        if block.trial is None or study.stage != "search":
            return False
        known = self.known.get((study.study.method, block.trial))
        if known in (None, _params(study, block.trial)):
            return False
        self.problem = UserError(
            f"sweep '{self.workplace.sweep}' was made with another search space or other options:"
            " choose another --name, or leave it out"
        )
        return True

    def _reuse(self, block: Block) -> None:
        """Take over cells that another sweep of this root has run.

        A pruned cell is no result of its specification alone, so it is not taken over.
        """
        there = [
            cell.id
            for cell in block.cells
            if cell.id in self.elsewhere and cell.id not in self.ledger
        ]
        if there:
            changes = {cell: {"study": block.study, "trial": block.trial} for cell in there}
            self.store.reuse(self.workplace.sweep, uuid.uuid4().hex, changes)
            self.ledger |= stored_outcomes(self.store, self.workplace.sweep, self.chance)

    def _write_trials(self, study: StudyRun) -> None:
        """Commit the trials of every generation that is whole now."""
        size = study.protocol.generation
        for start in range(0, study.trials, size):
            numbers = range(start, min(start + size, study.trials))
            if len(study.proposals) < numbers.stop:
                return
            new = [n for n in numbers if (study.study.method, n) not in self.known]
            rows = [row for number in new if (row := _trial_row(study, number))]
            if new and len(rows) == len(new):
                self.store.commit(self.workplace.sweep, uuid.uuid4().hex, {"trials": rows})
                self.known |= {(study.study.method, n): _params(study, n) for n in new}


def _trial_row(study: StudyRun, number: int) -> dict[str, Any] | None:
    proposal = study.proposals[number]
    trial = proposal.trial
    if trial is None:
        return None
    return {
        "study": study.study.method,
        "number": number,
        "generation": study.generation(number),
        "state": trial.state,
        "params": _params(study, number),
        "value": trial.values[0] if trial.values and not study.pareto else None,
        "values": list(trial.values),
        "pruned_at_task": len(trial.curve) if trial.state == "pruned" else None,
        "cells": [cell.id for cell in proposal.block.cells],
    }


def _params(study: StudyRun, number: int) -> str:
    return json.dumps(study.proposals[number].params, sort_keys=True)
