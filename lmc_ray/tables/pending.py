"""Sweeps that have nothing to tabulate yet: how far they are."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


_SWEEPS = """
    SELECT sweep, cells, trials, best FROM (
        SELECT sweep, count(*) AS cells, count(*) FILTER (purpose = 'confirm') AS confirmed
        FROM runs WHERE purpose <> 'nightly' GROUP BY sweep
    ) FULL JOIN (
        SELECT sweep, count(*) AS trials,
            -- the best of two benchmarks says nothing
            CASE WHEN count(DISTINCT benchmark) < 2
                THEN max(value) FILTER (state = 'complete') END AS best
        FROM tried GROUP BY sweep
    ) USING (sweep)
    WHERE coalesce(confirmed, 0) = 0 ORDER BY sweep
"""


def pending(database: "duckdb.DuckDBPyConnection") -> list[str]:
    """A line for each sweep without a confirmed cell: it still runs, or was interrupted.

    Nights confirm nothing: they have a table of their own.
    """
    lines = []
    for sweep, cells, trials, best in database.sql(_SWEEPS).fetchall():
        best_so_far = f", best on validation {100 * best:.1f} %" if best is not None else ""
        lines.append(
            f"sweep {sweep}: no confirmed seed yet (cells {cells or 0}, trials {trials or 0}"
            f"{best_so_far})"
        )
    return lines
