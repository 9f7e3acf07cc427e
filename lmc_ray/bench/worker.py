"""One worker of a measurement: trains three tasks of a cell, with the clock running on the second.

The third is trained under Python's profiler, for the shares of its time, and never for a speed.
"""

import cProfile
import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from lmc_ray.bench import plain
from lmc_ray.bench.memory import private_bytes
from lmc_ray.bench.peak import wait
from lmc_ray.benchmarks import load
from lmc_ray.device import choose_device
from lmc_ray.learners import METHODS, Learner, Setting, hyperparameters
from lmc_ray.learners.batches import scale
from lmc_ray.learners.evaluation import EVALUATION_GROUP, evaluate
from lmc_ray.models import build

PHASES = ("data", "gradient", "update", "connection", "evaluation", "other")
_FUNCTIONS = {
    "call_or_replay": "gradient",  # what `loss_and_gradient` is called through
    "momentum_step": "update",
    "epoch": "data",
    "mixed_epoch": "data",
    "connection_batches": "data",
}
"""Whose time, with all that they call, is a phase."""

_PLAIN_SECONDS = 1.5
_SAMPLED_EVERY = 0.05


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

    @property
    def batch_size(self) -> int:
        """Examples a step and replica."""
        return self.values["batch_size"]


@dataclass(frozen=True)
class Sample:
    """One worker's times for one task in the middle of a cell."""

    train_seconds: float
    evaluate_seconds: float
    """Of all the method's minima, for one task's test images."""
    steps: int
    examples: int
    test_examples: int
    minima: int
    phases: dict[str, float]
    """Shares of training's time, by `PHASES`."""
    plain: float
    """Steps/s of the plain loop with preloaded batches, beside the other workers'."""
    loaded: float
    """The same with a DataLoader."""
    private_bytes: int | None


def work(workload: Workload, barrier: Barrier, answer: Connection) -> None:
    """Measure and send one sample, or one line that says what went wrong."""
    try:
        found = _measure(workload, barrier)
    except Exception as problem:
        # Of torch's messages the first line: C++ frames may follow.
        found = traceback.format_exception_only(problem)[0].splitlines()[0]
    answer.send(found)


def _measure(workload: Workload, barrier: Barrier) -> Sample:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workload.workers))
    benchmark = load(workload.benchmark, data=workload.data)
    device = choose_device()
    network = build(workload.network, benchmark.image_shape, benchmark.classes)
    setting = Setting(benchmark, network, "full", device, torch.float32)
    values = [hyperparameters(workload.method, workload.values)] * workload.replicas
    learner = METHODS[workload.method].learner(setting, values, list(range(workload.replicas)))
    learner.learn(1)
    steps, examples = learner.gradient_evaluations, learner.examples_seen
    barrier.wait()
    start = time.perf_counter()
    learner.learn(2)
    wait(device.type)
    trained = time.perf_counter()
    minima, test_examples = _evaluate(learner, 2)
    wait(device.type)
    end = time.perf_counter()
    steps = learner.gradient_evaluations - steps
    examples = learner.examples_seen - examples
    barrier.wait()
    with _peak_memory() as memory:  # to look takes milliseconds each time: nothing is timed here
        phases = _phases(learner)
        _evaluate(learner, 3)
    second = setting.examples(2)
    images, drop = scale(second.images, setting.dtype), values[0].dropout if network.hidden else 0.0
    speeds = []
    for batches in (plain.preloaded, plain.loaded):
        loop = batches(images, second.labels, workload.batch_size)
        barrier.wait()
        speeds.append(plain.steps_per_second(network, drop, loop, device.type, _PLAIN_SECONDS))
        barrier.wait()
    return Sample(
        train_seconds=trained - start,
        evaluate_seconds=end - trained,
        steps=steps,
        examples=examples,
        test_examples=test_examples,
        minima=minima,
        phases=phases,
        plain=speeds[0],
        loaded=speeds[1],
        private_bytes=max(memory, default=None),
    )


def _evaluate(learner: Learner[Any], task: int) -> tuple[int, int]:
    """Measure all minima on one task; how many there are, and on how many images."""
    setting = learner.setting
    minima = learner.minima(task) or {learner.minimum: learner.tensors[learner.minimum]}
    test, thetas = setting.examples(task, "test"), torch.cat(list(minima.values()))
    evaluate(setting.network, thetas, test, setting.allowed(task), EVALUATION_GROUP)
    return len(minima), len(test.labels)


def _phases(learner: Learner[Any]) -> dict[str, float]:
    """Where the time of one more task goes, as shares of it.

    What the steps on J take is `connection`, whatever they do; the profiler makes many short calls
    look longer than they are. Nothing is evaluated meanwhile. On a GPU these are shares of the time
    that it takes to ask for the work, where that is not waited for.
    """
    profile = cProfile.Profile()
    profile.runcall(learner.learn, 3)
    phases: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    profile.create_stats()
    total = max(each[3] for (*_, name), each in profile.stats.items() if name == "learn")
    for (*_, name), (_, _, _, seconds, callers) in profile.stats.items():
        if name == "_connect":
            phases["connection"] += seconds
        elif phase := _FUNCTIONS.get(name):
            for (*_, caller), (_, _, _, part) in callers.items():
                if caller not in ("_connect", "_gradient"):
                    phases[phase] += part
    phases = {name: seconds / total for name, seconds in phases.items()}
    return phases | {"other": max(0.0, 1 - sum(phases.values()))}


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Samples of this process's own memory; the system keeps no peak of it."""
    found: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_SAMPLED_EVERY):
            if (now := private_bytes()) is not None:
                found.append(now)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found += filter(None, [private_bytes()])
