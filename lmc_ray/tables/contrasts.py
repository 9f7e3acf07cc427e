"""What the paper claims of paths, as differences within seeds: interval, sign-flip test, effect."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmc_ray.statistics import FEWEST_PAIRS, Paired, holm, lowest_p, paired
from lmc_ray.tables.compare import SIGNIFICANT, interval_of, probability
from lmc_ray.tables.groups import Group, confirmed, title
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet

if TYPE_CHECKING:
    import duckdb

# Each contrast: what is compared, in words, and its two sides per seed (and task); one minus other.
_CONTRASTS = """
    WITH lines AS (
        SELECT * FROM measured_paths WHERE sweep = $sweep AND list_contains($cells, from_cell_id)
        AND curve = 'linear'
    )
    SELECT 'rise of the loss on task ' || a.eval_task || ': to sequential ' || a.to_task
        || ' - to multitask ' || b.to_task AS what, 1 AS block, a.to_task AS task,
        a.loss_rise AS one, b.loss_rise AS other
    FROM lines a JOIN lines b USING (from_cell_id, from_minimum, from_task, to_task, eval_task)
    WHERE a.control = 'same-init' AND b.control = 'same-init' AND a.from_task = a.eval_task
    AND from_minimum = 'sequential' AND a.to_minimum = 'sequential' AND b.to_minimum = 'multitask'
    UNION ALL
    SELECT 'rise of the loss on task ' || a.eval_task || ': to multitask ' || a.to_task
        || ' of another initialisation - of the same', 2, a.to_task, a.loss_rise, b.loss_rise
    FROM lines a JOIN lines b USING (path_id, from_cell_id, eval_task)
    WHERE a.control = 'other-init' AND b.control = 'same-init'
    UNION ALL
    SELECT 'barrier of the loss between two seeds: ' || a.from_minimum || ' ' || a.from_task
        || ', aligned - as they are', 3, a.to_task, a.loss_barrier, b.loss_barrier
    FROM lines a JOIN lines b USING (path_id, from_cell_id, to_cell_id, eval_task)
    WHERE a.control = 'aligned' AND b.control = 'other-seed'
    -- Lines lead from each seed to the next: every other one, and no two share a seed.
    QUALIFY row_number() OVER (
        PARTITION BY a.from_minimum, a.from_task, a.to_task, eval_task ORDER BY a.from_seed
    ) % 2 = 1
    UNION ALL
    SELECT '% of the squared way in the ' || directions || ' sharpest directions: to sequential '
        || to_task || ' - to multitask ' || to_task, 4, to_task, 100 * sequential, 100 * multitask
    FROM subspace_shares s WHERE s.sweep = $sweep AND list_contains($cells, s.cell_id)
    AND sequential IS NOT NULL AND multitask IS NOT NULL
"""
_NOTES = (
    "differences within seeds, their mean with its 95 % interval; p of the sign-flip test, "
    "corrected by Holm over the lines of this table; effect: mean over standard deviation",
    "between two seeds: every other line from a seed to the next, so that no two share a seed",
)


@dataclass(frozen=True)
class Contrast:
    """One claim in numbers: what is compared, over seeds, and p corrected by Holm."""

    what: str
    one: float
    other: float
    paired: Paired
    p: float | None


def contrast_query(group: Group) -> tuple[str, dict[str, Any]]:
    """The SQL behind the contrasts of one configuration, and its parameters."""
    sql = f"""SELECT what, list(one), list(other) FROM ({_CONTRASTS})
    GROUP BY what, block, task ORDER BY block, task, what"""
    return sql, {
        "sweep": group.runs[0]["sweep"],
        "cells": [run["cell_id"] for run in group.runs],
    }


def contrasts(database: "duckdb.DuckDBPyConnection", group: Group) -> list[Contrast]:
    """Every contrast that the minima of one configuration allow."""
    found = [
        (what, _mean(one), _mean(other), paired(a - b for a, b in zip(one, other, strict=True)))
        for what, one, other in database.execute(*contrast_query(group)).fetchall()
    ]
    corrected = iter(holm([each.p for *_, each in found if each.p is not None]))
    return [
        Contrast(what, one, other, each, None if each.p is None else next(corrected))
        for what, one, other, each in found
    ]


def contrast_sheets(database: "duckdb.DuckDBPyConnection") -> list[Sheet]:
    """One table for people per configuration; none where nothing can be compared."""
    found = [(group, contrasts(database, group)) for group in confirmed(database)]
    return [contrast_sheet(group, rows) for group, rows in found if rows]


def contrast_sheet(group: Group, rows: Sequence[Contrast]) -> Sheet:
    """The contrasts of one configuration for people."""
    notes = [group.note] if group.differences else []
    if any(each.paired.difference.count < FEWEST_PAIRS for each in rows):
        notes.append(f"a sign-flip test needs at least {FEWEST_PAIRS} pairs")
    pairs = [each.paired.difference.count for each in rows if each.p is not None]
    if pairs and (lowest := lowest_p(max(pairs), len(pairs))) >= SIGNIFICANT:
        notes.append(
            f"too few seeds for so many tests: none of {len(pairs)} can come below p = "
            f"{lowest:.2f} with {max(pairs)} pairs; measure fewer paths, or train more seeds"
        )
    heading = f"within seeds, {group.label}: {title(group.runs[0])}"
    columns = ("", "one", "other", "difference", "95 % interval", "pairs", "p", "effect")
    return Sheet(heading, columns, [_row(each) for each in rows], [*notes, *_NOTES])


def _row(each: Contrast) -> list[str]:
    difference, effect = each.paired.difference, each.paired.effect
    return [
        each.what,
        f"{each.one:.3f}",
        f"{each.other:.3f}",
        f"{difference.mean:+.3f}",
        interval_of(difference, 3),
        str(difference.count),
        probability(each.p),
        NOT_AVAILABLE if effect is None else f"{effect:+.1f}",
    ]


def _mean(values: Iterable[Any]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
