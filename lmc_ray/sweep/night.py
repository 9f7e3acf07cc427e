"""One night: the cells that it runs, and what they say beside the nights before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lmc_ray.nights import (
    FEWEST_BEFORE,
    Comparison,
    compare_anchors,
    compare_fresh,
    corrected,
    regressed,
)
from lmc_ray.statistics import summarise
from lmc_ray.sweep.cells import Block, Cell, configuration
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.pinned import Pinned
from lmc_ray.sweep.study import Protocol, StudyRun
from lmc_ray.training import chance_accuracy
from lmc_ray.version import git_commit, version

if TYPE_CHECKING:
    import duckdb

ANCHOR_SEEDS = range(20_000, 20_003)
"""What every night trains again. The search's seeds start at 10,000, the confirmation's at 0."""
FRESH_SEEDS_FROM = 30_000

Row = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """When a night counts as regressed, and what it is compared with."""

    false_alarms: float
    """The probability of one on a night on which nothing has changed."""
    minimum_effect: float
    """A drop of this much accuracy (a fraction), or less, is none."""
    window: int
    """How many earlier nights count, at most: the latest that were fine."""
    since: str | None
    """Only nights from this one on; then confirmed seeds, which are older, do not count."""


def fresh_seeds(earlier: Iterable[int], count: int) -> range:
    """The next seeds that no earlier night has used, nor left for a night that never ended."""
    used = max(earlier, default=FRESH_SEEDS_FROM - 1) + 1 - FRESH_SEEDS_FROM
    start = FRESH_SEEDS_FROM + -(-used // count) * count
    return range(start, start + count)


class NightRun(StudyRun):
    """A study without a search: the anchors, then the fresh seeds of one configuration.

    The anchors are always one stack: a stack's size may change the last bit of its numbers.
    """

    def __init__(self, pinned: Pinned, night: str, fresh: range, stack: int) -> None:
        protocol = Protocol(place=pinned.place, trials=0, seeds=len(fresh))
        super().__init__(Study(method=pinned.method, pinned=True), protocol, stack)
        self.pinned = pinned
        self.night = night
        self.anchors = [self._nightly(seed) for seed in ANCHOR_SEEDS]
        self.fresh = [self._nightly(seed) for seed in fresh]
        self.stage = "confirm"
        stacks = [self.fresh[start : start + stack] for start in range(0, len(fresh), stack)]
        for cells in (self.anchors, *stacks):
            self._enqueue(Block(study=pinned.method, trial=None, cells=tuple(cells)))
        self._blocks = 1 + len(stacks)

    @property
    def total_blocks(self) -> int:
        """How many blocks the night runs."""
        return self._blocks

    def difference(self, specification: Mapping[str, Any]) -> str | None:
        """None: under the name of the nights are cells of every configuration there ever was."""

    def _nightly(self, seed: int) -> Cell:
        return Cell(
            method=self.pinned.method,
            place=self.pinned.place,
            hyperparameters=self.pinned.hyperparameters,
            seed=seed,
            purpose="nightly",
            night=self.night,
            version=version(),
        )


@dataclass
class Before:
    """What one configuration is compared with."""

    seeds: list[float] = field(default_factory=list)
    """Accuracies of confirmed seeds and of earlier nights' fresh ones."""
    anchors: list[dict[int, float]] = field(default_factory=list)
    """By night, the latest first: accuracy by seed."""
    last: Row | None = None
    """The row of the latest of those nights."""


class History:
    """What a results root holds of earlier nights and confirmed seeds."""

    def __init__(self, database: "duckdb.DuckDBPyConnection", sweep: str, nightly: str) -> None:
        self.nights = _rows(database, "SELECT * FROM nights WHERE sweep = ?", nightly)
        sql = """
            SELECT cell_id, seed, purpose, night, method, benchmark, config, status,
                average_accuracy
            FROM runs WHERE purpose = 'confirm' AND sweep = $1 OR purpose = 'nightly' AND sweep = $2
            ORDER BY seed
        """
        self.cells = {row["cell_id"]: row for row in _rows(database, sql, sweep, nightly)}

    def fresh_seeds(self, night: str, count: int) -> range:
        """The seeds of a night: the same whenever it is started again.

        New also beside nights to come, of a clock that was ahead: one day they are earlier ones.
        """
        other = [
            row["seed"]
            for row in self.cells.values()
            if row["purpose"] == "nightly" and row["night"] != night
        ]
        return fresh_seeds((seed for seed in other if seed >= FRESH_SEEDS_FROM), count)

    def judged(self, night: str) -> list[Row]:
        """The rows of a night."""
        return [row for row in self.nights if row["night"] == night]

    def whole(self, run: NightRun) -> bool:
        """Whether all cells of a night's configuration have ended."""
        return all(cell.id in self.cells for cell in (*run.anchors, *run.fresh))

    def before(self, pinned: Pinned, night: str, rule: Rule) -> Before:
        """What a configuration's night is compared with.

        A night that has regressed counts for nothing: else the loss would become the rule.
        """
        chance = chance_accuracy(pinned.benchmark)
        found = Before()
        if rule.since is None:
            found.seeds += [
                _accuracy(row, chance)
                for row in self.cells.values()
                if row["purpose"] == "confirm"
                and (row["method"], row["benchmark"]) == pinned.key
                and configuration(json.loads(row["config"])) == pinned.configuration
            ]
        nights = [
            row
            for row in self.nights
            if (row["method"], row["benchmark"]) == pinned.key
            and row["configuration"] == pinned.configuration
            and row["verdict"] == "fine"
            and (rule.since or "") <= row["night"] < night
            and all(cell in self.cells for cell in (*row["cells"], *row["anchor_cells"]))
        ]
        for row in sorted(nights, key=lambda row: row["night"], reverse=True)[: rule.window]:
            found.last = found.last or row
            found.seeds += [_accuracy(self.cells[cell], chance) for cell in row["cells"]]
            anchors = (self.cells[cell] for cell in row["anchor_cells"])
            found.anchors.append({each["seed"]: _accuracy(each, chance) for each in anchors})
        return found

    def row(self, run: NightRun, rule: Rule, comparisons: int) -> Row:
        """The row of `nights` for a configuration whose cells have ended."""
        chance = chance_accuracy(run.pinned.benchmark)
        before = self.before(run.pinned, run.night, rule)
        fresh = [_accuracy(self.cells[cell.id], chance) for cell in run.fresh]
        anchors = {cell.seed: _accuracy(self.cells[cell.id], chance) for cell in run.anchors}
        method, benchmark = run.pinned.key
        summary = summarise(fresh)
        row: Row = {
            "night": run.night,
            "method": method,
            "benchmark": benchmark,
            "configuration": run.pinned.configuration,
            "seeds": len(fresh),
            "mean": summary.mean,
            "low": summary.low,
            "high": summary.high,
            "earlier_seeds": len(before.seeds),
            "anchors": len(anchors),
            "comparisons": comparisons,
            "false_alarms": rule.false_alarms,
            "minimum_effect": rule.minimum_effect,
            "verdict": "fine",
            "version": version(),
            "git_commit": git_commit(),
            "cells": [cell.id for cell in run.fresh],
            "anchor_cells": [cell.id for cell in run.anchors],
        }
        if len(before.seeds) < FEWEST_BEFORE:
            return row
        seeds = np.array(before.seeds)
        made = {"": compare_fresh(np.array(fresh), seeds)}
        if before.anchors:
            made["anchor_"] = compare_anchors(_paired(anchors, before.anchors), seeds)
        for prefix, comparison in made.items():
            row |= _columns(prefix, comparison, comparisons)
            if regressed(comparison, comparisons, rule.false_alarms, rule.minimum_effect):
                row["verdict"] = "regressed"
        return row


def _paired(anchors: Mapping[int, float], before: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Each anchor tonight minus itself: the mean over earlier nights of differences.

    Not the difference of means: that of equal numbers may be off by a rounding.
    """
    pairs = [fmean(value - night[seed] for night in before) for seed, value in anchors.items()]
    return np.array(pairs)


def _columns(prefix: str, comparison: Comparison, comparisons: int) -> Row:
    low, high = ("anchor_low", "anchor_high") if prefix else ("difference_low", "difference_high")
    return {
        f"{prefix}difference": float(comparison.difference),
        low: float(comparison.low),
        high: float(comparison.high),
        f"{prefix}p": float(corrected(comparison.p, comparisons)),
    }


def _accuracy(row: Row, chance: float) -> float:
    return row["average_accuracy"] if row["status"] == "finished" else chance


def _rows(database: "duckdb.DuckDBPyConnection", sql: str, *values: str) -> list[Row]:
    relation = database.execute(sql, list(values))
    names = [column[0] for column in relation.description or ()]
    return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]
