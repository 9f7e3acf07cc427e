"""Measuring kept minima: one Ray task an analysis, each committed exactly once, as cells are."""

import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from lmc_ray.errors import FailedError, UserError
from lmc_ray.heap import keep_freed_memory
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.learners import Setting
from lmc_ray.measuring import (
    End,
    Place,
    path_rows,
    plane_rows,
    seed_rows,
    similarity_rows,
    spectrum_rows,
)
from lmc_ray.models.weights import from_bytes
from lmc_ray.store import Store
from lmc_ray.store.files import one_line
from lmc_ray.sweep.analyses import Analysis, Plan, Weights
from lmc_ray.sweep.backoff import LOOK, reached, until_written
from lmc_ray.sweep.cells import PROTOCOL
from lmc_ray.sweep.conductor import MAX_FAILURES
from lmc_ray.sweep.events import tell
from lmc_ray.sweep.progress import Progress
from lmc_ray.sweep.runner import Machine
from lmc_ray.sweep.trainable import Workplace, benchmark_at, device_name, setting_of
from lmc_ray.version import git_commit, version

Rows = dict[str, list[dict[str, Any]]]


def run_analyses(
    plan: Plan, store: Store, workplace: Workplace, machine: Machine, console: Console
) -> bool:
    """Measure what the ledger lacks; False if interrupted (Ctrl-C). What is committed stays.

    Raises:
        UserError: the results root could not be written for too long.
        FailedError: some could not be measured, because a minimum is missing, was altered or is
            another network's, too; all others have been.
    """
    waiting = _missing(plan.analyses, store, workplace)
    done = len(plan.analyses) - len(waiting)
    remote: Any = ray.remote(
        num_cpus=workplace.threads, num_gpus=machine.gpus_per_trial, max_retries=MAX_FAILURES
    )(measure)
    running: dict[Any, Analysis] = {}
    failed: list[FailedError] = []
    with Progress(console, "measurements") as progress:
        progress.show(done, len(plan.analyses), {})
        try:
            while (waiting or running) and not INTERRUPT.seen:
                while waiting and len(running) < machine.max_concurrent:
                    analysis = waiting.pop(0)
                    files = [plan.weights[end] for end in analysis.ends]
                    running[remote.remote(workplace, analysis, files)] = analysis
                for ended in ray.wait(list(running), num_returns=1, timeout=LOOK)[0]:
                    analysis = running.pop(ended)
                    try:
                        _finish(ended, analysis)
                    except FailedError as problem:  # the others are measured all the same
                        failed.append(problem)
                    done += 1
                    progress.ran()
                    progress.show(done, len(plan.analyses), {})
        finally:
            for left in running:
                ray.cancel(left, force=True)
    if failed and not (waiting or running):
        raise FailedError("\n".join(dict.fromkeys(map(str, failed))))
    return not (waiting or running)


def measure(workplace: Workplace, analysis: Analysis, files: Sequence[Weights]) -> None:
    """Measure one analysis and commit it; runs on a worker.

    Raises:
        UserError: the results root could not be written for too long.
        FailedError: a minimum is missing, was altered or is another network's.
    """
    started_at, begin = datetime.now(UTC), time.monotonic()
    torch.set_num_threads(workplace.threads)
    keep_freed_memory()
    store = reached(lambda: Store(workplace.results), workplace.patience)
    place = analysis.place
    setting = setting_of(place, benchmark_at(workplace, place), "full")
    weights = [
        _weights(store, setting, end, file).to(setting.device)
        for end, file in zip(analysis.ends, files, strict=True)
    ]
    # Only a method's own minima are known to be finite: in a trio SGD alone may have diverged. A
    # spectrum is that of its first minimum, whatever became of later ones.
    needed = weights[:1] if analysis.kind == "spectrum" else weights
    finite = all(bool(theta.isfinite().all()) for theta in needed)
    where = Place(setting, "test", place.evaluation_group)
    tables = measured(analysis, where, weights) if finite else {}
    own = {"cell_id": analysis.id, "seed": analysis.seed}
    rows: Rows = {table: [own | row for row in each] for table, each in tables.items()}
    run = {
        "purpose": "analysis",
        "analysis": analysis.kind,
        "status": "finished" if finite else "diverged",
        "method": analysis.method,
        **asdict(place),
        "split": "test",
        "path_points": analysis.options["points"] if "paths" in tables else 0,
        "protocol": PROTOCOL,
        "config": analysis.config,
        "wall_seconds": time.monotonic() - begin,
        "device": device_name(setting.device),
        "host": socket.gethostname(),
        "version": version(),
        "git_commit": git_commit(),
        "started_at": started_at,
        "finished_at": datetime.now(UTC),
    }
    whole, attempt = rows | {"runs": [own | run]}, uuid.uuid4().hex
    until_written(
        lambda: store.commit(workplace.sweep, attempt, whole),
        store.root,
        workplace.sweep,
        workplace.patience,
    )


def measured(analysis: Analysis, place: Place, weights: Sequence[Any]) -> Rows:
    """The rows of one analysis, by table."""
    ends: Any = analysis.ends
    options: Mapping[str, Any] = analysis.options
    match analysis.kind:
        case "path":
            return path_rows(
                place, ends, tuple(weights), analysis.control, analysis.eval_tasks, **options
            )
        case "seeds":
            return seed_rows(place, ends, tuple(weights), analysis.eval_tasks, **options)
        case "plane":
            return plane_rows(place, ends, tuple(weights), analysis.eval_tasks, **options)
        case "spectrum":
            return spectrum_rows(place, ends, weights, **options)
        case "similarity":
            return similarity_rows(
                place, ends, tuple(weights), analysis.control, analysis.eval_tasks, **options
            )


def _missing(analyses: Sequence[Analysis], store: Store, workplace: Workplace) -> list[Analysis]:
    """Those that the sweep lacks, after taking over what another sweep of the root has.

    Raises:
        UserError: the results root could not be written for too long.
    """
    sweep = workplace.sweep
    ids = [each.id for each in analyses]
    found = reached(lambda: store.find(ids), workplace.patience)
    if elsewhere := [cell for cell, row in found.items() if row["sweep"] != sweep]:
        here = reached(lambda: store.committed(sweep), workplace.patience)
        if linked := {cell: {} for cell in elsewhere if cell not in here}:
            attempt = uuid.uuid4().hex
            until_written(
                lambda: store.reuse(sweep, attempt, linked),
                store.root,
                sweep,
                workplace.patience,
            )
    return [each for each in analyses if each.id not in found]


def _finish(ended: Any, analysis: Analysis) -> None:
    """Look at how a task ended.

    Raises:
        UserError: what it says.
        FailedError: what it says, or there was too little memory for it, or its worker was killed.
        RayTaskError: a defect of ours.
    """
    try:
        ray.get(ended)
    except RayTaskError as problem:
        if isinstance(problem.cause, UserError | FailedError):
            raise problem.cause from None
        if isinstance(problem.cause, torch.OutOfMemoryError):
            raise _failed(analysis, problem.cause) from None
        raise
    except RayError as problem:
        raise _failed(analysis, problem) from None
    tell("measured", f"{analysis.kind} {' '.join(map(str, analysis.ends))}: {analysis.id}")


def _failed(analysis: Analysis, problem: Exception) -> FailedError:
    of = " and ".join(map(str, analysis.ends))
    seeds = " and ".join(map(str, dict.fromkeys(end.seed for end in analysis.ends)))
    return FailedError(
        f"the {analysis.kind} of {of} (seed {seeds}) could not be measured ({one_line(problem)}):"
        " the same command tries it again"
    )


def _weights(store: Store, setting: Setting, end: End, file: Weights) -> torch.Tensor:
    """One minimum's weights.

    Raises:
        FailedError: they are missing, altered or another network's; says which cell's.
    """
    try:
        return from_bytes(setting.network, store.read_weights(file.uri, file.sha256))
    except UserError as problem:
        raise FailedError(
            f"minimum {end} of cell {end.cell_id} (seed {end.seed}): {problem}; put a copy of it"
            " back, or train it again: the same command with another --results"
        ) from None
