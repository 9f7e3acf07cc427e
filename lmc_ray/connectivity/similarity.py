"""How alike two minima are, layer by layer: their weights, and what their layers make of images."""

from collections import defaultdict

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lmc_ray.learners.batches import scale
from lmc_ray.models import Network

ALL = "all"
"""Names the whole weight vector beside the layers."""


def distances(
    network: Network,
    a: Float[Tensor, "replicas parameters"],
    b: Float[Tensor, "replicas parameters"],
) -> dict[str, Float[Tensor, " replicas"]]:
    """‖a - b‖ of each layer's weights and of all, in float64 on the CPU."""
    apart = _by_layer(network, a.double() - b.double())
    return {layer: part.norm(dim=1).cpu() for layer, part in apart.items()}


def cosines(
    network: Network,
    a: Float[Tensor, "replicas parameters"],
    b: Float[Tensor, "replicas parameters"],
) -> dict[str, Float[Tensor, " replicas"]]:
    """cos(a, b) of each layer's weights and of all, in float64 on the CPU; NaN where one is 0."""
    ours, theirs = _by_layer(network, a.double()), _by_layer(network, b.double())
    found: dict[str, Tensor] = {}
    for layer, x in ours.items():
        y = theirs[layer]
        lengths = x.norm(dim=1) * y.norm(dim=1)
        found[layer] = (torch.linalg.vecdot(x, y) / lengths).cpu()
    return found


@torch.no_grad()
def activation_cka(
    network: Network,
    a: Float[Tensor, "replicas parameters"],
    b: Float[Tensor, "replicas parameters"],
    images: UInt8[Tensor, "examples channels height width"],
    group: int,
) -> dict[str, Float[Tensor, " replicas"]]:
    """Linear CKA of what each layer of `a` and of `b` makes of the same images, on the CPU.

    Args:
        network: the network of both.
        a: minima.
        b: others, each compared with its counterpart.
        images: of one task. One replica's activations of all of them are kept, in both networks.
        group: images a forward pass; under batch normalisation each is normalised by itself.
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    for pair in torch.stack([a, b], dim=1):
        parts: list[dict[str, Tensor]] = []
        for some in images.split(group):
            pixels = scale(some.to(pair.device), pair.dtype)
            parts.append(network.features(pair, pixels.expand(2, *pixels.shape)))
        for layer in network.layers:
            x, y = torch.cat([part.pop(layer) for part in parts], dim=1)
            found[layer].append(linear_cka(x, y))
    return {layer: torch.stack(values).cpu() for layer, values in found.items()}


def linear_cka(x: Float[Tensor, "examples _p"], y: Float[Tensor, "examples _q"]) -> Tensor:
    """HSIC(K, L)/√(HSIC(K, K)·HSIC(L, L)) of K = x xᵀ and L = y yᵀ (Kornblith et al. 2019).

    Both Gram matrices are centred on both sides, by centring the features. Then HSIC(K, L) is, up
    to a factor, the sum of K ∘ L or of the squares of xᵀ y: whichever needs the smaller matrices is
    computed, in float64. Features that are the same for all examples say nothing: NaN.
    """
    x, y = _centred(x), _centred(y)
    if max(x.shape[1], y.shape[1]) < len(x):
        cross, own, other = (x.mT @ y).square().sum(), x.mT @ x, y.mT @ y
    else:
        own, other = x @ x.mT, y @ y.mT
        cross = (own * other).sum()
    return cross / (own.norm() * other.norm())


def _centred(x: Float[Tensor, "examples units"]) -> Float[Tensor, "examples units"]:
    """Each feature less its mean; first less its first value, so that what is constant becomes 0.

    Its own mean may differ from a constant by rounding.
    """
    x = x.double()
    x = x - x[:1]
    return x - x.mean(dim=0)


def _by_layer(
    network: Network, theta: Float[Tensor, "replicas parameters"]
) -> dict[str, Float[Tensor, "replicas _size"]]:
    """The weights of each layer side by side, and of all layers."""
    views = network.layout.views(theta)
    parts = {
        layer: torch.cat(
            [
                view.flatten(1)
                for name, view in views.items()
                if name == layer or name.startswith(f"{layer}.")
            ],
            dim=1,
        )
        for layer in network.layers
    }
    return parts | {ALL: theta}
