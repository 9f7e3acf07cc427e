"""Permutation alignment by weight matching (Git Re-Basin, Ainsworth et al. 2023, algorithm 1).

Hidden units have no order: a network and its copy with units reordered are one function and two
points. Align a minimum with another before a line is drawn between them.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from lmc_ray.models import Network, Symmetry

_ROUNDING = 1e-12
"""Of what a group's weights have in common: a gain below it is none, so the descent ends."""


def align(
    network: Network,
    reference: Float[Tensor, " parameters"],
    other: Float[Tensor, " parameters"],
    generator: Generator,
) -> Float[Tensor, " parameters"]:
    """`other` with its units reordered so that it lies nearer to `reference`; the same function.

    One group of units at a time, in random order, takes the permutation that brings it nearest,
    all others staying as they are, until a pass over all groups changes nothing. That is a local
    optimum: no further from the reference than `other`, and where another call, with any generator,
    stays. The permutation is a linear assignment; where weights lie between units of one group, as
    in `StableResNet`'s streams, it is one to a linear approximation, and taken if it helps.
    """
    theta = other.clone()
    ours = {name: view[0] for name, view in network.layout.views(reference[None]).items()}
    theirs = {name: view[0] for name, view in network.layout.views(theta[None]).items()}
    improved = True
    while improved:
        improved = False
        for g in torch.randperm(len(network.symmetries), generator=generator).tolist():
            group = network.symmetries[g]
            common = _common(group, ours, theirs)
            moved = {name: theirs[name].clone() for name, _ in group.axes}
            permute(group, moved, _best_order(common))
            # Not from `common`: it takes a weight between units of one group for one whose other
            # end stays where it is.
            gain = _agreement(group, ours, moved) - _agreement(group, ours, theirs)
            if gain > _ROUNDING * float(common.abs().amax(dim=1).sum()):
                for name, weight in moved.items():
                    theirs[name].copy_(weight)
                improved = True
    return theta


def permute(group: Symmetry, weights: dict[str, Tensor], order: Int64[Tensor, " units"]) -> None:
    """Reorder one group's units in place: unit i becomes what unit order[i] was."""
    for name, axis in group.axes:
        weights[name].copy_(weights[name].index_select(axis, order.to(weights[name].device)))


def _common(
    group: Symmetry, ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> Float[Tensor, "units units"]:
    """Inner products of the weights in and out of our unit i with those of their unit j."""
    common = torch.zeros(group.units, group.units, dtype=torch.float64)
    for name, axis in group.axes:
        x, y = (
            weights[name].movedim(axis, 0).reshape(group.units, -1).double()
            for weights in (ours, theirs)
        )
        common += (x @ y.T).cpu()
    return common


def _agreement(group: Symmetry, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Inner product of all weights in and out of a group's units with those in their places."""
    names = dict.fromkeys(name for name, _ in group.axes)
    return sum(float((ours[name].double() * theirs[name].double()).sum()) for name in names)


def _best_order(common: Float[Tensor, "units units"]) -> Int64[Tensor, " units"]:
    """Which of their units goes where, for the largest sum of inner products."""
    from scipy.optimize import linear_sum_assignment  # which workers that only train need not load

    _, columns = linear_sum_assignment(common.numpy(), maximize=True)
    return torch.from_numpy(columns.astype(np.int64))
