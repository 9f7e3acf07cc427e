"""Packs: which of the blocks that are ready train together as one stack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmc_ray.learners.hyperparameters import numeric_fields
from lmc_ray.sweep.cells import Block, Cell


@dataclass(frozen=True)
class Packing:
    """How stacks are filled: a choice of the machine, not of the spec."""

    replicas: int
    """In a stack at most; a block that has more goes alone."""
    workers: int = 1
    """Those among which blocks are shared out, rather than that one takes all."""

    def choose(self, ready: Sequence[Block], running: int) -> list[int]:
        """The places of the blocks to pack now: the first, and what comes after it and fits.

        Args:
            ready: in order of preference; not empty.
            running: packs that workers have already.
        """
        first, *others = ready
        chosen, free = [0], self.replicas - len(first.cells)
        if first.cells[0].purpose == "nightly":  # the same stacks every night, to the last bit
            return chosen
        idle = max(1, self.workers - running)
        share = -(-len(ready) // idle)
        same = shape(first.cells[0])
        for place, block in enumerate(others, start=1):
            fits = len(chosen) < share and len(block.cells) <= free
            if fits and shape(block.cells[0]) == same:
                chosen.append(place)
                free -= len(block.cells)
        return chosen


def shape(cell: Cell) -> dict[str, Any]:
    """What cells of one stack share: all that decides numbers, but seed and numeric values."""
    own = {"seed", *numeric_fields(type(cell.hyperparameters))}
    return {name: value for name, value in cell.specification.items() if name not in own}
