"""The benchmarks that are known by name, and what a benchmark's options are when left out."""

import math
from dataclasses import dataclass
from typing import NamedTuple

FAMILIES = ("rotated", "permuted", "split")

MOST_PERMUTED = 1000
"""A bound on permuted tasks for the sake of the disk: each is one more copy of the images."""


@dataclass(frozen=True)
class Known:
    """A source that has a name: its classes, its image shape, and where its images come from."""

    classes: int
    image_shape: tuple[int, int, int]
    origin: str


_MNIST_LIKE = "torchvision's folders or Parquet files (--data), else downloaded"

SOURCES = {
    "digits": Known(10, (1, 8, 8), "inside scikit-learn, nothing to download"),
    "mnist": Known(10, (1, 28, 28), _MNIST_LIKE),
    "fashion-mnist": Known(10, (1, 28, 28), _MNIST_LIKE),
    "cifar10": Known(10, (3, 32, 32), _MNIST_LIKE),
    "cifar100": Known(100, (3, 32, 32), _MNIST_LIKE),
}


class Defaults(NamedTuple):
    """What a benchmark uses where the user says nothing.

    Attributes:
        tasks: how many tasks.
        angle: degrees between tasks; None unless rotated.
        classes_per_task: None unless split.
        network: the name of a network that suits the images.
        epochs: passes over a task's examples; few images need more than one.
    """

    tasks: int
    angle: float | None
    classes_per_task: int | None
    network: str
    epochs: int = 1


@dataclass(frozen=True)
class BenchmarkInfo:
    """One line of ``lmc-ray benchmarks``."""

    name: str
    tasks: int
    most_tasks: int
    classes: int
    image_shape: tuple[int, int, int]
    source: str
    network: str


def names() -> list[str]:
    """Every benchmark with a name, e.g. ``rotated-mnist``."""
    return [f"{family}-{source}" for source in SOURCES for family in FAMILIES]


def defaults_for(family: str, source: str, classes: int, channels: int) -> Defaults:
    """The defaults of `family` over a source with this many classes and channels.

    Split benchmarks have as many classes a task as give at most 20 tasks, and at least 2.
    """
    if source == "digits":
        network, tasks, angle, epochs = "mlp-64-64", 5, 30.0, 5
    else:
        network, tasks, angle = ("mlp-256-256" if channels == 1 else "resnet18-20"), 20, 9.0
        epochs = 1
    if family == "rotated":
        return Defaults(tasks, angle, None, network, epochs)
    if family == "permuted":
        return Defaults(tasks, None, None, network, epochs)
    classes_per_task = max(2, math.ceil(classes / 20))
    return Defaults(classes // classes_per_task, None, classes_per_task, network, epochs)


def most_tasks(family: str, classes: int, angle: float | None, classes_per_task: int | None) -> int:
    """The most tasks there are: rotations short of a full turn, whole groups of classes."""
    if family == "rotated":
        assert angle is not None
        return math.ceil(360 / angle - 1e-9)  # 360 / (360 / 161) is a little more than 161
    if family == "permuted":
        return MOST_PERMUTED
    assert classes_per_task is not None
    return classes // classes_per_task


def describe() -> list[BenchmarkInfo]:
    """Every benchmark with a name, without reading any images."""
    lines = []
    for name in names():
        family, _, source = name.partition("-")
        known = SOURCES[source]
        chosen = defaults_for(family, source, known.classes, known.image_shape[0])
        most = most_tasks(family, known.classes, chosen.angle, chosen.classes_per_task)
        lines.append(
            BenchmarkInfo(
                name=name,
                tasks=chosen.tasks,
                most_tasks=most,
                classes=known.classes,
                image_shape=known.image_shape,
                source=known.origin,
                network=chosen.network,
            )
        )
    return lines
