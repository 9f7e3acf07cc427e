"""Stochastic gradient descent with momentum on a stack of replicas."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lmc_ray.learners.batches import Batch
from lmc_ray.models import Network
from lmc_ray.randomness import Dropout

Theta: TypeAlias = Float[Tensor, "replicas parameters"]

Adjust: TypeAlias = Callable[[int, Batch, Theta, Theta], None]
"""(step, batch, θ, gradient): changes the gradient in place before θ moves; looks at θ only."""


def momentum_step(
    theta: Float[Tensor, "replicas parameters"],
    velocity: Float[Tensor, "replicas parameters"],
    gradient: Float[Tensor, "replicas parameters"],
    learning_rate: Float[Tensor, " replicas"],
    momentum: Float[Tensor, " replicas"],
) -> None:
    """One step in place: v ← μv + g, θ ← θ - ηv (torch.optim.SGD's convention)."""
    torch.addcmul(gradient, velocity, momentum[:, None], out=velocity)
    theta.addcmul_(velocity, learning_rate[:, None], value=-1)


def descend(
    network: Network,
    theta: Float[Tensor, "replicas parameters"],
    batches: Iterable[Batch],
    *,
    seeds: Sequence[int],
    purpose: tuple[str | int, ...],
    learning_rate: Float[Tensor, " replicas"],
    momentum: Float[Tensor, " replicas"],
    drop: Float[Tensor, " replicas"],
    count: Callable[[int], None],
    adjust: Adjust | None = None,
) -> Float[Tensor, "replicas parameters"]:
    """A fresh optimiser's descent over the batches; returns new parameters.

    Args:
        network: the network.
        theta: where to start; left as it is.
        batches: one gradient step each.
        seeds: one a replica, key the dropout together with `purpose` and the step.
        purpose: names this descent, e.g. ("dropout", task).
        learning_rate: η.
        momentum: μ.
        drop: dropout probability.
        count: told the batch size of every gradient.
        adjust: what a method adds to plain SGD.
    """
    theta = theta.clone()
    velocity, gradient = torch.zeros_like(theta), torch.empty_like(theta)
    dropout, units = Dropout(list(seeds), drop), sum(network.hidden)
    for step, batch in enumerate(batches):
        factors = None
        if dropout.active and units:
            factors = dropout.factors((*purpose, step), batch.size, units)
        network.loss_and_gradient(
            theta, batch.images, batch.labels, batch.allowed, factors, out=gradient
        )
        count(batch.size)
        if adjust is not None:
            adjust(step, batch, theta, gradient)
        momentum_step(theta, velocity, gradient, learning_rate, momentum)
    return theta
