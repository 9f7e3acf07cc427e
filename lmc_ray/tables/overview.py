"""A sweep over several benchmarks on one page: the shape of the paper's Table 1."""

from typing import TYPE_CHECKING

from lmc_ray.tables.accuracy import AccuracyRow, accuracy_rows, divergence_notes
from lmc_ray.tables.groups import METHODS, study_order
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet, spread

if TYPE_CHECKING:
    import duckdb

_NOTE = (
    "average accuracy in % / forgetting in percentage points, each mean ± sample standard "
    "deviation over seeds"
)


def overview_sheets(database: "duckdb.DuckDBPyConnection") -> list[Sheet]:
    """One table for every sweep that has confirmed seeds on several sequences of tasks."""
    sweeps: dict[str, list[list[AccuracyRow]]] = {}
    for rows in accuracy_rows(database):
        sweeps.setdefault(rows[0].group.runs[0]["sweep"], []).append(rows)
    return [_sheet(sweep, settings) for sweep, settings in sweeps.items() if len(settings) > 1]


def _sheet(sweep: str, settings: list[list[AccuracyRow]]) -> Sheet:
    cells = [{row.group.label: _words(row) for row in rows} for rows in settings]
    groups = {row.group.label: row.group for rows in settings for row in rows}
    order = {method: place for place, method in enumerate(METHODS)}
    ordered = sorted(
        groups,
        key=lambda name: (
            order.get(groups[name].method, len(order)),
            study_order(groups[name].runs[0]),
            groups[name].number,
        ),
    )
    firsts = [rows[0].group.runs[0] for rows in settings]
    notes = [
        f"{rows[0].group.runs[0]['benchmark']}: {note}"
        for rows in settings
        for note in (*_numbered(rows), *divergence_notes(rows))
    ]
    columns = [
        "\n".join(filter(None, (run["benchmark"], f"{run['tasks']} tasks", run["network"])))
        for run in firsts
    ]
    return Sheet(
        f"all benchmarks, test split, sweep {sweep}",
        ["method", *columns],
        [[name, *(of.get(name, NOT_AVAILABLE) for of in cells)] for name in ordered],
        [*notes, _NOTE],
    )


def _numbered(rows: list[AccuracyRow]) -> list[str]:
    """What a number after a method means, which each benchmark counts for itself."""
    return [row.group.note for row in rows if not row.group.alone]


def _words(row: AccuracyRow) -> str:
    accuracy = spread(row.accuracy, 1, 100, std_digits=2)
    return f"{accuracy} / {spread(row.forgetting, 1, 100)}" if row.forgetting else accuracy
