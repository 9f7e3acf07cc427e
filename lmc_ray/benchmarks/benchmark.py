"""A benchmark: a sequence of tasks over one source of images."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from lmc_ray.benchmarks import cache, catalog, locate, permuted, rotated, split
from lmc_ray.benchmarks.gather import gathered
from lmc_ray.benchmarks.source import Source
from lmc_ray.errors import UserError

Part = Literal["train", "validation", "full", "test"]
"""Which examples of a task; `full` is `train` followed by `validation`."""


@dataclass(frozen=True)
class Examples:
    """Images and labels of one part of one task, in the protocol's fixed shuffled order.

    Attributes:
        images: views of a file that all workers of the node share; never written to.
        labels: 0-based classes of the whole benchmark.
    """

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int64[Tensor, " examples"]


@dataclass(frozen=True)
class Benchmark:
    """A sequence of tasks over one source; tasks are built when first asked for.

    Attributes:
        name: e.g. ``rotated-mnist``; for the user's own images, the family and the folder's name.
        family: ``rotated``, ``permuted`` or ``split``.
        tasks: how many there are.
        angle: degrees between one task and the next; None unless rotated.
        classes_per_task: None unless split.
        source: the images.
    """

    name: str
    family: str
    tasks: int
    angle: float | None
    classes_per_task: int | None
    source: Source

    @property
    def classes(self) -> int:
        """Width of the head that all tasks share."""
        return self.source.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.source.image_shape

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the source's decoded images and labels, train and test."""
        return self.source.fingerprint

    @property
    def smallest_class(self) -> int:
        """Training images, without the held-out ones, of the class that has the fewest."""
        counts = np.bincount(self.source.labels("train")[: self.source.train])
        used = None if self.classes_per_task is None else self.tasks * self.classes_per_task
        return int(counts[:used].min())

    def task_classes(self, task: int) -> list[int] | None:
        """The classes whose logits count in `task` (1-based); None where all do."""
        self._check(task)
        if self.classes_per_task is None:
            return None
        return split.task_classes(task, self.classes_per_task)

    def examples(self, task: int, part: Part) -> Examples:
        """The examples of one part of `task` (1-based).

        Parts of a task are slices of one mapped file. The first call for a task builds its file in
        the node's cache, holding a few megabytes at a time in memory.

        Raises:
            UserError: the cache folder cannot be written.
        """
        self._check(task)
        kind = "test" if part == "test" else "train"
        labels = self.source.labels(kind)
        train = self.source.train
        classes = self.task_classes(task)
        if classes is not None:
            rows = split.rows(labels, classes)
            labels, train = labels[rows], int(np.searchsorted(rows, train))
        window = {
            "train": slice(train),
            "validation": slice(train, None),
            "full": slice(None),
            "test": slice(None),
        }[part]
        images = torch.from_numpy(self._images(task, kind))
        return Examples(images[window], torch.from_numpy(labels)[window])

    def _check(self, task: int) -> None:
        if not 1 <= task <= self.tasks:
            raise ValueError(f"{self.name} has tasks 1 to {self.tasks}, not {task}")

    def _images(self, task: int, kind: str) -> np.ndarray:
        path = self._path(task, kind)
        return cache.read_or_build(path, cache.read_array, partial(self._build, task, kind))

    def _path(self, task: int, kind: str) -> Path:
        if self.classes_per_task is not None:
            name = f"split-{self.classes_per_task}-{task}"
        elif task == 1:
            name = "images"  # neither rotated nor permuted: the source itself
        elif self.angle is not None:
            name = f"rotated-{(task - 1) * self.angle!r}"
        else:
            name = f"permuted-{task}"
        return self.source.folder / f"{name}-{kind}.npy"

    def _build(self, task: int, kind: str, path: Path) -> None:
        images = self.source.images(kind)
        _, height, width = self.image_shape
        chunks: Iterable[np.ndarray]
        classes = self.task_classes(task)
        if classes is not None:
            rows = split.rows(self.source.labels(kind), classes)
            chunks, count = [images[rows]], len(rows)
        elif self.angle is not None:
            index = rotated.index_map(height, width, (task - 1) * self.angle)
            chunks, count = gathered(images, index), len(images)
        else:
            index = permuted.index_map(height, width, task)
            chunks, count = gathered(images, index), len(images)
        cache.write_array(path, (count, *self.image_shape), "uint8", chunks)


def defaults(name: str, *, data: str | None = None) -> catalog.Defaults:
    """What benchmark `name` uses where options are left out; `data` as in `load`.

    Raises:
        UserError: as `load`.
    """
    family, word = locate.parse(name)
    known = catalog.SOURCES.get(word)
    if known is not None:
        return catalog.defaults_for(family, word, known.classes, known.image_shape[0])
    _, source = locate.find_source(name, data)
    return catalog.defaults_for(family, word, source.classes, source.image_shape[0])


def load(
    name: str,
    *,
    tasks: int | None = None,
    data: str | None = None,
    angle: float | None = None,
    classes_per_task: int | None = None,
) -> Benchmark:
    """Opens a benchmark, decoding its images into the node's cache if they are not there yet.

    Args:
        name: a family (``rotated``, ``permuted``, ``split``), a dash, and a source: a known one
            (`describe`), a folder in `data`, or a path, as in ``split-/home/me/flowers``.
        tasks: how many tasks; None for the default.
        data: folder that holds the images; None downloads a known source into the cache folder.
        angle: degrees between tasks, 0 < angle < 360, for rotated benchmarks only.
        classes_per_task: at least 2, for split benchmarks only.

    Raises:
        UserError: an unknown name, an impossible option, missing or bad files, a cache folder that
            cannot be written.
    """
    family, word = locate.parse(name)
    if angle is not None and family != "rotated":
        raise UserError(f"{name} has no angle: leave it out, or use a rotated benchmark")
    if classes_per_task is not None and family != "split":
        raise UserError(f"{name} has no classes per task: leave them out, or use a split benchmark")
    if angle is not None and not (0 < angle < 360 and math.isfinite(360 / angle)):
        raise UserError(f"{name}: angle must be more than 0 and less than 360 degrees, got {angle}")
    title, source = locate.find_source(name, data)
    chosen = catalog.defaults_for(family, word, source.classes, source.image_shape[0])
    angle = chosen.angle if angle is None else float(angle)
    if classes_per_task is None:
        classes_per_task = chosen.classes_per_task
    if classes_per_task is not None and not 2 <= classes_per_task <= source.classes:
        raise UserError(
            f"{name}: classes per task must be 2 to {source.classes}, got {classes_per_task}"
        )
    most = catalog.most_tasks(family, source.classes, angle, classes_per_task)
    tasks = min(chosen.tasks, most) if tasks is None else tasks
    if not 1 <= tasks <= most:
        raise UserError(f"{name}: tasks must be 1 to {most}, got {tasks}")
    return Benchmark(f"{family}-{title}", family, tasks, angle, classes_per_task, source)
