"""How a network's parameters lie in one flat vector."""

from dataclasses import dataclass
from math import prod

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a network's parameters, in the order of the flat vector."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Number of parameters of one replica."""
        return sum(prod(shape) for shape in self.shapes.values())

    def views(self, theta: Float[Tensor, "replicas parameters"]) -> dict[str, Tensor]:
        """Each parameter as a view [replicas, *shape]: writing to it writes to the stack."""
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: part.view(len(theta), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
