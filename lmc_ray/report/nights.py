"""The nights: accuracy night by night, and the verdicts."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lmc_ray.report import palette
from lmc_ray.report.exhibits import Curve, Exhibit, Lines, Section
from lmc_ray.report.source import Row, ask, literal
from lmc_ray.statistics import Summary
from lmc_ray.store.schemas import CAME_LATER
from lmc_ray.tables import NIGHT_COLUMNS, Sheet, night_cells
from lmc_ray.tables.groups import METHODS

if TYPE_CHECKING:
    import duckdb

_MOST_ROWS = 60

_SQL = """
SELECT night, method, benchmark, seeds, mean, low, high, difference, difference_low,
    difference_high, p, anchors, anchor_difference, anchor_low, anchor_high, anchor_p,
    false_alarms, minimum_effect, verdict, version, configuration
FROM nights WHERE sweep = {sweep}
ORDER BY night, benchmark, method
"""


def nights(database: "duckdb.DuckDBPyConnection", sweep: str) -> Section | None:
    """The nights of a sweep, if it is one of nights."""
    sql = _SQL.format(sweep=literal(sweep)).strip()
    rows = ask(database, sql)
    if not rows:
        return None
    by_benchmark: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_benchmark.setdefault(row["benchmark"], {}).setdefault(row["method"], []).append(row)
    exhibit = Exhibit(
        name="nights",
        title="Night by night",
        text="Accuracy of each night's fresh seeds with the 95 % interval of their mean.",
        sql=sql,
        panels=[
            Lines(benchmark, "night", "average accuracy, %", _curves(by_method))
            for benchmark, by_method in by_benchmark.items()
        ],
        sheet=Sheet(
            "Nights",
            ("night", *NIGHT_COLUMNS),
            [(row["night"], *night_cells(row)) for row in rows[::-1][:_MOST_ROWS]],
        ),
        notes=[*_notes(rows), *_changes(by_benchmark)],
    )
    return Section("The nights", [exhibit])


def _curves(by_method: dict[str, list[Row]]) -> list[Curve]:
    order = list(METHODS)
    methods = sorted(by_method, key=lambda m: order.index(m) if m in order else len(order))
    return [
        Curve(
            METHODS.get(method, method),
            palette.of_method(method),
            [row["night"] for row in by_method[method]],
            [_accuracy(row) for row in by_method[method]],
            shape="both",
            words=[f"{row['verdict']}, code {row['version']}" for row in by_method[method]],
        )
        for method in methods
    ]


def _accuracy(row: Row) -> Summary:
    low, high = (None if row[end] is None else 100 * row[end] for end in ("low", "high"))
    return Summary(row["seeds"], 100 * row["mean"], None, low, high)


def _notes(rows: Sequence[Row]) -> list[str]:
    last = rows[-1]
    points = 100 * last["minimum_effect"]
    notes = [
        "differences in points of accuracy with 95 % intervals: fresh seeds minus those of earlier "
        "nights; anchors, the same seeds every night, each minus itself before",
        f"regressed: a drop of more than {points:g} points with p < {last['false_alarms']:g}, "
        "corrected for all comparisons of the night",
    ]
    if len(rows) > _MOST_ROWS:
        notes.append(f"the latest {_MOST_ROWS} of {len(rows)} rows; the SQL has them all")
    return notes


def _changes(by_benchmark: dict[str, dict[str, list[Row]]]) -> list[str]:
    """Where a curve goes on with another configuration, and what is another in it."""
    later = {name: default for name, (_, default) in CAME_LATER.items()}
    found: list[str] = []
    for benchmark, by_method in by_benchmark.items():
        for method, rows in by_method.items():
            for before, now in pairwise(rows):
                old, new = (later | json.loads(row["configuration"]) for row in (before, now))
                changes = [
                    f"{name} {new.get(name)} instead of {old.get(name)}"
                    for name in sorted(old.keys() | new.keys())
                    if old.get(name) != new.get(name)
                ]
                if changes:
                    found.append(
                        f"{METHODS.get(method, method)} on {benchmark} has another configuration"
                        f" since {now['night']}: {', '.join(changes)}"
                    )
    return found
