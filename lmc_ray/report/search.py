"""The search: what was tried, which hyperparameters mattered, what more memory buys."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from lmc_ray.report.exhibits import Curve, Exhibit, Intervals, Lines, Section
from lmc_ray.report.importances import importances_of
from lmc_ray.report.palette import Style
from lmc_ray.report.source import Row, ask, literal
from lmc_ray.statistics import Summary
from lmc_ray.tables.groups import METHODS

if TYPE_CHECKING:
    import duckdb

_SQL = """
SELECT benchmark, study, number, generation, state, params,
    coalesce(value, "values"[1]) AS accuracy,
    CASE WHEN len("values") > 1 THEN "values"[2]
        ELSE TRY_CAST(params ->> '$.memory_per_class' AS DOUBLE) END AS memory,
    len("values") > 1 AS pareto, pruned_at_task
FROM tried WHERE sweep = {sweep}
ORDER BY benchmark, study, number
"""

_STATES = {
    "complete": ("complete", Style(0)),
    "pruned": ("pruned: accuracy on the tasks until then", Style(6, 1)),
    "diverged": ("diverged: at chance", Style(1, 3)),
}


def search(database: "duckdb.DuckDBPyConnection", sweep: str) -> Section | None:
    """History, importances and Pareto fronts of a sweep's studies."""
    sql = _SQL.format(sweep=literal(sweep)).strip()
    rows = ask(database, sql)
    several = len({row["benchmark"] for row in rows}) > 1
    studies: dict[str, list[Row]] = {}
    for row in rows:
        row["params"] = json.loads(row["params"] or "{}")
        if row["accuracy"] is not None and isfinite(row["accuracy"]):
            studies.setdefault(_title(row, several), []).append(row)
    if not studies:
        return None
    shares = {title: importances_of(of_study, database) for title, of_study in studies.items()}
    exhibits = [_history(studies, sql), _importances(shares, sql), _fronts(studies, sql)]
    return Section("The search", [exhibit for exhibit in exhibits if exhibit])


def _history(studies: Mapping[str, Sequence[Row]], sql: str) -> Exhibit:
    panels = [
        Lines(title, "trial", "accuracy on validation, %", _tried(rows))
        for title, rows in studies.items()
    ]
    return Exhibit(
        name="history",
        title="History",
        text="Each point is a proposed configuration, scored on validation data (mean over its "
        "seeds); the staircase is the best complete one so far. A pruned trial's accuracy is over "
        "fewer tasks and not comparable.",
        sql=sql,
        panels=panels,
    )


def _tried(rows: Sequence[Row]) -> list[Curve]:
    curves = [
        Curve(
            name,
            style,
            [row["number"] for row in of_state],
            [_single(100 * row["accuracy"]) for row in of_state],
            shape="points",
            words=[_params(row) for row in of_state],
        )
        for state, (name, style) in _STATES.items()
        if (of_state := [row for row in rows if row["state"] == state])
    ]
    complete = [row for row in rows if row["state"] == "complete"]
    if complete:
        best = [
            max(row["accuracy"] for row in complete[: index + 1]) for index in range(len(complete))
        ]
        numbers = [row["number"] for row in complete]
        # To the end of the search: what came later was no better.
        numbers, best = [*numbers, rows[-1]["number"]], [*best, best[-1]]
        values = [_single(100 * value) for value in best]
        curves.append(Curve("best so far", Style(2), numbers, values, shape="steps"))
    return curves


def _importances(found: Mapping[str, Mapping[str, float]], sql: str) -> Exhibit | None:
    panels = [
        Intervals(
            title,
            "importance (all together 1)",
            list(shares),
            [Style(0)] * len(shares),
            [_single(share) for share in shares.values()],
        )
        for title, shares in found.items()
        if shares
    ]
    if not panels:
        return None
    return Exhibit(
        name="importances",
        title="Importance of hyperparameters",
        text="How much of the accuracy's variance over the tried configurations each "
        "hyperparameter explains by itself, by functional ANOVA (Hutter et al. 2014) on the "
        "complete and diverged trials, scaled so that all sum to 1: what they do together, and "
        "what none of them explains, is not in it. The fewer trials, the rougher.",
        sql=sql,
        panels=panels,
    )


def _fronts(studies: Mapping[str, Sequence[Row]], sql: str) -> Exhibit | None:
    panels = [
        Lines(title, "memory, examples per class and task", "accuracy on validation, %", c)
        for title, rows in studies.items()
        if (c := _front(rows))
    ]
    if not panels:
        return None
    return Exhibit(
        name="pareto",
        title="Accuracy against memory",
        text="Each point is a complete configuration; the staircase joins those that no other "
        "beats in accuracy with as little memory (the Pareto front).",
        sql=sql,
        panels=panels,
    )


def _front(rows: Sequence[Row]) -> list[Curve]:
    done = [row for row in rows if row["state"] == "complete" and row["memory"] is not None]
    if len({row["memory"] for row in done}) < 2:
        return []
    best, front = float("-inf"), list[Row]()
    for row in sorted(done, key=lambda row: (row["memory"], -row["accuracy"], row["number"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            front.append(row)

    def curve(name: str, style: Style, chosen: Sequence[Row], steps: bool) -> Curve:
        return Curve(
            name,
            style,
            [row["memory"] for row in chosen],
            [_single(100 * row["accuracy"]) for row in chosen],
            shape="steps" if steps else "points",
            words=[_params(row) for row in chosen],
        )

    return [
        curve("complete", Style(0), done, steps=False),
        curve("Pareto front", Style(2), front, steps=True),
    ]


def _title(row: Row, several: bool) -> str:
    """What people call the study of a trial; with its benchmark where the sweep has several."""
    study = row["study"] or ""
    title = METHODS.get(study, study)
    return f"{title} on {row['benchmark']}" if several else title


def _single(value: float) -> Summary:
    return Summary(1, value, None, None, None)


def _params(row: Row) -> str:
    values = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in sorted(row["params"].items())
    )
    pruned = f" (pruned at task {row['pruned_at_task']})" if row["pruned_at_task"] else ""
    return f"trial {row['number']}{pruned}: {', '.join(values)}"
