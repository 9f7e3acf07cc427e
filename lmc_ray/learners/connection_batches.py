"""Which examples each step on J sees: of the memory, of the current task, or of one alone."""

from collections.abc import Iterator
from math import ceil

import torch
from jaxtyping import Int64
from torch import Tensor

from lmc_ray.learners.batches import Batch, rows, scale
from lmc_ray.learners.hyperparameters import MCSGD
from lmc_ray.learners.learner import Setting
from lmc_ray.learners.replay import remembered
from lmc_ray.memory import Memory
from lmc_ray.randomness import permutations, stream

Index = Int64[Tensor, "replicas batch"]


def connection_batches(
    setting: Setting, seeds: list[int], task: int, memory: Memory, common: MCSGD
) -> Iterator[tuple[Batch | None, Batch | None]]:
    """(memory batch, current batch) for every connection step of a task.

    `joint`: both in every step, drawn without replacement. `author`: batch i of one list with batch
    i of the other, then the longer list alone; further steps start over.
    """
    examples = setting.examples(task)
    every = len(examples.labels)
    subset = _subset(seeds, every, task, common)
    steps = _author if common.connect_schedule == "author" else _joint
    for chosen, current in steps(seeds, task, memory, subset, common):
        memory_batch = current_batch = None
        if chosen is not None:
            memory_batch = remembered(setting, memory, chosen)
        if current is not None:
            index = current.to(setting.device)
            current_batch = Batch(
                scale(rows(examples.images, index), setting.dtype),
                examples.labels[index],
                setting.allowed(task),
            )
        yield memory_batch, current_batch


def _subset(seeds: list[int], every: int, task: int, common: MCSGD) -> Index:
    """The `connect_examples` of the current task that J may use."""
    if common.shuffle:
        return permutations(seeds, every, "connect-subset", task, count=common.connect_examples)
    return torch.arange(min(every, common.connect_examples)).expand(len(seeds), -1)


def _joint(
    seeds: list[int], task: int, memory: Memory, subset: Index, common: MCSGD
) -> Iterator[tuple[Index, Index]]:
    size = common.connect_batch_size
    groups = _by_task(memory) if common.connect_batches == "by_task" else [slice(0, memory.size)]
    remembering = sum(ceil((group.stop - group.start) / size) for group in groups)
    longest = max(remembering, ceil(subset.shape[1] / size))
    for step in range(common.connect_steps or longest):
        drawn = torch.stack([_draw(seed, groups, size, task, step) for seed in seeds])
        path = ("connect-current", task, step)
        current = permutations(seeds, subset.shape[1], *path, count=size)
        yield drawn, subset.gather(1, current)


def _draw(
    seed: int, groups: list[slice], size: int, task: int, step: int
) -> Int64[Tensor, " batch"]:
    """Up to `size` remembered examples out of one group (all groups have the same length)."""
    generator = stream(seed, "connect-memory", task, step)
    group = groups[int(torch.randint(len(groups), (1,), generator=generator))]
    order = torch.randperm(group.stop - group.start, generator=generator)
    return group.start + order[:size]


def _author(
    seeds: list[int], task: int, memory: Memory, subset: Index, common: MCSGD
) -> Iterator[tuple[Index | None, Index | None]]:
    if common.connect_batches == "by_task":
        # One example a class in each batch: 10 on MNIST, 5 on split CIFAR-100.
        chunks = [
            torch.arange(group.start, group.stop)[start :: common.memory_per_class]
            for group in _by_task(memory)
            for start in range(common.memory_per_class)
        ]
        past = [chunk.expand(len(seeds), -1) for chunk in chunks]
    else:
        order = permutations(seeds, memory.size, "connect-memory", task)
        past = list(order.split(common.connect_batch_size, dim=1))
    current = list(subset.split(common.connect_batch_size, dim=1))
    longest = max(len(past), len(current))
    for step in range(common.connect_steps or longest):
        i = step % longest
        yield (
            past[i] if i < len(past) else None,
            current[i] if i < len(current) else None,
        )


def _by_task(memory: Memory) -> list[slice]:
    """The rows of each task; tasks are stored one after the other, alike for all replicas."""
    _, sizes = memory.remembered_tasks[0].unique_consecutive(return_counts=True)
    ends = sizes.cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes.tolist(), strict=True)]
