"""Which units of a network can trade places without a change of its function."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Symmetry:
    """Units that any permutation may reorder, if all these axes of parameters follow it."""

    units: int
    axes: tuple[tuple[str, int], ...]
    """(parameter, axis), the axis counted in one replica's own shape."""
