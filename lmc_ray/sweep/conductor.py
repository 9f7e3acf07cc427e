"""The searcher that Ray Tune asks what to run next: all studies of a sweep, and its ledger."""

import json
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from lmc_ray.errors import UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.store.files import one_line
from lmc_ray.store.presence import check_flag, plant_flag
from lmc_ray.sweep.backoff import Backoff, out_of_reach
from lmc_ray.sweep.cells import Block, Outcome
from lmc_ray.sweep.events import tell, tell_block
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes

Key = tuple[str, int | None]
"""A study's method and a number of its trials."""

_EVENTS = {"finished": "committed", "pruned": "pruned", "diverged": "diverged"}


class Conductor(Searcher):
    """Hands out blocks of all studies; what the ledger holds already is told, not run.

    Args:
        studies: in order of preference when several have something to run.
        store: the results root.
        workplace: goes to every worker.
        chance: accuracy of guessing, for diverged cells.
        changed: called whenever a block has ended; True if it has run just now.
        hindered: called with the reason whenever a commit has to wait.
    """

    def __init__(
        self,
        studies: Sequence[StudyRun],
        store: Store,
        workplace: Workplace,
        chance: float,
        changed: Callable[[bool], None],
        hindered: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.studies = studies
        self.store = store
        self.workplace = workplace
        self.changed = changed
        self.hindered = hindered
        self.ledger = stored_outcomes(store, workplace.sweep, chance)
        self.chance = chance
        self.ready: deque[tuple[StudyRun, Block]] = deque()
        """Blocks to run, in the order in which the studies gave them out."""
        self.running: dict[str, tuple[StudyRun, Block]] = {}
        self.links: dict[str, dict[str, Any]] = {}
        """Cells of other sweeps that are taken over but not committed yet, with what is new."""
        self.done = 0
        self.failed: list[Block] = []
        self.problem: UserError | None = None
        """What the user has to mend before the sweep can go on."""
        self._elsewhere: dict[str, str] = {}
        self._outcomes: dict[str, dict[str, Outcome]] = {}
        self._written: dict[Key, tuple[str, list[str]]] = {}
        self._known: dict[Key, dict[str, Any]] = {}

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
        """The next block that is not in the ledger; None while all studies wait.

        Tune's type says dictionary or None, and its protocol says `Searcher.FINISHED` at the end.
        """
        if not self.ready:
            self._advance()
        self._commit()
        if self.problem or INTERRUPT.seen:
            return Searcher.FINISHED
        if self.ready:
            self.running[trial_id] = self.ready.popleft()
            _, block = self.running[trial_id]
            missing = tuple(cell for cell in block.cells if cell.id not in self.ledger)
            if len(missing) < len(block.cells):
                # The limits are for the mean of the whole block: the study prunes it afterwards.
                block = replace(block, cells=missing, prune_below=())
            return {"block": block, "workplace": self.workplace}
        return Searcher.FINISHED if self.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take a block's outcomes, or its failure after all retries."""
        study, block = self.running.pop(trial_id)
        result = result or {}
        _tell_resumed(block, result)
        outcomes: list[tuple[str, Outcome]] | None = result.get("outcomes")
        if "lost" in result:  # neither done nor failed: the next start runs it
            tell_block("not committed", block, result["lost"])
            self.problem = self._out_of_reach(result["lost"])
            return
        if "mistake" in result:
            tell_block("not run", block, result["mistake"])
            self.problem = UserError(result["mistake"])
            return
        if error or outcomes is None:
            tell_block("failed", block)
            self.failed.append(block)
            study.tell(block, None)
        else:
            self.ledger |= dict(outcomes)
            _tell_outcomes(block, dict(outcomes), result)
            self._tell(study, block, ran=True)
        self._commit()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Between tasks there is something for the log only."""
        _, block = self.running[trial_id]
        if "waits" in result:
            tell_block("commit retried", block, result["waits"])
            self.hindered(result["waits"])
        else:
            _tell_resumed(block, result)

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
        sweep, studies = self.workplace.sweep, {run.study.method: run for run in self.studies}
        with self.store.database() as database:
            elsewhere = """
                SELECT cell_id, sweep FROM runs WHERE sweep <> ? AND status <> 'pruned'
                ORDER BY coalesce(reused_from, ''), sweep
            """
            for cell, other in database.execute(elsewhere, [sweep]).fetchall():
                self._elsewhere.setdefault(cell, other)
            cells = "SELECT study, trial, config FROM runs WHERE sweep = ? ORDER BY cell_id"
            for name, trial, config in database.execute(cells, [sweep]).fetchall():
                if name in studies:
                    values = json.loads(config)
                    if difference := studies[name].difference(values):
                        raise self._other_sweep(f"{name}: {difference}")
                    if trial is not None:
                        self._known[name, trial] = {n: values[n] for n in studies[name].space}
            trials = "SELECT study, number, params, state, cells FROM trials WHERE sweep = ?"
            for name, trial, params, state, ids in database.execute(trials, [sweep]).fetchall():
                self._known[name, trial] = json.loads(params)
                self._written[name, trial] = state, ids
        for (name, trial), params in self._known.items():
            if name in studies and studies[name].protocol.asynchronous:
                studies[name].repeat[trial] = params

    def _advance(self) -> None:
        """Take blocks from the studies until all of them wait, or one has to run if asynchronous.

        Whatever the root holds is told at once.
        """
        moved = True
        while moved:
            moved = False
            for study in self.studies:
                while (block := study.next()) is not None:
                    moved = True
                    if self._foreign(study, block):
                        self.problem = self._other_sweep("another search space or other options")
                        return
                    self._reuse(block)
                    if all(cell.id in self.ledger for cell in block.cells):
                        self._tell(study, block, ran=False)
                    elif self._failed_before(study, block):
                        study.tell(block, None)
                    else:
                        self.ready.append((study, block))
                        if study.protocol.asynchronous:
                            return

    def _tell(self, study: StudyRun, block: Block, *, ran: bool) -> None:
        study.tell(block, {cell.id: self.ledger[cell.id] for cell in block.cells})
        self.done += 1
        self.changed(ran)

    def _foreign(self, study: StudyRun, block: Block) -> bool:
        """Whether the ledger has another proposal under this number: another sweep's name."""
        if block.trial is None or study.stage != "search":
            return False
        key = study.study.method, block.trial
        params = study.proposals[block.trial].params
        _, cells = self._written.get(key, ("", [cell.id for cell in block.cells]))
        same = [cell.id for cell in block.cells] == cells
        return not same or self._known.get(key, params) != params

    def _other_sweep(self, reason: str) -> UserError:
        return UserError(
            f"sweep '{self.workplace.sweep}' was made with other options ({reason}):"
            " choose another --name, or leave it out"
        )

    def _failed_before(self, study: StudyRun, block: Block) -> bool:
        """Whether this trial is known to have failed: later ones may have been proposed on that."""
        state, _ = self._written.get((study.study.method, block.trial), ("", []))
        return study.stage == "search" and state == "failed"

    def _reuse(self, block: Block) -> None:
        """Take over cells that another sweep of this root has run.

        A pruned cell is no result of its specification alone, so it is not taken over.
        """
        for cell in block.cells:
            if cell.id in self._elsewhere and cell.id not in self.ledger:
                other = self._elsewhere[cell.id]
                if other not in self._outcomes:
                    self._outcomes[other] = stored_outcomes(self.store, other, self.chance)
                self.ledger[cell.id] = self._outcomes[other][cell.id]
                self.links[cell.id] = {"study": block.study, "trial": block.trial}
                tell_block("taken over", block, f"from sweep {other}", [cell.id])

    def _commit(self) -> None:
        """Commit what has come up, in several tries if it must be; `problem` says if in vain."""
        backoff = Backoff(self.workplace.patience)
        while not self.problem:
            try:
                check_flag(self.store.root)
                self._write()
                return
            except OSError as problem:
                tell("commit retried", f"trials and cells taken over: {problem}")
                self.hindered(one_line(problem))
                if not backoff.wait():
                    if not INTERRUPT.seen:
                        self.problem = self._out_of_reach(one_line(problem))
                    return
            except UserError as problem:
                self.problem = problem

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
        size = study.protocol.generation
        for start in range(0, len(study.proposals), size):
            numbers = range(start, min(start + size, study.trials))
            if len(study.proposals) < numbers.stop:
                return
            new = [n for n in numbers if (study.study.method, n) not in self._written]
            rows = [row for number in new if (row := _trial_row(study, number))]
            if new and len(rows) == len(new):
                self.store.commit(self.workplace.sweep, uuid.uuid4().hex, {"trials": rows})
                self._written |= {
                    (study.study.method, row["number"]): (row["state"], row["cells"])
                    for row in rows
                }


def _tell_resumed(block: Block, result: Mapping[str, Any]) -> None:
    """With the first result after it."""
    if result.get("resumed") and result["resumed"] == result["task"] - 1:
        tell_block("resumed", block, f"after task {result['resumed']} on {_host(result)}")


def _tell_outcomes(
    block: Block, outcomes: Mapping[str, Outcome], result: Mapping[str, Any]
) -> None:
    for status, event in _EVENTS.items():
        cells = [cell for cell, outcome in outcomes.items() if outcome.status == status]
        if cells:
            tasks = f"{result['task']} tasks on {_host(result)}"
            tell_block(event, block, f"accuracy {result['accuracy']:.4f} after {tasks}", cells)


def _host(result: Mapping[str, Any]) -> str:
    """Where Tune says that a result comes from."""
    return f"{result.get('hostname')}, process {result.get('pid')}"


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
        "params": json.dumps(proposal.params, sort_keys=True),
        "value": trial.values[0] if trial.values and not study.pareto else None,
        "values": list(trial.values),
        "pruned_at_task": len(trial.curve) if trial.state == "pruned" else None,
        "cells": [cell.id for cell in proposal.block.cells],
    }
