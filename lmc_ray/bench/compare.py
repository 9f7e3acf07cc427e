"""Several workloads one after the other, checked before the first one starts."""

import os
from collections.abc import Callable, Sequence

import torch

from lmc_ray.bench.measure import Speed, WorkerError, measure
from lmc_ray.bench.worker import Workload
from lmc_ray.benchmarks import defaults, load
from lmc_ray.errors import UserError
from lmc_ray.learners import hyperparameters
from lmc_ray.models import build


def workloads(
    benchmark: str,
    *,
    methods: Sequence[str],
    batch_sizes: Sequence[int],
    replicas: Sequence[int],
    workers: int | None,
    network: str | None,
    data: str | None,
) -> list[Workload]:
    """All combinations; the data of the three tasks that they train go into the node's cache.

    Raises:
        UserError: something does not fit; nothing has been measured.
    """
    opened = load(benchmark, data=data)
    if opened.tasks < 3:
        raise UserError(f"{benchmark} has {opened.tasks} tasks: bench trains three")
    chosen = network or defaults(benchmark, data=data).network
    build(chosen, opened.image_shape, opened.classes)
    at_once = workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    found = []
    for method in methods:
        for size in batch_sizes:
            values = {"batch_size": size}
            hyperparameters(method, values)
            for stack in replicas:
                found.append(Workload(benchmark, method, chosen, values, stack, at_once, data))
    for task in (1, 2, 3):  # or some worker's time would pay for it
        opened.examples(task, "full")
        opened.examples(task, "test")
    return found


def compared(planned: Sequence[Workload], tell: Callable[[str], None]) -> list[Speed]:
    """The speeds of those that work; one that fails, for want of memory perhaps, is told.

    Raises:
        UserError: none works.
    """
    speeds = []
    for workload in planned:
        what = f"{workload.method}, batch {workload.batch_size}"
        tell(f"measuring {what}, {workload.workers} workers × stacks of {workload.replicas}")
        try:
            speeds.append(measure(workload))
        except WorkerError as problem:
            tell(f"{what}: a worker failed: {problem}; a smaller stack or fewer workers may do")
    if not speeds:
        raise UserError("nothing could be measured: see above")
    return speeds
