"""Small real settings for the tests of learning, and an eye on what a network is asked."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Generator, Tensor

from lmc_ray.benchmarks import Benchmark, Examples, Part, load
from lmc_ray.learners import Setting, hyperparameters
from lmc_ray.models import Factors, Network, build

SIZES = {"train": 80, "validation": 16, "test": 30}


@dataclass(frozen=True)
class Few(Benchmark):
    """The first examples of each part of a real benchmark."""

    def examples(self, task: int, part: Part) -> Examples:
        """As `Benchmark.examples`, but few; `full` is still `train`, then `validation`."""
        if part == "full":
            parts = [self.examples(task, "train"), self.examples(task, "validation")]
            return Examples(
                torch.cat([each.images for each in parts]),
                torch.cat([each.labels for each in parts]),
            )
        every = super().examples(task, part)
        return Examples(every.images[: SIZES[part]], every.labels[: SIZES[part]])


@cache
def benchmark(family: str = "rotated", tasks: int = 3) -> Few:
    """A few of the embedded digits."""
    return Few(**vars(load(f"{family}-digits", tasks=tasks)))


def setting(
    family: str = "rotated",
    network: str = "mlp-16-8",
    *,
    tasks: int = 3,
    dtype: torch.dtype = torch.float64,
    part: Part = "train",
) -> Setting:
    """Few digits, a small network, double precision."""
    few = benchmark(family, tasks)
    net = build(network, few.image_shape, few.classes)
    return Setting(few, net, part, torch.device("cpu"), dtype)


def values(method: str, **changes: Any) -> Any:
    """A method's hyperparameters with batches that suit few examples."""
    small: dict[str, Any] = {"batch_size": 16}
    if method in ("mcsgd", "er-mcsgd"):
        small |= {"connect_steps": 3, "connect_batch_size": 8, "line_samples": 3}
    return hyperparameters(method, small | changes)


@dataclass(frozen=True)
class Call:
    """One gradient that was asked for."""

    theta: Float[Tensor, "replicas parameters"]
    images: UInt8[Tensor, "replicas batch channels height width"]
    labels: Int64[Tensor, "replicas batch"]
    allowed: Bool[Tensor, "..."] | None
    factors: Float[Tensor, "replicas batch units"] | None

    @property
    def size(self) -> int:
        """Examples per replica."""
        return self.labels.shape[1]


class Recorder:
    """A network that remembers every gradient it is asked for."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.name, self.layout, self.hidden = network.name, network.layout, network.hidden
        self.multiply_adds = network.multiply_adds
        self.layers, self.symmetries = network.layers, network.symmetries
        self.calls: list[Call] = []

    def initial(self, generator: Generator) -> Tensor:
        """As the network's."""
        return self.network.initial(generator)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """As the network's."""
        return self.network.logits(theta, images)

    def features(self, theta: Tensor, images: Tensor) -> dict[str, Tensor]:
        """As the network's."""
        return self.network.features(theta, images)

    def loss_and_gradient(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        allowed: Tensor | None = None,
        factors: Factors | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As the network's, and remembered."""
        pixels = (images * 255).round().to(torch.uint8)
        kept = None if factors is None else factors.clone()
        self.calls.append(Call(theta.clone(), pixels, labels.clone(), allowed, kept))
        return self.network.loss_and_gradient(theta, images, labels, allowed, factors, out)

    def squared_gradients(
        self, theta: Tensor, images: Tensor, labels: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """As the network's."""
        return self.network.squared_gradients(theta, images, labels, allowed)


def recorded(place: Setting) -> tuple[Setting, Recorder]:
    """The same setting with a recorder around its network."""
    recorder = Recorder(place.network)
    return (
        Setting(place.benchmark, recorder, place.part, place.device, place.dtype),
        recorder,
    )


class Index:
    """Finds the (task, row) of an image among a setting's training examples."""

    def __init__(self, place: Setting) -> None:
        self.known: dict[bytes, tuple[int, int]] = {}
        for task in range(1, place.benchmark.tasks + 1):
            images = place.examples(task).images
            for row, image in enumerate(images):
                self.known[image.numpy().tobytes()] = task, row
        total = sum(place.size(task) for task in range(1, place.benchmark.tasks + 1))
        assert len(self.known) == total, "an image occurs twice: choose other examples"

    def of(self, images: UInt8[Tensor, "batch channels height width"]) -> list[tuple[int, int]]:
        """(task, row) of each image."""
        return [self.known[image.numpy().tobytes()] for image in images]
