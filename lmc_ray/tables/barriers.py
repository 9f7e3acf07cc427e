"""Every measured path in numbers: rise and barrier of loss and error, over seeds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmc_ray.statistics import Summary, summarise
from lmc_ray.tables.groups import Group, confirmed, title
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet, spread

if TYPE_CHECKING:
    import duckdb

_MEASURES = ("loss_rise", "error_rise", "loss_barrier", "error_barrier")
_NOTES = (
    "mean ± sample standard deviation over seeds; errors in percentage points",
    "rise: highest value on the path minus the value where it starts; connected: the error rises "
    "by less than 2 points",
    "barrier: highest excess over the straight line between the values at the two ends",
)
BENT = (
    "Bézier curves are trained where the error on a seed's line is two points or more above both "
    "its ends, so their means may be over fewer seeds than the lines'"
)
_BETWEEN_SEEDS = (
    "between two seeds: a line from each seed to the next, so neighbouring ones share a seed"
)
_FEWER = (
    "lines over fewer seeds than were confirmed: in the others a minimum diverged, or they have "
    "not been measured"
)
_PATHS = """
    SELECT path_id, from_minimum, from_task, to_minimum, to_task, curve, control, eval_task,
        loss_rise, error_rise, loss_barrier, error_barrier, connected
    FROM measured_paths WHERE sweep = $sweep AND list_contains($cells, from_cell_id)
    ORDER BY to_task, from_task, path_id, control DESC, curve DESC, eval_task
"""


@dataclass(frozen=True)
class BarriersRow:
    """One line of the table, in numbers.

    Attributes:
        group: the configuration whose cells measured the path.
        path: from which minimum to which, in words.
        eval_task: the task whose examples were scored.
        measures: loss_rise, error_rise, loss_barrier and error_barrier; errors are fractions.
        connected: seeds whose error rises by less than 0.02; None on a task that the start was not
            trained on, which has no rise.
        seeds: how many measured the path.
    """

    group: Group
    path: str
    eval_task: int
    measures: dict[str, Summary]
    connected: int | None
    seeds: int


def barriers_rows(database: "duckdb.DuckDBPyConnection") -> list[list[BarriersRow]]:
    """The rows of one table per configuration that measured a path."""
    return [rows for group in confirmed(database) if (rows := _of_group(database, group))]


def barriers_sheets(database: "duckdb.DuckDBPyConnection") -> list[Sheet]:
    """One table for people per configuration; none where no path was measured."""
    tables = barriers_rows(database)
    return [_sheet(rows, last=rows is tables[-1]) for rows in tables]


def _of_group(database: "duckdb.DuckDBPyConnection", group: Group) -> list[BarriersRow]:
    sweep, cells = group.runs[0]["sweep"], [run["cell_id"] for run in group.runs]
    relation = database.execute(_PATHS, {"sweep": sweep, "cells": cells})
    names = [column[0] for column in relation.description or ()]
    by_path: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for values in relation.fetchall():
        row = dict(zip(names, values, strict=True))
        key = row["path_id"], row["control"], row["curve"], row["eval_task"]
        by_path.setdefault(key, []).append(row)
    return [
        BarriersRow(
            group=group,
            path=ends(rows[0]),
            eval_task=rows[0]["eval_task"],
            measures={
                name: summarise(values)
                for name in _MEASURES
                if (values := [row[name] for row in rows if row[name] is not None])
            },
            connected=sum(connected)
            if (connected := [row["connected"] for row in rows if row["connected"] is not None])
            else None,
            seeds=len(rows),
        )
        for rows in by_path.values()
    ]


def ends(row: dict[str, Any]) -> str:
    """From which minimum to which, and what is special about the pair."""
    special = [
        str(row[name])
        for name, usual in (("curve", "linear"), ("control", "same-init"))
        if row.get(name, usual) not in (usual, None)
    ]
    line = f"{row['from_minimum']} {row['from_task']} → {row['to_minimum']} {row['to_task']}"
    return f"{line} ({', '.join(special)})" if special else line


def _sheet(rows: list[BarriersRow], last: bool) -> Sheet:
    group = rows[0].group
    columns = ("path", "on\ntask", "loss\nrise", "error\nrise", "loss\nbarrier", "error\nbarrier")
    cells = [
        [
            row.path,
            str(row.eval_task),
            spread(row.measures.get("loss_rise"), 2),
            spread(row.measures.get("error_rise"), 1, 100),
            spread(row.measures.get("loss_barrier"), 2),
            spread(row.measures.get("error_barrier"), 1, 100),
            NOT_AVAILABLE if row.connected is None else f"{row.connected} of {row.seeds}",
        ]
        for row in rows
    ]
    notes = [group.note] if group.differences else []
    notes += _NOTES if last else ()
    notes += [BENT] if any("bezier" in row.path for row in rows) else []
    between = [row for row in rows if "other-seed" in row.path or "aligned" in row.path]
    notes += [_BETWEEN_SEEDS] if between else []
    lines = [row for row in rows if row not in between and "bezier" not in row.path]
    if any(row.seeds < len(group.finished) for row in lines):
        notes.append(_FEWER)
    heading = f"{group.label}: {title(group.runs[0])}"
    return Sheet(heading, (*columns, "connected\nseeds"), cells, notes)
