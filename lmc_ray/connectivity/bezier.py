"""Curved paths between minima: quadratic Bézier curves with a trained control point.

Garipov et al. 2018: θ(α) = (1-α)²·A + 2α(1-α)·C + α²·B. Ends that no line connects may well be
connected by such a curve.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lmc_ray.benchmarks import Examples
from lmc_ray.connectivity.paths import Curve, measure
from lmc_ray.learners.batches import rows, scale
from lmc_ray.learners.descent import momentum_step
from lmc_ray.models import Network
from lmc_ray.randomness import permutations, stream

MOMENTUM = 0.9


def bezier_points(
    start: Float[Tensor, "*#replicas parameters"],
    control: Float[Tensor, "*#replicas parameters"],
    end: Float[Tensor, "*#replicas parameters"],
    alphas: Float[Tensor, "points 1"],
) -> Float[Tensor, "points parameters"]:
    """θ(α), with one α for each replica, or several for one: exactly the ends at 0 and 1."""
    return (1 - alphas) ** 2 * start + factor(alphas) * control + alphas**2 * end


def factor(alphas: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """∂θ(α)/∂C = 2α(1-α), the chain rule's factor between ∇L at θ(α) and ∇L for C."""
    return 2 * alphas * (1 - alphas)


def fit_control(
    network: Network,
    start: Float[Tensor, "replicas parameters"],
    end: Float[Tensor, "replicas parameters"],
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    *,
    seeds: Sequence[int],
    steps: int,
    learning_rate: float,
    batch_size: int,
) -> Float[Tensor, "replicas parameters"]:
    """C from SGD with momentum on the mean loss over α uniform in (0, 1), from the line's middle.

    Each step takes one α and one batch per replica, both in the order of the replica's own seed.

    Args:
        network: the network, in evaluation mode all along; batch normalisation by each batch.
        start: A.
        end: B.
        examples: images of one task.
        allowed: the task's classes; None for all.
        seeds: one a replica.
        steps: how many; the learning rate is the same in all of them.
        learning_rate: of SGD with momentum 0.9, no decay.
        batch_size: examples a step; a last, smaller batch of a pass over all is left out.

    Raises:
        ValueError: there are fewer examples than make one batch.
    """
    if len(examples.labels) < batch_size:
        raise ValueError(f"{len(examples.labels)} examples are less than a batch of {batch_size}")
    images, labels = examples.images.to(start.device), examples.labels.to(start.device)
    rates = start.new_full((len(start),), learning_rate)
    momentum = torch.full_like(rates, MOMENTUM)
    control = (start + end) / 2
    velocity = torch.zeros_like(control)
    draws = [stream(seed, "bezier-alpha") for seed in seeds]
    batches = _batches(seeds, len(labels), batch_size)
    for _ in range(steps):
        index = next(batches).to(start.device)
        each = [torch.rand(1, generator=draw, dtype=torch.float64) for draw in draws]
        alphas = torch.stack(each).to(start)
        theta = bezier_points(start, control, end, alphas)
        pixels = scale(rows(images, index), start.dtype)
        _, gradient = network.loss_and_gradient(theta, pixels, labels[index], allowed)
        momentum_step(control, velocity, factor(alphas) * gradient, rates, momentum)
    return control


def bezier_path(
    network: Network,
    start: Float[Tensor, "replicas parameters"],
    control: Float[Tensor, "replicas parameters"],
    end: Float[Tensor, "replicas parameters"],
    points: int,
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> Curve:
    """Measure the curve from `start` to `end` at `points` equidistant α; see `evaluate`."""
    alphas = torch.linspace(0, 1, points, dtype=torch.float64)
    curves = (
        bezier_points(*three, alphas.to(start)[:, None])
        for three in zip(start, control, end, strict=True)
    )
    return measure(network, alphas, curves, examples, allowed, group)


def _batches(
    seeds: Sequence[int], size: int, batch_size: int
) -> Iterator[Int64[Tensor, "replicas batch"]]:
    """Rows of full batches, pass after pass in a new order, without end."""
    number = 0
    while True:
        order = permutations(list(seeds), size, "bezier-order", number)
        yield from order[:, : size - size % batch_size].split(batch_size, dim=1)
        number += 1
