"""The main result: accuracy, forgetting, rise of the loss and cost, method by method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmc_ray import paper
from lmc_ray.paper import Published
from lmc_ray.statistics import Summary, summarise, welch
from lmc_ray.store.schemas import PLAIN_MINIMUM
from lmc_ray.tables.compare import probability
from lmc_ray.tables.groups import (
    Group,
    Run,
    by_setting,
    called,
    confirmed,
    title,
)
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet, short, spread

if TYPE_CHECKING:
    import duckdb

_SPREAD = "mean ± sample standard deviation over seeds; forgetting in percentage points"
_RISE = (
    "rise: highest loss on task 1 along the line from the method's minimum after task 1 to its "
    "last one, minus the loss where the line starts"
)
_TRIO = (
    "multitask's line is measured in the MC-SGD cell of the same seed (one trio, one "
    "initialisation): from its sequential minimum after task 1 to its multitask minimum"
)
_PAPER = (
    f"paper: {paper.SOURCE}, {paper.SEEDS} seeds, memory of 1 example per class; tuned on test "
    "accuracy"
)
_WELCH = (
    "difference: ours minus the paper's, percentage points, with its 95 % interval; p: Welch's "
    "two-sided test from both means, standard deviations and numbers of seeds"
)
_COST = (
    "memory: examples kept per class and task; grad. evals, data seen: gradient evaluations and "
    "examples in them, per seed"
)

_RISES = """
    SELECT sweep, from_minimum, to_minimum, cell_id, loss_rise
    FROM barriers JOIN runs USING (sweep, cell_id)
    WHERE purpose = 'confirm' AND curve = 'linear' AND control = 'same-init' AND eval_task = 1
    AND from_task = 1 AND to_task = runs.tasks AND loss_rise IS NOT NULL
"""

_Rises = dict[tuple[str, str, str], dict[str, float]]  # by sweep and the two minima; by cell


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the table, in numbers.

    Attributes:
        group: the configuration and its runs.
        diverged: seeds whose loss became NaN or infinite; they are in none of the means.
        accuracy: average accuracy, fraction; None where no seed has finished.
        forgetting: fraction; None for multitask.
        rise: of the loss, in nats; None where no path was measured.
        memory_per_class: None for methods without a memory.
        gradient_evaluations: mean over seeds.
        examples_seen: mean over seeds.
        paper: what the paper has in this place.
    """

    group: Group
    diverged: int
    accuracy: Summary | None
    forgetting: Summary | None
    rise: Summary | None
    memory_per_class: int | None
    gradient_evaluations: float | None
    examples_seen: float | None
    paper: Published | None


def accuracy_rows(database: "duckdb.DuckDBPyConnection") -> list[list[AccuracyRow]]:
    """The rows of one table per sweep and sequence of tasks."""
    rises: _Rises = {}
    for sweep, start, stop, cell, rise in database.execute(_RISES).fetchall():
        rises.setdefault((sweep, start, stop), {})[cell] = rise
    return [
        [_row(rises, group, groups) for group in groups]
        for groups in by_setting(confirmed(database)).values()
    ]


def accuracy_sheets(database: "duckdb.DuckDBPyConnection") -> list[Sheet]:
    """One table for people per sweep and sequence of tasks; none where nothing is confirmed.

    Where the paper has numbers for the same tasks, a second one shows ours beside them.
    """
    sheets = []
    for rows in accuracy_rows(database):
        sheets.append(_sheet(rows))
        if with_paper := [row for row in rows if row.paper]:
            sheets.append(_paper_sheet(with_paper))
    return sheets


def _row(rises: _Rises, group: Group, others: Sequence[Group]) -> AccuracyRow:
    runs = group.finished
    first = group.runs[0]
    return AccuracyRow(
        group=group,
        diverged=sum(run["status"] == "diverged" for run in group.runs),
        accuracy=_over(runs, "average_accuracy"),
        forgetting=None if group.method == "multitask" else _over(runs, "forgetting"),
        rise=_rise(rises, group, others),
        memory_per_class=first["memory_per_class"],
        gradient_evaluations=_mean(runs, "gradient_evaluations"),
        examples_seen=_mean(runs, "examples_seen"),
        paper=paper.published(first),
    )


def _rise(rises: _Rises, group: Group, others: Sequence[Group]) -> Summary | None:
    stop = group.runs[0]["own_minimum"]
    start = PLAIN_MINIMUM if group.method == "multitask" else stop  # where the trio begins
    of_cell = rises.get((group.runs[0]["sweep"], start, stop), {})
    runs = group.finished
    if group.method == "multitask":
        seeds = {run["seed"] for run in runs}
        trios = [run for other in called("mcsgd", others) for run in other.finished]
        runs = [run for run in trios if run["seed"] in seeds]
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        if run["cell_id"] in of_cell:
            by_seed.setdefault(run["seed"], []).append(of_cell[run["cell_id"]])
    # Several MC-SGD configurations give several trios a seed; a seed counts once.
    return summarise(sum(v) / len(v) for v in by_seed.values()) if by_seed else None


def _over(runs: Sequence[Run], column: str) -> Summary | None:
    values = [run[column] for run in runs if run[column] is not None]
    return summarise(values) if values else None


def _mean(runs: Sequence[Run], column: str) -> float | None:
    summary = _over(runs, column)
    return summary.mean if summary else None


def _sheet(rows: Sequence[AccuracyRow]) -> Sheet:
    columns = ["method", "accuracy\n%", "forgetting\npoints", "rise of\nthe loss"]
    columns += ["seeds", "memory", "grad.\nevals", "data\nseen"]
    cells = [
        [
            row.group.label,
            spread(row.accuracy, 1, 100, std_digits=2),
            spread(row.forgetting, 1, 100),
            spread(row.rise, 2),
            str(len(row.group.finished)),
            short(row.memory_per_class),
            short(row.gradient_evaluations),
            short(row.examples_seen),
        ]
        for row in rows
    ]
    notes = [*row_notes(rows), _SPREAD, _RISE]
    notes += [_TRIO] if any(r.rise and r.group.method == "multitask" for r in rows) else []
    return Sheet(title(rows[0].group.runs[0]), columns, cells, [*notes, _COST])


def row_notes(rows: Sequence[AccuracyRow]) -> list[str]:
    """What is to be said of single configurations: settings, and seeds that are in no mean."""
    settings = [row.group.note for row in rows if row.group.differences]
    rises = [
        f"{row.group.label}: rise over {row.rise.count} of {len(row.group.finished)} seeds"
        for row in rows
        if row.rise and row.rise.count < len(row.group.finished)
    ]
    return [*settings, *divergence_notes(rows), *rises]


def divergence_notes(rows: Sequence[AccuracyRow]) -> list[str]:
    """How many seeds diverged; a mean says nothing of them."""
    return [
        f"{row.group.label}: {row.diverged} of {len(row.group.runs)} seeds diverged (the loss "
        "became NaN or infinite); in none of the means"
        for row in rows
        if row.diverged
    ]


def _paper_sheet(rows: Sequence[AccuracyRow]) -> Sheet:
    columns = ["method", "accuracy\n%", "paper", "difference", "95 % interval", "p"]
    columns += ["forgetting\npoints", "paper"]
    cells = []
    for row in rows:
        printed = row.paper
        assert printed is not None
        test = row.accuracy and welch(
            row.accuracy, printed.accuracy / 100, printed.accuracy_std / 100, paper.SEEDS
        )
        cells.append(
            [
                row.group.label,
                spread(row.accuracy, 1, 100, std_digits=2),
                f"{printed.accuracy:.1f} ± {printed.accuracy_std:.2f}",
                *(
                    (
                        f"{100 * test.difference:+.1f}",
                        f"{100 * test.low:+.1f} to {100 * test.high:+.1f}",
                        probability(test.p),
                    )
                    if test
                    else (NOT_AVAILABLE,) * 3
                ),
                spread(row.forgetting, 1, 100),
                _paper_forgetting(printed),
            ]
        )
    first = rows[0].group.runs[0]
    either = f"network: {first['network']}, one of two that the paper may have had"
    notes = [
        *divergence_notes(rows),
        _WELCH,
        _PAPER,
        *([either] if first["network"] in paper.RESNETS else []),
    ]
    return Sheet(f"beside the paper: {title(first)}", columns, cells, notes)


def _paper_forgetting(printed: Published) -> str:
    if printed.forgetting is None or printed.forgetting_std is None:
        return NOT_AVAILABLE
    return f"{100 * printed.forgetting:.0f} ± {100 * printed.forgetting_std:.0f}"
