"""How fast this machine trains: steps, FLOP/s against the machine's own peak, seconds a cell.

Peak = the best fp32 matrix product over several sizes on all cores (or the GPU) in the same run.
FLOPs are counted from layer shapes, forward and backward, without the gradient of the images.
"""

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from lmc_ray.benchmarks import load
from lmc_ray.learners import METHODS, Setting, hyperparameters
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.models import Network, build

PEAK_SIZES = (512, 1024, 2048, 4096)
_PEAK_SECONDS = 0.4
"""How long each size is tried."""

_GROUP = 500


@dataclass(frozen=True)
class Workload:
    """What is measured: a method's training on a benchmark, in one stack a worker."""

    benchmark: str
    method: str
    network: str
    values: dict[str, Any]
    """Hyperparameters that are not the method's defaults."""
    replicas: int
    workers: int
    data: str | None


@dataclass(frozen=True)
class Report:
    """Sums over all workers, which ran at the same time."""

    device: str
    peak: float
    """FLOP/s of the best matrix product."""
    steps_per_second: float
    """Replica-steps: mini-batch gradients of one replica, with their update."""
    flops_per_second: float
    """In training, connection steps included."""
    evaluation_flops_per_second: float
    cell_seconds: float
    """Of one worker, per replica: all tasks trained, and all learned tasks evaluated after each."""
    cells_per_hour: float
    evaluation_share: float
    """Of a cell's time."""
    private_bytes: int | None
    """Largest resident memory of a worker that is its own, so without shared data."""

    @property
    def share_of_peak(self) -> float:
        """Training's FLOP/s over the peak."""
        return self.flops_per_second / self.peak


@dataclass(frozen=True)
class _Sample:
    """One worker's times for one task in the middle of a cell."""

    train_seconds: float
    evaluate_seconds: float
    """For one task's test images."""
    steps: int
    examples: int
    test_examples: int
    tasks: int
    multiply_adds: tuple[int, ...]
    private_bytes: int | None


def measure(workload: Workload) -> Report:
    """Measure a workload on all workers at once, and the peak before and after it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = peak(device)
    context = multiprocessing.get_context("spawn")
    barrier, samples = context.Barrier(workload.workers), context.Queue()
    workers = [
        context.Process(target=_worker, args=(workload, barrier, samples))
        for _ in range(workload.workers)
    ]
    for worker in workers:
        worker.start()
    found: list[_Sample] = [samples.get() for _ in workers]
    for worker in workers:
        worker.join()
    best = max(before, peak(device))

    first = found[0]
    forward = 2 * sum(first.multiply_adds)
    training = 3 * forward - 2 * first.multiply_adds[0]
    replicas, tasks = workload.replicas, first.tasks
    seconds = [
        tasks * s.train_seconds + tasks * (tasks + 1) / 2 * s.evaluate_seconds for s in found
    ]
    evaluating = [tasks * (tasks + 1) / 2 * s.evaluate_seconds for s in found]
    private = [s.private_bytes for s in found if s.private_bytes is not None]
    return Report(
        device=torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores",
        peak=best,
        steps_per_second=sum(replicas * s.steps / s.train_seconds for s in found),
        flops_per_second=sum(replicas * s.examples * training / s.train_seconds for s in found),
        evaluation_flops_per_second=sum(
            replicas * s.test_examples * forward / s.evaluate_seconds for s in found
        ),
        cell_seconds=sum(seconds) / len(found) / replicas,
        cells_per_hour=sum(3600 * replicas / each for each in seconds),
        evaluation_share=sum(evaluating) / sum(seconds),
        private_bytes=max(private, default=None),
    )


def peak(device: str) -> float:
    """FLOP/s of the best fp32 matrix product."""
    best = 0.0
    for size in PEAK_SIZES:
        a, b = torch.randn(2, size, size, device=device)
        out = a @ b
        start = time.perf_counter()
        while time.perf_counter() - start < _PEAK_SECONDS:
            again = time.perf_counter()
            torch.mm(a, b, out=out)
            _wait(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - again))
    return best


def _worker(workload: Workload, barrier: Barrier, samples: "Queue[_Sample]") -> None:
    """Train tasks 1 and 2, the second one timed together with the other workers'."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workload.workers))
    benchmark = load(workload.benchmark, data=workload.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: Network = build(workload.network, benchmark.image_shape, benchmark.classes)
    setting = Setting(benchmark, network, "full", device, torch.float32)
    values = [hyperparameters(workload.method, workload.values)] * workload.replicas
    learner = METHODS[workload.method].learner(setting, values, list(range(workload.replicas)))
    learner.learn(1)
    steps, examples = learner.gradient_evaluations, learner.examples_seen
    barrier.wait()
    start = time.perf_counter()
    learner.learn(2)
    _wait(device.type)
    trained = time.perf_counter()
    test = benchmark.examples(2, "test")
    theta = learner.tensors[learner.minimum]
    evaluate(network, theta, test, setting.allowed(2), _GROUP)
    _wait(device.type)
    end = time.perf_counter()
    barrier.wait()
    samples.put(
        _Sample(
            train_seconds=trained - start,
            evaluate_seconds=end - trained,
            steps=learner.gradient_evaluations - steps,
            examples=learner.examples_seen - examples,
            test_examples=len(test.labels),
            tasks=benchmark.tasks,
            multiply_adds=network.multiply_adds,
            private_bytes=_private_bytes(),
        )
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _private_bytes() -> int | None:
    """Resident memory that no other process shares, where the system tells (Linux)."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return None
    lines = rollup.read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return 1024 * sum(sizes)
