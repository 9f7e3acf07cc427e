"""The main result, and how it came about: accuracy after the last task and along the sequence."""

from collections.abc import Sequence

import numpy as np

from lmc_ray.report.exhibits import (
    Curve,
    Exhibit,
    Heat,
    Intervals,
    Lines,
    Section,
    left_out,
)
from lmc_ray.report.source import OWN, Part, Row, ask, moments, summary
from lmc_ray.report.words import interval, with_seeds
from lmc_ray.tables import AccuracyRow, Sheet, row_notes
from lmc_ray.tables.sheet import short

_MOST_CONFIGURATIONS = 16
_MOST_INTERVALS = 40

_SUMMARY = """
SELECT {columns}, count(*) AS seeds,
    {accuracy},
    {forgetting}
FROM runs AS r
WHERE {where} AND r.average_accuracy IS NOT NULL
GROUP BY ALL ORDER BY ALL
"""

_SEQUENCE = """
SELECT {columns}, r.after_task, count(*) AS seeds, {moments}
FROM (
    SELECT r.*, a.after_task, avg(a.accuracy) AS accuracy
    FROM accuracies AS a JOIN runs AS r USING (sweep, cell_id)
    WHERE {where}
        AND a.minimum = {own}
        AND a.eval_task <= a.after_task
    GROUP BY ALL
) AS r
GROUP BY ALL ORDER BY ALL
"""

_MATRIX = """
SELECT {columns}, a.after_task, a.eval_task, count(*) AS seeds, {moments}
FROM accuracies AS a JOIN runs AS r USING (sweep, cell_id)
WHERE {where}
    AND a.minimum = {own}
GROUP BY ALL ORDER BY ALL
"""

_PAPER = "Mirzadeh et al. 2021, Table 1"
_INTERVAL = "mean over seeds with the 95 % interval of the mean by Student's t"


def accuracy(part: Part, rows: Sequence[AccuracyRow]) -> Section | None:
    """Accuracy of the confirmed configurations.

    Args:
        part: where they are.
        rows: what the table of `lmc-ray table` has of them.
    """
    exhibits = [_summary(part, rows), _sequence(part), _matrix(part)]
    found = [exhibit for exhibit in exhibits if exhibit]
    return Section(f"Accuracy: {part.title}", found, part.title) if found else None


def _summary(part: Part, rows: Sequence[AccuracyRow]) -> Exhibit | None:
    sql = _SUMMARY.format(
        columns=part.columns,
        where=part.where,
        accuracy=moments("r.average_accuracy", "accuracy_"),
        forgetting=moments("r.forgetting", "forgetting_"),
    ).strip()
    found = ask(part.database, sql)
    if not found:
        return None
    every = {label: of_group[0] for label, of_group in part.by_group(found).items()}
    by_label = dict(list(every.items())[:_MOST_INTERVALS])
    printed = {row.group.label: row.paper.accuracy if row.paper else None for row in rows}
    reference = [printed.get(label) for label in by_label]
    has_reference = any(value is not None for value in reference)
    forgetting = {
        label: row
        for label, row in by_label.items()
        if row["method"] != "multitask" and row["forgetting_mean"] is not None
    }
    panels = [
        Intervals(
            "",
            "average accuracy, %",
            list(by_label),
            [part.style(row) for row in by_label.values()],
            [summary(row, "accuracy_", 100) for row in by_label.values()],
            reference if has_reference else (),
            _PAPER,
        )
    ]
    if forgetting:
        panels.append(
            Intervals(
                "",
                "forgetting, percentage points",
                list(forgetting),
                [part.style(row) for row in forgetting.values()],
                [summary(row, "forgetting_", 100) for row in forgetting.values()],
            )
        )
    return Exhibit(
        name="summary",
        title="Average accuracy and forgetting",
        text=f"After the last task, on the {part.groups[0].runs[0]['split']} split: {_INTERVAL}."
        + (f" Grey bars: {_PAPER}." if has_reference else ""),
        sql=sql,
        panels=panels,
        sheet=_sheet(rows),
        notes=[*_notes(rows), *left_out("configurations", len(by_label), len(every))],
    )


def _sheet(rows: Sequence[AccuracyRow]) -> Sheet:
    columns = ["method", "accuracy\n%", "forgetting\npoints", "rise of\nthe loss", "seeds"]
    columns += ["memory", "grad.\nevals", "data\nseen", "paper\n%"]
    cells = [
        [
            row.group.label,
            interval(row.accuracy, 1, 100),
            interval(row.forgetting, 1, 100),
            interval(row.rise, 2),
            str(len(row.group.finished)),
            short(row.memory_per_class),
            short(row.gradient_evaluations),
            short(row.examples_seen),
            f"{row.paper.accuracy:.1f} ± {row.paper.accuracy_std:.2f}" if row.paper else "–",
        ]
        for row in rows
    ]
    if not any(row.paper for row in rows):
        columns, cells = columns[:-1], [line[:-1] for line in cells]
    return Sheet("Average accuracy and forgetting", columns, cells)


def _notes(rows: Sequence[AccuracyRow]) -> list[str]:
    notes = row_notes(rows)
    notes.append(
        "rise: highest loss on task 1 along the line from the method's minimum after task 1 to its "
        "last one, minus the loss where the line starts; memory: examples kept per class and task; "
        "grad. evals, data seen: gradient evaluations and examples in them, per seed"
    )
    if any(row.paper for row in rows):
        notes.append("paper: mean ± standard deviation over 5 seeds, tuned on test accuracy")
    return notes


def _sequence(part: Part) -> Exhibit | None:
    sql = _SEQUENCE.format(
        columns=part.columns,
        moments=moments("r.accuracy"),
        where=part.where,
        own=OWN,
    ).strip()
    by_label = part.by_group(ask(part.database, sql))
    if not by_label:
        return None
    curves = [
        Curve(
            label,
            part.style(rows[0]),
            [row["after_task"] for row in rows],
            [summary(row, scale=100) for row in rows],
            shape="both",
        )
        for label, rows in list(by_label.items())[:_MOST_CONFIGURATIONS]
    ]
    return Exhibit(
        name="sequence",
        title="Average accuracy along the sequence",
        text="After each task, the mean accuracy on all tasks learned so far. Bands: 95 % interval "
        "of the mean over seeds. A method that trains on all tasks together has a single point.",
        sql=sql,
        panels=[Lines("", "tasks learned", "average accuracy, %", curves)],
        columns=1,
        notes=left_out("configurations", len(curves), len(by_label)),
    )


def _matrix(part: Part) -> Exhibit | None:
    sql = _MATRIX.format(
        columns=part.columns,
        moments=moments("a.accuracy"),
        where=part.where,
        own=OWN,
    ).strip()
    by_label = part.by_group(ask(part.database, sql))
    if not by_label:
        return None
    drawn = list(by_label.items())[:_MOST_CONFIGURATIONS]
    tasks = max(row["after_task"] for _, rows in drawn for row in rows)
    panels = [_heat(label, rows, tasks) for label, rows in drawn]
    return Exhibit(
        name="matrix",
        title="Accuracy on each task along the sequence",
        text="From left to right, how the accuracy on one task (a row) changes while later tasks "
        "are learned. Colours: mean over seeds.",
        sql=sql,
        panels=panels,
        columns=3,
        notes=left_out("configurations", len(panels), len(by_label)),
    )


def _heat(label: str, rows: Sequence[Row], tasks: int) -> Heat:
    values = np.full((tasks, tasks), np.nan)
    words = [[""] * tasks for _ in range(tasks)]
    for row in rows:
        place = row["eval_task"] - 1, row["after_task"] - 1
        found = summary(row, scale=100)
        values[place] = found.mean
        words[place[0]][place[1]] = (
            f"task {row['eval_task']} after {row['after_task']}: {with_seeds(found, 1)}"
        )
    axis = range(1, tasks + 1)
    return Heat(label, "tasks learned", "task", "accuracy, %", axis, axis, values, words, (0, 100))
