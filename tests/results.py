"""Rows of small made-up cells, for the tests of everything that reads the store."""

import datetime as dt
from typing import Any

Rows = dict[str, list[dict[str, Any]]]

LINE = {"curve": "linear", "control": "same-init"}


def run(cell: str, seed: int | None = 1, **columns: Any) -> dict[str, Any]:
    """A row of `runs`: a confirmed, finished cell of two tasks."""
    return {
        "cell_id": cell,
        "seed": seed,
        "purpose": "confirm",
        "status": "finished",
        "tasks_completed": columns.get("tasks", 2),
        "method": "mcsgd",
        "benchmark": "rotated-digits",
        "tasks": 2,
        "split": "test",
        "finished_at": dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC),
        **columns,
    }


def accuracies(cell: str, tasks: int = 2, value: float = 0.5) -> list[dict[str, Any]]:
    """A full triangle of accuracies."""
    return [
        {
            "cell_id": cell,
            "minimum": "connected",
            "after_task": after,
            "eval_task": task,
            "split": "test",
            "accuracy": value,
        }
        for after in range(1, tasks + 1)
        for task in range(1, after + 1)
    ]


def barrier(
    cell: str, start: tuple[str, int], stop: tuple[str, int], eval_task: int = 1, **columns: Any
) -> dict[str, Any]:
    """A row of `barriers`."""
    return {
        "cell_id": cell,
        "path_id": f"{start[0]}:{start[1]}->{stop[0]}:{stop[1]}",
        "from_cell_id": cell,
        "to_cell_id": cell,
        "from_minimum": start[0],
        "from_task": start[1],
        "to_minimum": stop[0],
        "to_task": stop[1],
        "eval_task": eval_task,
        "split": "test",
        **LINE,
        **columns,
    }


def path(barriers_row: dict[str, Any], points: int) -> list[dict[str, Any]]:
    """The rows of `paths` that belong to a row of `barriers`."""
    keys = ("cell_id", "path_id", "from_minimum", "from_task", "to_minimum", "to_task")
    same = {name: barriers_row[name] for name in (*keys, "eval_task", "split", *LINE)}
    return [
        {**same, "alpha": index / (points - 1), "accuracy": 0.5, "loss": 1.0}
        for index in range(points)
    ]


def measured(cell: str) -> Rows:
    """What was measured at and between a cell's minima, a row a table."""
    pair = {
        "from_cell_id": cell,
        "to_cell_id": cell,
        "path_id": "sequential:1->multitask:2",
        "control": "same-init",
        "from_minimum": "sequential",
        "from_task": 1,
        "to_minimum": "multitask",
        "to_task": 2,
    }
    on = {"eval_task": 1, "split": "test"}
    return {
        "similarities": [
            {"cell_id": cell, **pair, **on, "layer": "0", "measure": "cka", "value": 0.5}
        ],
        "planes": [{"cell_id": cell, "plane_id": "p", **on, "x": 0.0, "y": 0.5, "loss": 1.0}],
        "spectra": [
            {"cell_id": cell, "minimum": "sequential", "after_task": 1, **on, "to_task": 2}
            | {"rank": 1, "eigenvalue": 2.0}
        ],
    }


def cells(*names: str, value: float = 0.5) -> Rows:
    """The rows of some cells without paths."""
    return {
        "runs": [run(name, average_accuracy=value) for name in names],
        "accuracies": [row for name in names for row in accuracies(name, value=value)],
    }


def trial(number: int, **columns: Any) -> dict[str, Any]:
    """A row of `trials`."""
    return {
        "benchmark": "rotated-digits",
        "study": "mcsgd",
        "number": number,
        "state": "complete",
        "params": "{}",
        **columns,
    }
