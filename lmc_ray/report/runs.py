"""What was run: cells, how they ended, where, and what they cost."""

from typing import TYPE_CHECKING

from lmc_ray.report.exhibits import Exhibit, Section
from lmc_ray.report.source import Row, ask, literal
from lmc_ray.tables import Sheet
from lmc_ray.tables.groups import METHODS
from lmc_ray.tables.sheet import NOT_AVAILABLE, short

if TYPE_CHECKING:
    import duckdb

_SQL = """
SELECT benchmark, purpose, analysis, method, count(*) AS cells,
    count(*) FILTER (status = 'finished') AS finished,
    count(*) FILTER (status = 'diverged') AS diverged,
    count(*) FILTER (status = 'pruned') AS pruned,
    count(reused_from) AS reused, count(DISTINCT seed) AS seeds,
    sum(gradient_evaluations) AS gradient_evaluations,
    sum(wall_seconds / coalesce(replicas, 1)) FILTER (reused_from IS NULL) / 3600 AS hours,
    min(started_at) AS started, max(finished_at) AS ended,
    list_sort(list(DISTINCT device)) AS devices, list_sort(list(DISTINCT version)) AS versions
FROM runs WHERE sweep = {sweep}
GROUP BY benchmark, purpose, analysis, method
ORDER BY benchmark, purpose, analysis, method
"""

_PURPOSES = ("search", "confirm", "analysis", "nightly")
_COLUMNS = (
    "for",
    "method",
    "benchmark",
    "cells",
    "finished",
    "diverged",
    "pruned",
    "seeds",
    "grad.\nevals",
    "hours",
)


def runs(database: "duckdb.DuckDBPyConnection", sweep: str) -> Section | None:
    """The cells of a sweep, by what they were for."""
    sql = _SQL.format(sweep=literal(sweep)).strip()
    rows = sorted(ask(database, sql), key=_in_order)
    if not rows:
        return None
    exhibit = Exhibit(
        name="runs",
        title="Cells",
        text="A cell is one configuration with one seed. The search proposes configurations and "
        "scores them on validation data; the best are confirmed on fresh seeds and test data.",
        sql=sql,
        sheet=Sheet("Cells", _COLUMNS, [_cells(row) for row in rows]),
        notes=_notes(rows),
    )
    return Section("What was run", [exhibit])


def _in_order(row: Row) -> tuple[str, int, str, int]:
    """As the work goes, and the methods as in every table."""
    purpose, methods = row["purpose"], list(METHODS)
    return (
        row["benchmark"] or "",
        _PURPOSES.index(purpose) if purpose in _PURPOSES else len(_PURPOSES),
        row["analysis"] or "",
        methods.index(row["method"]) if row["method"] in METHODS else len(methods),
    )


def _cells(row: Row) -> list[str]:
    purpose = f"{row['purpose']}: {row['analysis']}" if row["analysis"] else row["purpose"]
    return [
        purpose,
        METHODS.get(row["method"], row["method"] or NOT_AVAILABLE),
        row["benchmark"] or NOT_AVAILABLE,
        *(str(row[name]) for name in ("cells", "finished", "diverged", "pruned", "seeds")),
        short(row["gradient_evaluations"]),
        NOT_AVAILABLE if row["hours"] is None else f"{row['hours']:.1f}",
    ]


def _notes(rows: list[Row]) -> list[str]:
    notes = ["grad. evals: gradient evaluations; hours: of all stacks, one after the other"]
    started = [row["started"] for row in rows if row["started"]]
    ended = [row["ended"] for row in rows if row["ended"]]
    if started and ended:
        notes.append(f"from {min(started):%Y-%m-%d %H:%M} to {max(ended):%Y-%m-%d %H:%M} UTC")
    for name in ("devices", "versions"):
        found = sorted({each for row in rows for each in row[name] or () if each})
        if found:
            notes.append(f"{name}: {', '.join(found)}")
    if reused := sum(row["reused"] for row in rows):
        notes.append(f"{reused} cells were taken over from other sweeps and not run again")
    return notes
