"""A made-up root with something in every table, for the tests of reports: small, but lifelike."""

import json
import math
from typing import Any

import numpy as np
from results import Rows, barrier, run, trial

from lmc_ray.store import Store

TASKS = 5
SEEDS = (1, 2, 3, 4, 5)
METHODS = {  # end accuracy on the first task, and the minimum that is the method's own
    "naive-sgd": (0.35, "sequential"),
    "er": (0.62, "sequential"),
    "stable-sgd": (0.55, "sequential"),
    "mcsgd": (0.82, "connected"),
    "multitask": (0.95, "multitask"),
}
LAYERS = ("layer1", "layer2", "layer10", "all")
GRID = 15
FINE = 41
"""Points of an analysis' paths; training's have 21."""


def small_study(root: str) -> Store:
    """Sweep `study`: search, confirmed seeds, analyses; sweep `study-nightly`: nights."""
    store = Store(root)
    rng = np.random.default_rng(0)
    store.commit("study", "cells", confirmed(rng))
    store.commit("study", "analyses", analyses(rng))
    store.commit("study", "trials", {"trials": [*trials(rng), *pareto(rng)]})
    store.commit("study-nightly", "nights", {"nights": nights(rng)})
    return store


def confirmed(rng: np.random.Generator) -> Rows:
    rows: Rows = {"runs": [], "accuracies": [], "barriers": [], "paths": []}
    for method, (end, own) in METHODS.items():
        for seed in SEEDS:
            cell = f"{method}-{seed}"
            matrix = accuracies(rng, method, end)
            rows["runs"].append(_run(cell, seed, method, matrix))
            rows["accuracies"] += [
                {"cell_id": cell, "minimum": own, "split": "test", "loss": 1 - value}
                | {"after_task": after, "eval_task": task, "accuracy": value}
                for (after, task), value in matrix.items()
            ]
            if method != "multitask":
                add_path(rows, rng, cell, (own, 1), (own, TASKS), 1, height=4 * (1 - end))
            if method == "mcsgd":
                start = ("sequential", 1)
                add_path(rows, rng, cell, start, ("sequential", TASKS), 1, height=3.0)
                add_path(rows, rng, cell, start, ("multitask", TASKS), 1, height=0.05)
                add_path(rows, rng, cell, start, ("multitask", TASKS), 1, 3.5, "other-init")
                add_path(rows, rng, cell, ("sequential", TASKS), ("multitask", TASKS), TASKS, 0.1)
    return rows


def accuracies(rng: np.random.Generator, method: str, end: float) -> dict[tuple[int, int], float]:
    first = TASKS if method == "multitask" else 1
    return {
        (after, task): float(
            np.clip(0.96 - (0.96 - end) * (after - task) / TASKS + rng.normal(0, 0.015), 0, 1)
        )
        for after in range(first, TASKS + 1)
        for task in range(1, after + 1)
    }


def _run(cell: str, seed: int, method: str, matrix: dict[tuple[int, int], float]) -> dict[str, Any]:
    last = [value for (after, _), value in matrix.items() if after == TASKS]
    return run(
        cell,
        seed,
        method=method,
        tasks=TASKS,
        average_accuracy=sum(last) / len(last),
        forgetting=None if method == "multitask" else 0.9 - last[0],
        gradient_evaluations=12_000 + seed,
        examples_seen=500_000,
        memory_per_class=1 if method in ("er", "mcsgd") else None,
        wall_seconds=60.0,
        device="cpu",
        version="0.1.0",
    )


def add_path(
    rows: Rows,
    rng: np.random.Generator,
    cell: str,
    start: tuple[str, int],
    stop: tuple[str, int],
    task: int,
    height: float,
    control: str = "same-init",
    points: int = 21,
    **columns: Any,
) -> None:
    scale = height * float(rng.uniform(0.8, 1.2))
    line = barrier(cell, start, stop, task, control=control, loss_rise=scale, loss_barrier=scale)
    line |= columns
    rows["barriers"].append(line)
    keys = ("cell_id", "path_id", "from_minimum", "from_task", "to_minimum", "to_task")
    same = {name: line[name] for name in (*keys, "eval_task", "split", "curve", "control")}
    hump = control == "other-init"
    for index in range(points):
        alpha = index / (points - 1)
        rise = scale * (math.sin(math.pi * alpha) if hump else alpha**2)
        point = {"alpha": alpha, "loss": 0.1 + rise, "accuracy": 0.97 * math.exp(-0.4 * rise)}
        rows["paths"].append({**same, **point})


def analyses(rng: np.random.Generator) -> Rows:
    rows: Rows = {"runs": [], "planes": [], "spectra": [], "similarities": []}
    rows |= {"barriers": [], "paths": []}
    for seed in SEEDS[:3]:
        for kind, table, made in (
            ("plane", "planes", plane(rng)),
            ("spectrum", "spectra", spectrum(rng)),
            ("similarity", "similarities", similarities(rng, f"mcsgd-{seed}")),
        ):
            cell = f"{kind}-{seed}"
            rows["runs"].append(_analysis(cell, seed, kind))
            rows[table] += [{"cell_id": cell, "split": "test", **row} for row in made]
    for seed in SEEDS:
        _measure_paths(rows, rng, seed)
    return rows


def _analysis(cell: str, seed: int, kind: str, **columns: Any) -> dict[str, Any]:
    config = json.dumps({"ends": [[f"mcsgd-{seed}", "sequential", 1]]})
    own = {"purpose": "analysis", "analysis": kind, "tasks": TASKS, "config": config}
    return run(cell, seed, **own, **columns)


def _measure_paths(rows: Rows, rng: np.random.Generator, seed: int) -> None:
    """A path that training has measured too, on more points; others; those to the next seed."""
    cell, start = f"path-{seed}", ("sequential", 1)
    rows["runs"].append(_analysis(cell, seed, "path", path_points=FINE))
    own: dict[str, Any] = {"from_cell_id": f"mcsgd-{seed}", "to_cell_id": f"mcsgd-{seed}"}
    own |= {"from_seed": seed, "to_seed": seed}
    for ends, task, height, more in (
        ((start, ("multitask", TASKS)), 1, 0.05, {}),
        ((start, ("sequential", 2)), 1, 1.0, {}),
        ((("connected", 2), ("connected", TASKS)), 2, 0.2, {}),
        ((("sequential", TASKS), start), 1, 3.0, {}),
        *(
            [((("sequential", TASKS), ("multitask", TASKS)), TASKS, 0.02, {"curve": "bezier"})]
            if seed < SEEDS[-1]
            else []
        ),
    ):
        add_path(rows, rng, cell, *ends, task, height, points=FINE, **own, **more)
    if seed < SEEDS[-1]:
        pair = f"seeds-{seed}"
        rows["runs"].append(_analysis(pair, seed, "seeds", path_points=FINE) | {"seed": None})
        own |= {"to_cell_id": f"mcsgd-{seed + 1}", "to_seed": seed + 1}
        for control, height in (("other-seed", 1.0), ("aligned", 0.1)):
            add_path(rows, rng, pair, start, start, 1, height, control, FINE, **own)


def plane(rng: np.random.Generator) -> list[dict[str, Any]]:
    corners = [(0.0, 0.0), (8.0, 0.0), (float(rng.uniform(3, 5)), 6.0)]
    names = [f"sequential:{1}", f"sequential:{TASKS}", f"multitask:{TASKS}"]
    same = {
        "plane_id": "|".join(names),
        "anchors": names,
        "anchor_x": [x for x, _ in corners],
        "anchor_y": [y for _, y in corners],
    }
    return [
        {**same, "eval_task": task, "x": float(x), "y": float(y), "accuracy": 0.5}
        | {"loss": 0.05 + 0.03 * ((x - centre[0]) ** 2 + 2 * (y - centre[1]) ** 2)}
        for task, centre in ((1, (1.0, 1.0)), (TASKS, (7.0, 1.0)))
        for y in np.linspace(-1.5, 7.5, GRID)
        for x in np.linspace(-1.6, 9.6, GRID)
    ]


def spectrum(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "minimum": "sequential",
            "after_task": 1,
            "eval_task": 1,
            "to_task": to,
            "rank": rank,
            "eigenvalue": float(30 * rank**-1.1 * rng.uniform(0.9, 1.1)),
            "residual": 1e-6,
            "overlap_sequential": float(0.35 / rank * rng.uniform(0.7, 1.3)),
            "overlap_multitask": float(0.05 / rank * rng.uniform(0.5, 1.5)),
        }
        for to in (2, TASKS)
        for rank in range(1, 11)
    ]


def similarities(rng: np.random.Generator, cell: str) -> list[dict[str, Any]]:
    pairs = [
        (("sequential", 1), (kind, task), control)
        for kind in ("sequential", "multitask")
        for task in (2, TASKS)
        for control in ("same-init", "other-init")
    ]
    values = {"l2": (5, 20), "cosine": (0.2, 1), "cka": (0.3, 1)}
    return [
        {
            "path_id": f"{start[0]}:{start[1]}->{stop[0]}:{stop[1]}",
            "from_cell_id": cell,
            "to_cell_id": cell,
            "from_minimum": start[0],
            "from_task": start[1],
            "to_minimum": stop[0],
            "to_task": stop[1],
            "control": control,
            "layer": layer,
            "measure": measure,
            "eval_task": 1 if measure == "cka" else None,
            "value": float(rng.uniform(*values[measure])),
        }
        for start, stop, control in pairs
        for measure in values
        for layer in LAYERS
        if (measure, layer) != ("cka", "all")
    ]


def trials(rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for number in range(40):
        rate, dropout = 10 ** float(rng.uniform(-2.5, -0.5)), float(rng.uniform(0, 0.5))
        params = {"learning_rate": rate, "dropout": dropout, "continue_from": "connected"}
        params["batch_size"] = int(rng.choice([16, 32, 64]))
        value = 0.85 - 0.15 * abs(math.log10(rate) + 1.2) - 0.1 * dropout
        state = "pruned" if number % 7 == 6 else "diverged" if number == 21 else "complete"
        found.append(
            trial(
                number,
                generation=number // 4,
                params=json.dumps(params),
                value=0.1 if state == "diverged" else value,
                values=[0.1 if state == "diverged" else value],
                state=state,
                pruned_at_task=2 if state == "pruned" else None,
            )
        )
    return found


def pareto(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        trial(
            number,
            study="er",
            params=json.dumps({"memory_per_class": memory, "learning_rate": 0.1}),
            values=[0.5 + 0.08 * math.log(memory) + float(rng.normal(0, 0.02)), memory],
        )
        for number, memory in enumerate(int(each) for each in rng.integers(1, 11, 25))
    ]


def nights(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "night": f"2026-11-{day:02d}",
            "method": method,
            "benchmark": "rotated-digits",
            "configuration": json.dumps({"method": method, "epochs": 5 if day < 15 else 6}),
            "seeds": 3,
            "mean": (mean := end - 0.05 * (day == 19) + float(rng.normal(0, 0.005))),
            "low": mean - 0.02,
            "high": mean + 0.02,
            "earlier_seeds": 5 + day,
            "difference": -0.05 if day == 19 else 0.0,
            "difference_low": -0.06,
            "difference_high": 0.01,
            "p": 0.001 if day == 19 else 0.6,
            "anchors": 2,
            "comparisons": 4,
            "false_alarms": 0.05,
            "minimum_effect": 0.01,
            "verdict": "regressed" if day == 19 else "fine",
            "version": "0.1.0",
        }
        for day in range(10, 21)
        for method, end in (("mcsgd", 0.82), ("stable-sgd", 0.6))
    ]
