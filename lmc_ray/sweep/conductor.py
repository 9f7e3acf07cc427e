"""The searcher that Ray Tune asks what to run next: all studies of a sweep take turns."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher

from lmc_ray.errors import UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.sweep.cells import Block, Outcome, Pack
from lmc_ray.sweep.events import tell_block
from lmc_ray.sweep.ledger import Ledger
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace

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
        self.workplace = workplace
        self.changed = changed
        self.hindered = hindered
        self.packings = packings
        self.ledger = Ledger(
            studies, store, workplace, chances, self._wait_for_root, several=several
        )
        self.ready: deque[tuple[StudyRun, list[Block]]] = deque()
        """Packs to run, in the order in which the studies gave them out; their blocks are whole."""
        self.running: dict[str, tuple[StudyRun, list[Block]]] = {}
        self.fits: dict[str, int] = {}
        """Replicas of a stack, by benchmark, where more have run out of memory."""
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

    def start(self) -> None:
        """Take up what the root holds; to be called once, before the first `suggest`.

        Raises:
            UserError: the sweep's name belongs to a sweep with other options, or the root is gone.
        """
        self.ledger.read()
        if not any(study.protocol.asynchronous for study in self.studies):
            self._advance()  # whatever gives a foreign name away comes up here
        self.ledger.plant_flag()

    @property
    def finished(self) -> bool:
        """Whether every study is done."""
        return all(study.stage == "done" for study in self.studies)

    def suggest(self, trial_id: str) -> Any:
        """The next pack of what is not in the ledger; None while all studies wait.

        Tune's type says dictionary or None, and its protocol says `Searcher.FINISHED` at the end.
        """
        self._unless_hindered(self._advance)
        self._unless_hindered(self.ledger.commit)
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
            self.problem = self.ledger.out_of_reach(result["lost"])
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
        self.ledger.outcomes |= ended
        for block in blocks:
            if ended:
                _tell_outcomes(block, ended, result)
                if self.ledger.holds(block):
                    self._tell(study, block, ran=True)
                else:  # it did not fit into one stack
                    self.ready.appendleft((study, [block]))
            else:
                tell_block("failed", block)
                self.failed.append(block)
                study.tell(block, None)
        self._unless_hindered(self.ledger.commit)

    def _unless_hindered(self, step: Callable[[], None]) -> None:
        """Take a step, unless the user has to mend something first; `problem` says so then."""
        if not self.problem:
            try:
                step()
            except UserError as problem:
                self.problem = problem

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

    def _fitting(self, study: StudyRun, blocks: Sequence[Block]) -> Pack:
        """What of these blocks goes into the next stack: all, where that much memory is."""
        fits = self.fits.get(study.protocol.place.benchmark)
        pack: list[Block] = []
        for block in map(self.ledger.missing, blocks):
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

        Raises:
            UserError: as `Ledger.check` and `Ledger.take_over`.
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
                    self.ledger.check(study, block)
                    # Whatever has become of its cells since: later ones were proposed on that.
                    if self.ledger.failed(study, block):
                        study.tell(block, None)
                        continue
                    self.ledger.take_over(block)
                    if self.ledger.holds(block):
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
        study.tell(block, self.ledger.of(block))
        self.done += 1
        self.changed(ran)

    def _wait_for_root(self, reason: str) -> None:
        self.hindered(f"waiting for the results root: {reason}")


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
