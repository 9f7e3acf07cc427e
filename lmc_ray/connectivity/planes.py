"""Loss and accuracy on the plane through three minima (Garipov et al. 2018)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmc_ray.benchmarks import Examples
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.models import Network

MARGIN = 0.2
"""Of the width and height of the anchors' bounding box, on each side of it."""

_CHUNK = 16
"""Points of a grid whose weights are in memory together."""


@dataclass(frozen=True)
class Axes:
    """A plane with A as its origin, B on its first axis and C above that axis; float64."""

    origin: Float[Tensor, " parameters"]
    first: Float[Tensor, " parameters"]
    second: Float[Tensor, " parameters"]
    """Both axes have length 1: distances on the plane are distances of weights."""
    anchors: Float[Tensor, "three two"]
    """(x, y) of A, B and C: (0, 0), (‖B - A‖, 0) and wherever C is, y > 0."""


@dataclass(frozen=True)
class Plane:
    """What a task's examples say on a grid of a plane; float64 on the CPU."""

    anchors: Float[Tensor, "three two"]
    xs: Float[Tensor, " points"]
    ys: Float[Tensor, " points"]
    accuracy: Float[Tensor, "points points"]
    """A fraction, [y, x]."""
    loss: Float[Tensor, "points points"]
    """Mean cross-entropy, [y, x]."""


def axes(
    a: Float[Tensor, " parameters"],
    b: Float[Tensor, " parameters"],
    c: Float[Tensor, " parameters"],
) -> Axes:
    """Gram-Schmidt on B - A and C - A.

    Raises:
        ValueError: the three lie on one line, up to the rounding of their own precision.
    """
    largest = max(float(each.double().norm()) for each in (a, b, c))
    rounding = 8 * torch.finfo(a.dtype).eps * largest
    origin = a.double()
    way, other = b.double() - origin, c.double() - origin
    width = way.norm()
    if width <= rounding:
        raise ValueError("no plane: the first two minima are the same")
    first = way / width
    x = other @ first
    above = other - x * first
    above -= (above @ first) * first  # what one pass leaves of it counts where C is near the line
    y = above.norm()
    if y <= rounding:
        raise ValueError("no plane: the three minima lie on one line")
    zero = torch.zeros_like(x)
    anchors = torch.stack([zero, zero, width, zero, x, y]).view(3, 2)
    return Axes(origin, first, above / y, anchors.cpu())


def plane_points(
    plane: Axes, places: Float[Tensor, "points two"]
) -> Float[Tensor, "points parameters"]:
    """The weights at each (x, y), in float64."""
    x, y = places.to(plane.origin).unbind(dim=1)
    return plane.origin + x[:, None] * plane.first + y[:, None] * plane.second


def measure_plane(
    network: Network,
    a: Float[Tensor, " parameters"],
    b: Float[Tensor, " parameters"],
    c: Float[Tensor, " parameters"],
    points: int,
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> Plane:
    """Measure a grid of points×points around the anchors; see `evaluate`.

    Raises:
        ValueError: the three lie on one line.
    """
    plane = axes(a, b, c)
    low, high = plane.anchors.amin(dim=0), plane.anchors.amax(dim=0)
    margin = MARGIN * (high - low)
    xs, ys = (
        torch.linspace(float(start), float(end), points, dtype=torch.float64)
        for start, end in zip(low - margin, high + margin, strict=True)
    )
    grid = torch.cartesian_prod(ys, xs).flip(1)
    chunks = [
        torch.stack(evaluate(network, plane_points(plane, some).to(a), examples, allowed, group))
        for some in grid.split(_CHUNK)
    ]
    accuracy, loss = torch.cat(chunks, dim=1).view(2, points, points).cpu()
    return Plane(plane.anchors, xs, ys, accuracy, loss)
