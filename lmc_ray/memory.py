"""Episodic memory: a few examples of every task learned, for each replica its own."""

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
    classes, sizes = labels.unique(return_counts=True)
    if how == "balanced" and int(sizes.min()) < per_class:
        raise UserError(
            f"memory_per_class={per_class} is more than a class of task {task} has:"
            f" {int(sizes.min())} training examples; choose a smaller memory"
        )
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
