"""Running a sweep: studies on one side, Ray Tune on the other, the ledger between."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pyarrow.fs import FileSelector, LocalFileSystem
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from rich.console import Console

from lmc_ray.benchmarks import Benchmark
from lmc_ray.errors import UserError
from lmc_ray.learners import METHODS
from lmc_ray.store import Store
from lmc_ray.store.files import open_root
from lmc_ray.sweep.cells import Block
from lmc_ray.sweep.cluster import Resources, check_shared
from lmc_ray.sweep.conductor import Conductor
from lmc_ray.sweep.progress import Progress
from lmc_ray.sweep.study import Protocol, Study, StudyRun
from lmc_ray.sweep.trainable import StackTrainable, Workplace
from lmc_ray.training import chance_accuracy

MAX_FAILURES = 3
"""How often a block may lose its worker before it counts as failed."""


@dataclass(frozen=True)
class Machine:
    """How much of the cluster one block takes, and how many run at a time."""

    gpus_per_trial: float
    max_concurrent: int


def sweep_name(script: str, benchmark: str, studies: Sequence[Study], protocol: Protocol) -> str:
    """A name that follows from the spec: the same command goes on, another one starts anew."""
    spec = repr(([asdict(study) for study in studies], asdict(protocol)))
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{script}-{benchmark}").lstrip(".-")[:80]
    return f"{readable}-{hashlib.sha256(spec.encode()).hexdigest()[:6]}"


def run_sweep(
    studies: Sequence[StudyRun],
    benchmark: Benchmark,
    store: Store,
    workplace: Workplace,
    machine: Machine,
    resources: Resources,
    console: Console,
) -> bool:
    """Run what the ledger lacks; False if interrupted (Ctrl-C). What is committed stays.

    Raises:
        UserError: the name belongs to another sweep, or a node does not see the results.
        RuntimeError: a block failed for good; all others have been run.
    """
    if resources.nodes > 1 and "://" not in store.root:
        check_shared(store.root)

    with Progress(console) as progress:

        def changed(ran: bool) -> None:
            if ran:
                progress.ran()
            best = {METHODS[s.study.method].title: s.best for s in studies}
            total = sum(study.total_blocks for study in studies)
            known = {title: value for title, value in best.items() if value is not None}
            progress.show(conductor.done, total, known)

        conductor = Conductor(studies, store, workplace, chance_accuracy(benchmark), changed)
        conductor.start()
        problem = _tune(conductor, store, workplace, machine)
    if conductor.problem:
        raise conductor.problem
    if conductor.failed:
        raise RuntimeError(_failure(conductor.failed, problem))
    return conductor.finished


def _tune(
    conductor: Conductor, store: Store, workplace: Workplace, machine: Machine
) -> BaseException | None:
    """Let Tune work through the conductor's blocks; the first error of a block, if any."""
    filesystem, base = open_root(workplace.results)
    scratch = f"{base}/.ray"
    resources = {"cpu": workplace.threads, "gpu": machine.gpus_per_trial}
    tuner = Tuner(
        tune.with_resources(StackTrainable, resources),
        tune_config=TuneConfig(
            search_alg=conductor,
            num_samples=-1,  # until the conductor is finished
            max_concurrent_trials=machine.max_concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name=workplace.sweep,
            storage_path=scratch,
            storage_filesystem=None if isinstance(filesystem, LocalFileSystem) else filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(
                checkpoint_frequency=1, checkpoint_at_end=False, num_to_keep=1
            ),
            verbose=0,
        ),
    )
    errors = tuner.fit().errors
    # Other sweeps of this root may be running and have their checkpoints beside ours.
    with suppress(OSError):
        filesystem.delete_dir(f"{scratch}/{workplace.sweep}")
        if not filesystem.get_file_info(FileSelector(scratch)):
            filesystem.delete_dir(scratch)
    return errors[0] if errors else None


def _trial_name(trial: Any) -> str:
    block: Block = trial.config["block"]
    purpose = "confirm" if block.trial is None else f"trial {block.trial}"
    return f"{block.study} {purpose}"


def _failure(failed: list[Block], problem: BaseException | None) -> str:
    cells = ", ".join(cell.id for block in failed for cell in block.cells)
    return f"{len(failed)} blocks failed {MAX_FAILURES + 1} times each (cells {cells}): {problem}"


__all__ = ["Machine", "UserError", "run_sweep", "sweep_name"]
