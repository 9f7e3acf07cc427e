"""Packs: which blocks train together as one stack.

It follows from what is proposed together, never from who waits for work or has ended already: a
sweep that goes on has the same stacks, and the same last bits.
"""

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

    def packs(self, blocks: Sequence[Block]) -> list[list[Block]]:
        """Blocks that come together, in packs: each joins the first one where it fits."""
        packs: list[list[Block]] = []
        share = -(-len(blocks) // self.workers)
        for block in blocks:
            for pack in packs:
                if len(pack) < share and self._fits(block, pack):
                    pack.append(block)
                    break
            else:
                packs.append([block])
        return packs

    def _fits(self, block: Block, pack: Sequence[Block]) -> bool:
        first = pack[0].cells[0]
        if first.purpose == "nightly":  # the same stacks every night, whatever else runs
            return False
        replicas = sum(len(each.cells) for each in (*pack, block))
        return replicas <= self.replicas and shape(block.cells[0]) == shape(first)


def shape(cell: Cell) -> dict[str, Any]:
    """What cells of one stack share: all that decides numbers, but seed and numeric values."""
    own = {"seed", *numeric_fields(type(cell.hyperparameters))}
    return {name: value for name, value in cell.specification.items() if name not in own}
