"""Running a sweep: studies on one side, Ray Tune on the other, the ledger between."""

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray import tune
from ray.tune import (
    Callback,
    CheckpointConfig,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    Stopper,
    TuneConfig,
    Tuner,
)
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from rich.console import Console

from lmc_ray.benchmarks import Benchmark
from lmc_ray.errors import FailedError, UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.sweep.cells import Block, Pack
from lmc_ray.sweep.checkpoints import Checkpoints
from lmc_ray.sweep.claim import claimed
from lmc_ray.sweep.cluster import Resources, check_shared
from lmc_ray.sweep.conductor import MAX_FAILURES, Conductor
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.events import open_log, tell, tell_block
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.progress import Progress
from lmc_ray.sweep.study import Protocol, StudyRun, titles
from lmc_ray.sweep.trainable import StackTrainable, Workplace
from lmc_ray.training import chance_accuracy

IDLE = 30.0
"""Seconds without a trial at work after which a sweep on a cluster says that it waits."""


@dataclass(frozen=True)
class Machine:
    """How much of the cluster one pack takes, how many run at a time, and what is in them."""

    gpus_per_trial: float
    max_concurrent: int
    packing: Packing


def sweep_name(script: str, parts: Sequence[tuple[Protocol, Sequence[Study]]]) -> str:
    """A name that follows from the spec: the same command goes on, another one starts anew.

    Args:
        script: its name.
        parts: how what is run, by benchmark.
    """
    specs = [([_spec(each) for each in studies], asdict(protocol)) for protocol, studies in parts]
    spec = repr(specs[0] if len(specs) == 1 else specs)
    where = "-".join(protocol.place.benchmark for protocol, _ in parts)
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{script}-{where}").lstrip(".-")[:80]
    return f"{readable}-{hashlib.sha256(spec.encode()).hexdigest()[:6]}"


def _spec(study: Study) -> dict[str, Any]:
    """All that a study says; what came later only where it is set, so that old names stay."""
    said = asdict(study)
    return {n: said[n] for n in said if n not in ("label", "preset") or said[n] is not None}


def run_sweep(
    studies: Sequence[StudyRun],
    benchmarks: Sequence[Benchmark],
    store: Store,
    workplace: Workplace,
    machines: Mapping[str, Machine],
    resources: Resources,
    console: Console,
    *,
    several: bool = False,
) -> bool:
    """Run what the ledger lacks; False if interrupted (Ctrl-C). What is committed stays.

    Args:
        studies: what to run.
        benchmarks: what they run on.
        store: the results root.
        workplace: goes to every worker.
        machines: what a block takes, by its benchmark's name.
        resources: the cluster.
        console: for people.
        several: whether the sweep may hold other benchmarks too.

    Raises:
        UserError: the name belongs to another sweep or is at work already, a node does not see the
            results, or they could not be written for too long.
        FailedError: a block failed for good; all others have been run.
    """
    try:
        console.out(f"log: {open_log(workplace.sweep)}")
    except OSError as problem:
        console.out(f"no log ({problem}): LMC_LOGS may name a folder for it")
    tell("sweep", f"{workplace.sweep} in {workplace.results}: started")
    try:
        root = workplace.results
        if "://" not in root:
            root = str(Path(root).resolve())  # one claim, by whatever link a driver knows the root
        claim = claimed(workplace.sweep, root) if resources.joined else nullcontext()
        with claim:
            whole = _run(
                studies,
                benchmarks,
                store,
                workplace,
                machines,
                resources,
                console,
                several=several,
            )
    except (UserError, FailedError) as problem:
        tell("sweep", f"{workplace.sweep} stopped: {problem}")
        raise
    tell("sweep", f"{workplace.sweep} {'done' if whole else 'interrupted'}")
    return whole


def _run(
    studies: Sequence[StudyRun],
    benchmarks: Sequence[Benchmark],
    store: Store,
    workplace: Workplace,
    machines: Mapping[str, Machine],
    resources: Resources,
    console: Console,
    *,
    several: bool,
) -> bool:
    """As `run_sweep`, for the only driver of the sweep."""
    folder = workplace.results.removeprefix("file://")
    if resources.nodes > 1 and "://" not in folder:
        check_shared(folder)

    with Progress(console) as progress:

        def changed(ran: bool) -> None:
            if ran:
                progress.ran()
            best = dict(zip(titles(studies), (study.best for study in studies), strict=True))
            total = sum(study.total_blocks for study in studies)
            known = {title: value for title, value in best.items() if value is not None}
            progress.show(conductor.done, total, known)

        conductor = Conductor(
            studies,
            store,
            workplace,
            {benchmark.name: chance_accuracy(benchmark) for benchmark in benchmarks},
            {name: machine.packing for name, machine in machines.items()},
            changed,
            progress.hindered,
            several=several,
        )
        conductor.start()
        callbacks: list[Callback] = [_Log(conductor), _Forget()]
        if resources.joined:
            callbacks.append(_Idle(conductor))
        problem = None if INTERRUPT.seen else _tune(conductor, workplace, machines, callbacks)
    if conductor.problem:
        raise conductor.problem
    if conductor.failed:
        tries = f"{MAX_FAILURES + 1} times each: {problem}"
        reason = "out of memory with one replica" if conductor.too_large else tries
        raise FailedError(_failure(conductor.failed, reason))
    if conductor.finished:
        Checkpoints(workplace.results, workplace.sweep).clear([study.key for study in studies])
    return conductor.finished


def _tune(
    conductor: Conductor,
    workplace: Workplace,
    machines: Mapping[str, Machine],
    callbacks: list[Callback],
) -> BaseException | None:
    """Let Tune work through the conductor's packs; the error of one that failed for good."""
    # Tune would put credentials into its actors' runtime environment, and Ray writes that to its
    # logs. Workers have those of their node.
    ENV_VARS_TO_PROPAGATE.difference_update(
        [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
    )
    # Tune keeps its state in a folder that nobody needs: the ledger and our checkpoints are ours.
    with TemporaryDirectory(prefix="lmc-ray-", ignore_cleanup_errors=True) as scratch:
        tuner = Tuner(
            tune.with_resources(StackTrainable, resources_of(workplace, machines)),
            tune_config=TuneConfig(
                search_alg=conductor,
                num_samples=-1,  # until the conductor is finished
                # Of those that take more, Ray starts as many as fit.
                max_concurrent_trials=max(each.max_concurrent for each in machines.values()),
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name=workplace.sweep,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                stop=_Stop(conductor),
                callbacks=callbacks,
                verbose=0,
            ),
        )
        ended = [each for each in tuner.fit() if Path(each.path).name in conductor.given_up]
    return ended[0].error if ended else None


def resources_of(
    workplace: Workplace, machines: Mapping[str, Machine]
) -> Callable[[Mapping[str, Any]], PlacementGroupFactory]:
    """What Tune is to set aside for a pack: those of two benchmarks may take different shares."""
    shares = {benchmark: machine.gpus_per_trial for benchmark, machine in machines.items()}

    def of_pack(config: Mapping[str, Any]) -> PlacementGroupFactory:
        share = shares[config["pack"].cells[0].place.benchmark]
        return PlacementGroupFactory([{"CPU": workplace.threads, "GPU": share}])

    return of_pack


class _Stop(Stopper):
    """Ends a sweep that was interrupted, or cannot go on before the user has mended something."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single pack is stopped from outside."""
        return False

    def stop_all(self) -> bool:
        """Asked by Tune again and again."""
        return INTERRUPT.seen or self._conductor.problem is not None


class _Log(Callback):
    """What only Tune knows, for the log and the conductor."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has taken the pack up."""
        for block in trial.config["pack"].blocks:
            tell_block("started", block)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The pack has lost its worker, or its worker an error."""
        self._conductor.recovered[trial.trial_id] += 1
        failures = f"failure {trial.run_metadata.num_failures} of {MAX_FAILURES + 1} at most"
        # Tune adds each failure to a file: a heading, then a dead worker's message or a traceback.
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = told.rpartition("Failure #")[2].strip().splitlines()[1:] or ["?"]
        reason = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
        for block in trial.config["pack"].blocks:
            tell_block("tried again", block, f"{failures}: {reason}")


class _Idle(Callback):
    """Says so when nothing is at work: a cluster may never get the machines that it waits for."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._at_work, self._since = set[str](), time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has taken the pack up."""
        self._at_work.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has come to its end."""
        self._at_work.discard(trial.trial_id)

    on_trial_recover = on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune again and again."""
        if self._at_work:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > IDLE:
            now = ray.cluster_resources()
            self._conductor.hindered(
                f"waiting for machines: no trial is at work, and the cluster has"
                f" {now.get('CPU', 0):g} CPUs and {now.get('GPU', 0):g} GPUs now (`ray status`"
                " on its head says what is asked for, and why it does not come)"
            )
            self._since = time.monotonic()


class _Forget(Callback):
    """Empties trials that have ended: Tune keeps them all, and nobody reads them again."""

    def __init__(self) -> None:
        self._ended: deque[Any] = deque()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune is still busy with this one: those before it are emptied."""
        while self._ended and self._ended[0].is_finished():
            old = self._ended.popleft()
            old.config = old.evaluated_params = old._Trial__unresolved_config = {}
            old._default_result_or_future = None
            kept = old.run_metadata
            kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
        self._ended.append(trial)


def _trial_name(trial: Any) -> str:
    pack: Pack = trial.config["pack"]
    first, more = pack.blocks[0], len(pack.blocks) - 1
    purpose = first.cells[0].purpose if first.trial is None else f"trial {first.trial}"
    name = f"{first.study} on {first.cells[0].place.benchmark} {purpose}"
    return f"{name}{f' and {more} more' if more else ''}"


def _failure(failed: list[Block], reason: str) -> str:
    cells = ", ".join(cell.id for block in failed for cell in block.cells)
    return f"{len(failed)} blocks failed (cells {cells}), {reason}"
