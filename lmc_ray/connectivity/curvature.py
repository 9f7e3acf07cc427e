"""The sharpest directions at a minimum: largest eigenpairs of the Hessian of a task's loss.

The Hessian is never formed. One product H v costs about as much as two gradients, and Lanczos'
method (with full reorthogonalisation) needs some dozens of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from lmc_ray.benchmarks import Examples
from lmc_ray.learners.batches import scale
from lmc_ray.models import Network
from lmc_ray.randomness import stream

Product = Callable[[Float[Tensor, "replicas parameters"]], Float[Tensor, "replicas parameters"]]
"""A symmetric linear map of each replica's own."""

_BEYOND = 6
"""Pairs after those asked for that have to be found, too. One that Krylov's space has hardly met
yet leaves the residuals of the others small, and shows among the next ones first."""


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues (algebraically, in descending order), float64 on the CPU."""

    eigenvalues: Float[Tensor, "replicas pairs"]
    vectors: Float[Tensor, "replicas pairs parameters"]
    """Orthonormal within a replica; where and as precise as the start vectors were."""
    residuals: Float[Tensor, "replicas pairs"]
    """‖H v - λ v‖ by a product of its own, not Lanczos' estimate of it."""


def hessian_product(
    network: Network,
    theta: Float[Tensor, "replicas parameters"],
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> Product:
    """The map v ↦ H v of the mean cross-entropy that `evaluate` gives, each replica its own.

    Args:
        network: the network, in evaluation mode.
        theta: where the Hessian is taken.
        examples: images of one task; memory is that of two graphs over one group of them.
        allowed: the task's classes; None for all.
        group: as in `evaluate`: under batch normalisation part of what the loss is. If all
            examples are one, products share its gradient.
    """
    theta = theta.detach().requires_grad_()
    groups = list(zip(examples.images.split(group), examples.labels.split(group), strict=True))

    @torch.enable_grad()
    def gradient(images: Tensor, labels: Tensor) -> Tensor:
        """Of the sum over a group's images, with its graph."""
        pixels = scale(images.to(theta.device), theta.dtype)
        logits = network.logits(theta, pixels.expand(len(theta), *pixels.shape))
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        targets = labels.to(theta.device).repeat(len(theta))
        # Replicas share no parameter, so the Hessian of their sum is theirs side by side.
        loss = cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
        return torch.autograd.grad(loss, theta, create_graph=True)[0]

    shared = gradient(*groups[0]) if len(groups) == 1 else None

    def product(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for each in groups:
            g = gradient(*each) if shared is None else shared
            total += torch.autograd.grad(g, theta, vectors, retain_graph=shared is not None)[0]
        return total / len(examples.labels)

    return product


@torch.no_grad()
def top_eigenpairs(
    product: Product,
    start: Float[Tensor, "replicas parameters"],
    count: int,
    *,
    tolerance: float,
    max_steps: int,
) -> Eigenpairs:
    """Lanczos' method for the `count` largest eigenpairs of each replica's symmetric map.

    A replica is done as soon as the estimated residuals of its `count` pairs, and of the six after
    them, are at most tolerance·|λ_1|. Small residuals say that these are eigenpairs, not that none
    lies between them; that the next ones are found makes it likely. Products go on until all
    replicas are done, but each keeps what it had: its numbers do not depend on its neighbours.

    From one start vector only one copy of a repeated eigenvalue can be seen, until the Krylov
    space is exhausted; Lanczos then goes on in a fresh direction, for all `max_steps`, and finds
    others. Every copy is certain to be found only if `max_steps` reaches the number of parameters
    and the tolerance is 0.

    Args:
        product: the map; asked max_steps + count times at most.
        start: where Krylov's space starts, not 0; at random, or it may miss an eigenvector.
        count: eigenpairs a replica.
        tolerance: relative to the largest eigenvalue.
        max_steps: dimension of the Krylov space at most; memory is that many stacks like `start`.

    Raises:
        ValueError: `count` exceeds `max_steps` or the number of parameters.
    """
    replicas, size = start.shape
    steps = min(max_steps, size)
    if not 1 <= count <= steps:
        raise ValueError(f"cannot find {count} eigenpairs in {steps} dimensions")
    basis = start.new_empty(replicas, steps, size)
    tridiagonal = torch.zeros(replicas, steps, steps, dtype=torch.float64)
    sure = min(count + _BEYOND, steps)
    used = torch.full((replicas,), steps)
    broken = torch.zeros(replicas, dtype=torch.bool)
    new = start / start.norm(dim=1, keepdim=True)
    for m in range(1, steps + 1):
        basis[:, m - 1] = new
        new = product(new)
        alpha = torch.linalg.vecdot(basis[:, m - 1], new)
        tridiagonal[:, m - 1, m - 1] = alpha.double().cpu()
        new, beta = _orthogonal(basis[:, :m], new)
        now = tridiagonal[:, :m, :m]
        # Below this the rest is rounding, and its direction says nothing about the map.
        noise = 100 * torch.finfo(start.dtype).eps * now.abs().amax(dim=(1, 2))
        exhausted = beta <= noise
        beta = beta.masked_fill(exhausted, 0)
        # Estimates of 0 then mean that this Krylov space is done, not that nothing larger is left.
        broken |= exhausted
        if m >= sure:
            values, weights = torch.linalg.eigh(now)
            estimates = beta[:, None] * weights[:, -1, -sure:].abs()
            close = (estimates <= tolerance * values[:, -1:].abs()).all(dim=1)
            used = torch.where(close & ~broken & (used == steps), m, used)
            if m == steps or bool((used <= m).all()):
                break
        if bool(exhausted.any()):
            fresh = torch.randn(size, generator=stream(m, "lanczos"), dtype=torch.float64).to(new)
            fresh, _ = _orthogonal(basis[:, :m], fresh.expand(replicas, -1))
            new = torch.where(exhausted.to(new.device)[:, None], fresh, new)
        tridiagonal[:, m - 1, m] = tridiagonal[:, m, m - 1] = beta
    return _ritz(product, basis, tridiagonal, used.tolist(), count)


def overlaps(
    vectors: Float[Tensor, "replicas pairs parameters"],
    displacement: Float[Tensor, "replicas parameters"],
) -> Float[Tensor, "replicas pairs"]:
    """|cos| of each eigenvector with the way from one minimum to another, in float64 on the CPU.

    As eigenvectors are orthonormal, the sum of the squares is the share of the squared displacement
    that lies in their subspace. A displacement of 0 has no direction: NaN.
    """
    cosines = torch.linalg.vecdot(vectors, displacement[:, None]).double()
    return (cosines.abs() / displacement.double().norm(dim=1)[:, None]).cpu()


def _orthogonal(
    basis: Float[Tensor, "replicas steps parameters"],
    vector: Float[Tensor, "replicas parameters"],
) -> tuple[Float[Tensor, "replicas parameters"], Float[Tensor, " replicas"]]:
    """What is left of a vector outside the basis: its direction and (float64, CPU) its length."""
    for _ in range(2):  # what the first pass leaves of the basis is rounding; the second takes it
        shares = torch.einsum("rmp,rp->rm", basis, vector)
        vector = vector - torch.einsum("rm,rmp->rp", shares, basis)
    length = vector.norm(dim=1)
    # A length of 0 has no direction; the caller takes another.
    return vector / length.where(length > 0, 1)[:, None], length.double().cpu()


def _ritz(
    product: Product,
    basis: Float[Tensor, "replicas steps parameters"],
    tridiagonal: Float[Tensor, "replicas steps steps"],
    used: list[int],
    count: int,
) -> Eigenpairs:
    """Eigenpairs of each replica's map within the part of its Krylov space that it used."""
    values = torch.empty(len(used), count, dtype=torch.float64)
    vectors = basis.new_empty(len(used), count, basis.shape[2])
    for r, m in enumerate(used):
        every, weights = torch.linalg.eigh(tridiagonal[r, :m, :m])
        values[r] = every[-count:].flip(0)
        vectors[r] = weights[:, -count:].flip(1).to(basis).mT @ basis[r, :m]
    residuals = torch.empty_like(values)
    for i in range(count):
        v, eigenvalue = vectors[:, i], values[:, i, None].to(vectors)
        residuals[:, i] = (product(v) - eigenvalue * v).double().norm(dim=1).cpu()
    return Eigenpairs(values, vectors, residuals)
