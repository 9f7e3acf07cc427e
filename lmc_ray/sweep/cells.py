"""Cells: the units of work and their identity."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from lmc_ray.learners.evaluation import EVALUATION_GROUP
from lmc_ray.learners.hyperparameters import SGD

PROTOCOL = 1
"""Version of the training and measuring protocol; raised when the same cell gives other numbers."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What all cells of a sweep share: the tasks, the data and the network."""

    benchmark: str
    tasks: int
    angle: float | None
    classes_per_task: int | None
    fingerprint: str
    network: str
    dtype: Literal["float32", "float64"] = "float32"
    evaluation_group: int = EVALUATION_GROUP


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One configuration, one seed, one purpose."""

    method: str
    place: Place
    hyperparameters: SGD
    seed: int
    purpose: Literal["search", "confirm", "control", "nightly"]
    path_points: int = 0
    keep_minima: tuple[int, ...] = ()
    """The tasks after which the weights of all minima are kept."""
    night: str | None = None
    """A nightly cell's UTC date: what ran on another night is another cell, and is run again."""
    version: str | None = None
    """A nightly cell's code: a night belongs to one version of the package."""

    @property
    def split(self) -> Literal["validation", "test"]:
        """A search never sees test data; a confirmation or a night trains on all training data."""
        return "validation" if self.purpose == "search" else "test"

    @cached_property
    def specification(self) -> dict[str, Any]:
        """Everything that decides the cell's numbers, flat and fully defaulted.

        Not in it: device, stack and batching of seeds. A hyperparameter marked `later` (added after
        cells had been stored) is left out while it has its default, the old behaviour, so that old
        ids stay. So are kept minima where there are none, and night and version, which only nightly
        cells have.
        """
        nightly = {"night": self.night, "version": self.version} if self.night else {}
        kept = {"keep_minima": list(self.keep_minima)} if self.keep_minima else {}
        return {
            "method": self.method,
            **asdict(self.place),
            **_hyperparameters(self.hyperparameters),
            "path_points": self.path_points,
            "protocol": PROTOCOL,
            "purpose": self.purpose,
            "seed": self.seed,
            "split": self.split,
            **kept,
            **nightly,
        }

    @cached_property
    def config(self) -> str:
        """The specification as canonical JSON: sorted keys, floats exact."""
        return json.dumps(self.specification, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """128 bits of SHA-256 of the canonical specification, in hex."""
        return hashlib.sha256(self.config.encode()).hexdigest()[:32]


def _hyperparameters(values: SGD) -> dict[str, Any]:
    kept = {}
    for each in fields(values):
        value = getattr(values, each.name)
        default = each.default if each.default is not MISSING else None
        if not (each.metadata.get("later") and value == default):
            # An int where a float belongs (lr_decay=1) is the same number and must hash alike.
            kept[each.name] = float(value) if each.metadata.get("numeric") else value
    return kept


def place_of(specification: Mapping[str, Any]) -> Place:
    """Where a stored cell learned."""
    return Place(**{each.name: specification[each.name] for each in fields(Place)})


def configuration(specification: Mapping[str, Any]) -> str:
    """What the seeds of one configuration share, measured with paths or not, as canonical JSON."""
    own = ("seed", "purpose", "night", "version", "path_points", "keep_minima")
    shared = {name: value for name, value in specification.items() if name not in own}
    return json.dumps(shared, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Block:
    """Cells that differ only in their seed and train in one stack: a proposal, or a part of it."""

    study: str
    trial: int | None
    """The search's trial number; None for a confirmation."""
    cells: tuple[Cell, ...]
    prune_below: tuple[float | None, ...] = ()
    """After task t (index t-1), end the block if its average accuracy is lower than this."""


@dataclass(frozen=True)
class Pack:
    """Blocks of equal shapes (see `packs`) that train as one stack: one Ray Tune trial."""

    blocks: tuple[Block, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, in stack order."""
        return [cell for block in self.blocks for cell in block.cells]

    @property
    def places(self) -> list[tuple[Block, range]]:
        """Each block, and the places of its cells in the stack."""
        ends = accumulate(len(block.cells) for block in self.blocks)
        return [
            (block, range(end - len(block.cells), end))
            for block, end in zip(self.blocks, ends, strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """What the search needs to know of a cell that has ended."""

    status: str
    """`finished`, `diverged` or `pruned`."""
    value: float
    """Average accuracy after the last learned task; chance level if diverged."""
    curve: tuple[float, ...]
    """Average accuracy over the tasks so far, after each task; joint training has none before T."""


def outcome(status: str, curve: tuple[float, ...], chance: float) -> Outcome:
    """The outcome of a cell that ended with this status and curve."""
    value = chance if status == "diverged" or not curve else curve[-1]
    return Outcome(status, value, curve)
