"""Mini-batches for a stack: every replica draws its own examples."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from lmc_ray.learners.learner import Setting
from lmc_ray.randomness import permutations

# Mixed batches are gathered this many at a time: one pass over the tasks serves them all.
_GATHER = 32
# Batches of one task: so many images at a time, which spares small batches most of the overhead and
# stays in a core's cache.
_GATHER_IMAGES = 256


@dataclass(frozen=True)
class Batch:
    """One mini-batch a replica; `allowed` None: all classes count."""

    images: Float[Tensor, "replicas batch channels height width"]
    labels: Int64[Tensor, "replicas batch"]
    allowed: Bool[Tensor, "#replicas #batch classes"] | None

    @property
    def size(self) -> int:
        """Examples per replica."""
        return self.labels.shape[1]


def scale(images: UInt8[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Bytes to pixels in [0, 1]; nothing else is done to an image."""
    return images.to(dtype).mul_(1 / 255)


def rows(
    images: UInt8[Tensor, "examples *image"], index: Int64[Tensor, "replicas batch"]
) -> UInt8[Tensor, "replicas batch *image"]:
    """images[index], several times faster than indexing: each row is copied in one piece."""
    chosen = images.flatten(1).index_select(0, index.flatten())
    return chosen.view(*index.shape, *images.shape[1:])


def epoch(
    setting: Setting, seeds: list[int], task: int, number: int, batch_size: int, *, shuffle: bool
) -> Iterator[Batch]:
    """One pass over a task's training examples, in each seed's own order."""
    examples, allowed = setting.examples(task), setting.allowed(task)
    order = epoch_order(setting, seeds, task, number, shuffle=shuffle)
    together = max(1, _GATHER_IMAGES // (batch_size * len(seeds)))
    for chunk in order.to(setting.device).split(batch_size * together, dim=1):
        pixels = scale(rows(examples.images, chunk), setting.dtype)
        batches = pixels.split(batch_size, dim=1), examples.labels[chunk].split(batch_size, dim=1)
        for images, labels in zip(*batches, strict=True):
            yield Batch(images, labels, allowed)


def epoch_order(
    setting: Setting, seeds: list[int], task: int, number: int, *, shuffle: bool
) -> Int64[Tensor, "replicas examples"]:
    """The rows of a task's training examples in the order of one epoch."""
    size = setting.size(task)
    if shuffle:
        return permutations(seeds, size, "order", task, number)
    return torch.arange(size).expand(len(seeds), size)


def mixed_epoch(
    setting: Setting, chosen: Int64[Tensor, "replicas examples two"], batch_size: int
) -> Iterator[Batch]:
    """Batches over examples of several tasks, in the order given.

    Args:
        setting: the setting.
        chosen: (task, row) of each example, per replica.
        batch_size: examples a batch and replica.
    """
    shape, device = setting.benchmark.image_shape, setting.device
    parts = {task: setting.examples(task) for task in chosen[..., 0].unique().tolist()}
    masks = setting.masks()
    for chunk in chosen.to(device).split(batch_size * _GATHER, dim=1):
        task_of, row_of = chunk.unbind(dim=2)
        images = torch.empty(*task_of.shape, *shape, dtype=torch.uint8, device=device)
        labels = torch.empty_like(task_of)
        for task, examples in parts.items():
            here = task_of == task
            images[here] = examples.images[row_of[here]]
            labels[here] = examples.labels[row_of[here]]
        for start in range(0, task_of.shape[1], batch_size):
            now = slice(start, start + batch_size)
            allowed = None if masks is None else masks[task_of[:, now] - 1]
            yield Batch(scale(images[:, now], setting.dtype), labels[:, now], allowed)
