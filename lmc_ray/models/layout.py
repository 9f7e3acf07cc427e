"""How a network's parameters lie in one flat vector."""

from collections import deque
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor


class Layout:
    """Names and shapes of a network's parameters, in the order of the flat vector.

    Args:
        shapes: of one replica's parameters, by name.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.size = sum(prod(shape) for shape in shapes.values())
        """Number of parameters of one replica."""
        # A descent asks for the views of the same two tensors at every step, and making them takes
        # as long as a small matrix product: remember the last few.
        self._recent: deque[tuple[Tensor, dict[str, Tensor]]] = deque(maxlen=2)

    def views(self, theta: Float[Tensor, "replicas parameters"]) -> dict[str, Tensor]:
        """Each parameter as a view [replicas, *shape]: writing to it writes to the stack."""
        for known, views in self._recent:
            if known is theta and not theta.requires_grad:
                return views
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=1)
        views = {
            name: part.view(len(theta), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        if not theta.requires_grad:  # such views belong to one graph, and may not outlive it
            self._recent.append((theta, views))
        return views

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process needs; not the stacks that were at work here."""
        return vars(self) | {"_recent": deque(maxlen=self._recent.maxlen)}
