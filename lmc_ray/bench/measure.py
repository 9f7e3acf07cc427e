"""One measurement: all workers at once, the device's peaks in the same run, and what follows.

FLOPs are counted from layer shapes, forward and backward, without the gradient of the images. Bytes
are those that a step must move at least: the parameters read forward and backward, the gradient
written, and the update's five passes.
"""

import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from lmc_ray.bench.memory import predicted_bytes
from lmc_ray.bench.peak import copy_bytes, matrix_flops
from lmc_ray.bench.worker import Sample, Workload, work
from lmc_ray.benchmarks import load
from lmc_ray.device import choose_device
from lmc_ray.learners import hyperparameters
from lmc_ray.learners.evaluation import EVALUATION_GROUP
from lmc_ray.learners.hyperparameters import batches_of
from lmc_ray.models import build

_PASSES = 8
"""Over the parameters, of a step: see above."""


class WorkerError(Exception):
    """A worker failed; one line that says how."""


@dataclass(frozen=True)
class Speed:
    """What was measured; sums over all workers, which ran at the same time."""

    device: str
    workload: Workload
    peak_flops: float
    """FLOP/s of the best fp32 matrix product."""
    peak_bytes: float
    """Bytes/s of the best copy."""
    steps_per_second: float
    """Replica-steps: mini-batch gradients of one replica, with their update."""
    flops_per_second: float
    """In training, connection steps included."""
    bytes_per_second: float
    evaluation_flops_per_second: float
    cell_seconds: float
    """Of one worker, per replica: all tasks trained, and all learned tasks evaluated after each."""
    cells_per_hour: float
    cell_flops_per_second: float
    """Over a whole cell."""
    phases: dict[str, float]
    """Shares of a cell's time, the evaluation included."""
    plain_ratio: float
    """Replica-steps/s beside as many plain loops with preloaded batches."""
    loader_ratio: float
    """The same beside plain loops with a DataLoader."""
    private_bytes: int | None
    """Peak resident memory of a worker that is its own, so without shared data."""
    predicted_bytes: int
    """What `predicted_bytes` says of it."""

    def row(self) -> dict[str, Any]:
        """As in the table `speeds`."""
        own = {name: value for name, value in vars(self).items() if name != "workload"}
        names = ("benchmark", "method", "network", "batch_size", "replicas", "workers")
        asked = {name: getattr(self.workload, name) for name in names}
        shares = {f"{name}_share": value for name, value in own.pop("phases").items()}
        return asked | own | shares


def device_name() -> str:
    """Of the device that `measure` measures."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores"


def measure(workload: Workload) -> Speed:
    """Measure a workload on all workers at once, and the peaks before and after it.

    Raises:
        WorkerError: a worker failed or was killed, for want of memory perhaps.
    """
    device = choose_device().type
    before = matrix_flops(device), copy_bytes(device)
    found = _samples(workload)
    after = matrix_flops(device), copy_bytes(device)
    return _speed(workload, found, max(before[0], after[0]), max(before[1], after[1]))


def _samples(workload: Workload) -> list[Sample]:
    """One of each worker, all at work at the same time.

    Raises:
        WorkerError: the first that failed; the others have been ended.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workload.workers)
    workers: dict[Connection, SpawnProcess] = {}
    samples: list[Sample] = []
    try:
        for _ in range(workload.workers):
            answer, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(workload, barrier, theirs))
            worker.start()
            theirs.close()  # now the worker alone holds it, and its death is the end of the file
            workers[answer] = worker
        waiting = set(workers)
        while waiting:
            wait(waiting)
            for answer in [each for each in waiting if each.poll()]:
                samples.append(_received(answer, workers[answer]))
                waiting.remove(answer)
    except BaseException:
        # They may be waiting for the one that failed. To abort their barrier could take for ever:
        # it wakes who waits there, and one that was killed there never wakes.
        for worker in workers.values():
            worker.kill()
        raise
    finally:
        for worker in workers.values():
            worker.join()
    return samples


def _received(answer: Connection, worker: SpawnProcess) -> Sample:
    try:
        found: Sample | str = answer.recv()
    except EOFError:
        worker.join()  # it ends a moment after its pipe
        found = f"killed, perhaps for want of memory (exit code {worker.exitcode})"
    if isinstance(found, str):
        raise WorkerError(found)
    return found


def _speed(workload: Workload, found: list[Sample], flops: float, moved: float) -> Speed:
    benchmark = load(workload.benchmark, data=workload.data)
    network = build(workload.network, benchmark.image_shape, benchmark.classes)
    forward = 2 * sum(network.multiply_adds)
    training = 3 * forward - 2 * network.multiply_adds[0]
    replicas, tasks, minima = workload.replicas, benchmark.tasks, found[0].minima
    # Joint training has its one minimum at the end; others are measured after every task.
    evaluations = tasks if workload.method == "multitask" else tasks * (tasks + 1) / 2
    train = sum(tasks * s.train_seconds for s in found)
    evaluation = sum(evaluations * s.evaluate_seconds for s in found)
    whole, share = train + evaluation, evaluation / (train + evaluation)
    steps = sum(replicas * s.steps / s.train_seconds for s in found)
    cell_flops = replicas * sum(
        tasks * s.examples * training + evaluations * minima * s.test_examples * forward
        for s in found
    )
    phases = {
        name: (1 - share) * sum(s.phases[name] for s in found) / len(found)
        for name in found[0].phases
    }
    own = [s.private_bytes for s in found if s.private_bytes is not None]
    return Speed(
        device=device_name(),
        workload=workload,
        peak_flops=flops,
        peak_bytes=moved,
        steps_per_second=steps,
        flops_per_second=sum(replicas * s.examples * training / s.train_seconds for s in found),
        bytes_per_second=steps * 4 * _PASSES * network.layout.size,
        evaluation_flops_per_second=sum(
            replicas * minima * s.test_examples * forward / s.evaluate_seconds for s in found
        ),
        cell_seconds=whole / len(found) / replicas,
        cells_per_hour=3600 * replicas * len(found) ** 2 / whole,
        cell_flops_per_second=cell_flops / whole * len(found),
        phases=phases | {"evaluation": share},
        plain_ratio=steps / sum(s.plain for s in found),
        loader_ratio=steps / sum(s.loaded for s in found),
        private_bytes=max(own, default=None),
        predicted_bytes=predicted_bytes(
            network,
            batch_size=max(batches_of(hyperparameters(workload.method, workload.values))),
            replicas=replicas,
            minima=minima,
            group=EVALUATION_GROUP,
        ),
    )
