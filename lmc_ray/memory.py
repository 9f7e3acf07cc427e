"""Episodic memory: a few examples of every task learned, for each replica its own.

Three ways to fill it: `draw` (MC-SGD's), `ring` and `reservoir` (Chaudhry et al. 2019,
arXiv:1902.10486). All look at a task's examples when the task is over, so that what a learner
replays never contains the task it is learning; but for `memory_includes_current`, where MC-SGD's
steps on J begin with the task's own examples in the memory.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from lmc_ray.benchmarks import Examples
from lmc_ray.errors import UserError
from lmc_ray.randomness import stream


@dataclass(frozen=True)
class Memory:
    """Stored examples, task after task: tasks are 1-based."""

    remembered_images: UInt8[Tensor, "replicas memory channels height width"]
    remembered_labels: Int64[Tensor, "replicas memory"]
    remembered_tasks: Int64[Tensor, "replicas memory"]

    @classmethod
    def empty(cls, replicas: int, image_shape: tuple[int, ...], device: torch.device) -> "Memory":
        """A memory of nothing."""
        none = torch.empty(replicas, 0, dtype=torch.int64, device=device)
        images = torch.empty(replicas, 0, *image_shape, dtype=torch.uint8, device=device)
        return cls(images, none, none)

    @property
    def size(self) -> int:
        """Examples per replica."""
        return self.remembered_labels.shape[1]

    def with_task(
        self, examples: Examples, index: Int64[Tensor, "replicas drawn"], task: int
    ) -> "Memory":
        """The memory after storing some of a task's examples."""
        index = index.to(self.remembered_labels.device)
        labels = examples.labels[index]
        return Memory(
            torch.cat([self.remembered_images, examples.images[index]], dim=1),
            torch.cat([self.remembered_labels, labels], dim=1),
            torch.cat([self.remembered_tasks, torch.full_like(labels, task)], dim=1),
        )

    def with_reservoir(
        self,
        examples: Examples,
        order: Int64[Tensor, "replicas examples"],
        task: int,
        *,
        seeds: list[int],
        seen: int,
        capacity: int,
    ) -> "Memory":
        """The memory after a task's examples came by: a uniform sample of all that ever did.

        The n-th example of the whole stream takes a slot at random among n, if there is such a
        slot (Vitter 1985, algorithm R).

        Args:
            examples: the task's training examples.
            order: in which each replica saw them.
            task: the task's number.
            seeds: one a replica.
            seen: how many examples came by before this task.
            capacity: how many the memory holds at most.
        """
        size = order.shape[1]
        position = torch.arange(seen, seen + size)
        filled = min(seen + size, capacity)
        # Where each slot's example comes from: a row of this task, or -1 where the old one stays.
        source = torch.full((len(seeds), filled), -1)
        for replica, seed in enumerate(seeds):
            uniform = torch.rand(
                size, generator=stream(seed, "reservoir", task), dtype=torch.float64
            )
            slot = torch.where(position < capacity, position, (uniform * (position + 1)).long())
            for i in (slot < capacity).nonzero()[:, 0].tolist():  # in order: a later one displaces
                source[replica, slot[i]] = order[replica, i]
        source = source.to(self.remembered_labels.device)
        rows, new = source.clamp(min=0), source >= 0
        labels = examples.labels[rows]
        room = filled - self.size
        grown = self.with_task(examples, rows[:, :room], task)  # placeholders, all new

        def choose(theirs: Tensor, ours: Tensor) -> Tensor:
            mask = new.view(*new.shape, *[1] * (ours.dim() - 2))
            return torch.where(mask, theirs, ours)

        return Memory(
            choose(examples.images[rows], grown.remembered_images),
            choose(labels, grown.remembered_labels),
            choose(torch.full_like(labels, task), grown.remembered_tasks),
        )


def ring(
    examples: Examples, order: Int64[Tensor, "replicas examples"], task: int, per_class: int
) -> Int64[Tensor, "replicas drawn"]:
    """Which of a task's examples a ring buffer a class holds after it: the last of each class.

    Args:
        examples: the task's training examples.
        order: in which each replica saw them.
        task: the task's number.
        per_class: examples a class.

    Raises:
        UserError: a class has fewer examples than `per_class`.
    """
    labels = examples.labels.cpu()
    classes = _classes(labels, task, per_class)
    rows = [torch.cat([each[labels[each] == c][-per_class:] for c in classes]) for each in order]
    return torch.stack(rows)


def draw(
    examples: Examples, seeds: list[int], task: int, per_class: int, how: str
) -> Int64[Tensor, "replicas drawn"]:
    """Which of a task's examples each seed stores: `per_class` times the task's classes of them.

    Args:
        examples: the task's training examples.
        seeds: one a replica.
        task: the task's number.
        per_class: examples a class.
        how: `balanced`: `per_class` of every class, without replacement; `random`: as many in all,
            with replacement and whatever their class (the authors' code on MNIST).

    Raises:
        UserError: a class has fewer examples than `per_class`.
    """
    labels = examples.labels.cpu()
    classes = _classes(labels, task, per_class if how == "balanced" else 0)
    rows = []
    for seed in seeds:
        generator = stream(seed, "memory", task)
        if how == "random":
            rows.append(
                torch.randint(len(labels), (per_class * len(classes),), generator=generator)
            )
            continue
        order = torch.randperm(len(labels), generator=generator)
        shuffled = labels[order]
        rows.append(torch.cat([order[shuffled == c][:per_class] for c in classes]))
    return torch.stack(rows)


def _classes(labels: Int64[Tensor, " examples"], task: int, per_class: int) -> list[int]:
    """The classes of a task, each of which must have as many examples as the memory wants."""
    classes, sizes = labels.unique(return_counts=True)
    if int(sizes.min()) < per_class:
        raise UserError(
            f"memory_per_class={per_class} is more than a class of task {task} has:"
            f" {int(sizes.min())} training examples; choose a smaller memory"
        )
    return classes.tolist()
