"""A night beside those before it: one table, and what to make of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmc_ray.tables.groups import METHODS
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet

Row = Mapping[str, Any]  # of `nights`

NIGHT_COLUMNS = (
    "method",
    "benchmark",
    "accuracy\n%",
    "fresh seeds:\ndifference",
    "p",
    "anchors:\ndifference",
    "p",
    "verdict",
)


def night_sheet(rows: Sequence[Row], last: Mapping[tuple[str, str], Row | None]) -> Sheet:
    """The rows of one night as a table.

    Args:
        rows: of that night; at least one.
        last: by method and benchmark the row of the night before, if there was any.
    """
    order = list(METHODS)
    lines = [
        night_cells(row)
        for row in sorted(rows, key=lambda row: (row["benchmark"], order.index(row["method"])))
    ]
    title = f"Night {rows[0]['night']} of {rows[0]['sweep']}"
    return Sheet(title, NIGHT_COLUMNS, lines, _notes(rows, last))


def night_cells(row: Row) -> tuple[str, ...]:
    """One row under `NIGHT_COLUMNS`."""
    return (
        METHODS.get(row["method"]) or str(row["method"]),
        row["benchmark"],
        f"{100 * row['mean']:.1f}",
        _difference(row, "difference", "difference_low", "difference_high"),
        _p(row["p"]),
        _difference(row, "anchor_difference", "anchor_low", "anchor_high"),
        _p(row["anchor_p"]),
        row["verdict"],
    )


def _notes(rows: Sequence[Row], last: Mapping[tuple[str, str], Row | None]) -> list[str]:
    first, points = rows[0], 100 * rows[0]["minimum_effect"]
    found = [
        "differences in points of accuracy with 95 % intervals: fresh seeds minus those of earlier"
        " nights and confirmed ones; anchors, the same seeds every night, each minus itself before",
        f"regressed: a drop of more than {points:g} point{'s' * (points != 1)} with p <"
        f" {first['false_alarms']:g}; p is corrected for the night's {first['comparisons']}"
        f" comparisons, so that a night without any change is taken for regressed with a"
        f" probability of {100 * first['false_alarms']:g} % at most",
    ]
    if all(row["p"] is None for row in rows):
        found.append("nothing to compare with yet: the first night")
    elif all(row["anchor_p"] is None for row in rows):
        found.append("the first night: anchors begin, and have nothing to compare with yet")
    changed = [row for row in rows if row["anchor_difference"]]
    if changed:
        before = {
            earlier["version"]
            for row in changed
            if (earlier := last.get((row["method"], row["benchmark"]))) is not None
        } - {first["version"]}
        code = f"code {', '.join(sorted(before))} before, {first['version']} now"
        same = f"the code is the same ({first['version']}): another machine, device or library"
        found.append(f"the anchors are not what they were: {code if before else same}")
    return found


def _difference(row: Row, name: str, low: str, high: str) -> str:
    if row[name] is None:
        return NOT_AVAILABLE
    if row[low] == row[high] == 0:
        return "equal"
    return f"{100 * row[name]:+.1f} [{100 * row[low]:+.1f}, {100 * row[high]:+.1f}]"


def _p(value: float | None) -> str:
    if value is None:
        return NOT_AVAILABLE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
