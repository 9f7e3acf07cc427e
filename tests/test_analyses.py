"""Analyses of kept minima: what is planned, what identifies it, what it measures and commits."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from results import run
from small import benchmark, setting, values

from lmc_ray.connectivity.alignment import align
from lmc_ray.connectivity.bezier import bezier_path, fit_control
from lmc_ray.connectivity.curvature import hessian_product
from lmc_ray.connectivity.paths import barriers, linear_path
from lmc_ray.connectivity.similarity import activation_cka, cosines, distances
from lmc_ray.errors import FailedError, UserError
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.measuring import (
    Bend,
    End,
    Place,
    path_rows,
    plane_rows,
    seed_rows,
    similarity_rows,
    spectrum_rows,
)
from lmc_ray.models import build
from lmc_ray.models.weights import to_bytes
from lmc_ray.randomness import stream
from lmc_ray.store import Store
from lmc_ray.store.parquet import digest
from lmc_ray.sweep import cells
from lmc_ray.sweep.analyses import KINDS, SMOKE, Connectivity, Plan, Weights, kinds_of, plan
from lmc_ray.sweep.analyst import measure
from lmc_ray.sweep.cells import Block, Cell
from lmc_ray.sweep.trainable import StackTrainable, Workplace

HOW = replace(SMOKE, bend=Bend(steps=3, batch_size=16))


@pytest.fixture(scope="module")
def where() -> cells.Place:
    few = benchmark()
    return cells.Place(
        benchmark="rotated-digits",
        tasks=3,
        angle=few.angle,
        classes_per_task=None,
        fingerprint=few.fingerprint,
        network="mlp-8-8",
    )


def block(where: cells.Place, method: str, control: bool = False, **changes: Any) -> Block:
    return Block(
        study=method,
        trial=None,
        cells=tuple(
            Cell(
                method=method,
                place=where,
                hyperparameters=values(method, batch_size=64, **changes),
                seed=seed,
                purpose="control" if control else "confirm",
                path_points=0 if control else 3,
                keep_minima=(1, 2, 3),
            )
            for seed in (0, 1, 2)
        ),
    )


def workplace(root: Path) -> Workplace:
    return Workplace("s", str(root), None, {"rotated-digits": "rotated-digits"})


@pytest.fixture(scope="module")
def trained(where: cells.Place, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three trios and their controls, with all minima."""
    root = tmp_path_factory.mktemp("trained")
    for what in (
        block(where, "mcsgd"),
        block(where, "multitask", True, multitask_schedule="growing", initialisation=1),
    ):
        trainable = StackTrainable(
            config={"pack": cells.Pack((what,)), "workplace": workplace(root)}
        )
        trainable.workplace = replace(trainable.workplace, patience=0)
        store = Store(str(root))
        (root / ".lmc-ray").touch()
        while not trainable.train().get("outcomes"):
            pass
    return store


def planned(store: Store, how: Connectivity = HOW, **options: Any) -> Plan:
    with store.database() as database:
        return plan(database, "s", how, **options)


# The plan


def test_the_plan_of_a_trio(trained: Store) -> None:
    found = planned(trained).analyses
    paths = Counter(
        (str(each.ends[0]), str(each.ends[1]), each.eval_tasks, each.control)
        for each in found
        if each.kind == "path"
    )
    for wanted in (
        ("sequential:1", "sequential:3", (1,), "same-init"),
        ("sequential:1", "multitask:3", (1,), "same-init"),
        ("sequential:2", "multitask:2", (2,), "same-init"),
        ("connected:1", "connected:3", (1,), "same-init"),
        ("connected:2", "connected:3", (2,), "same-init"),
        ("sequential:1", "multitask:3", (1,), "other-init"),
    ):
        assert paths[wanted] == 3, f"{wanted}: once a seed"
    kinds = Counter(each.kind for each in found)
    assert kinds == {
        "path": 3 * (2 + 2 + 2 * 3 + 1),
        "seeds": 2 * 2,
        "plane": 3 * 2,
        "spectrum": 3,
        "similarity": 3 * 6,
    }
    assert len({each.id for each in found}) == len(found)
    assert [each.kind for each in found[:3]] == ["spectrum"] * 3, "what takes longest starts first"


def test_minima_kept_later_than_task_1_are_measured_too(trained: Store, tmp_path: Path) -> None:
    """Only after task 1 are ŵ and w* one point."""
    with trained.database() as database:
        rows = database.sql("SELECT * FROM minima WHERE task > 1 ORDER BY ALL").to_arrow_table()
        runs = database.sql("SELECT * FROM runs").to_arrow_table()
    fewer = Store(str(tmp_path))
    fewer.commit("s", "a", {"runs": runs.to_pylist(), "minima": rows.to_pylist()})
    found = planned(fewer, kinds=("path",)).analyses
    paths = Counter((str(e.ends[0]), str(e.ends[1]), e.eval_tasks) for e in found)
    assert paths["sequential:2", "multitask:2", (2,)] == 3
    assert paths["sequential:3", "multitask:3", (3,)] == 3


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"plane_points": 0}, "plane_points must be at least 2"),
        ({"spectrum_examples": 0}, "spectrum_examples must be at least 1"),
        ({"points": 2.5}, "points must be a whole number, got 2.5"),
        ({"tolerance": -1.0}, "tolerance must be at least 0, got -1.0"),
        ({"bend": Bend(batch_size=0)}, "bend.batch_size must be at least 1, got 0"),
        ({"bend": Bend(steps=-5)}, "bend.steps must be at least 1"),
        ({"bend": Bend(learning_rate=float("nan"))}, "bend.learning_rate must be at least 0"),
        ({"eigenpairs": 30, "max_steps": 20}, "eigenpairs=30 is more than max_steps=20"),
    ],
)
def test_measurements_that_nobody_could_make(numbers: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Connectivity(**numbers).check()


def test_seeds_meet_their_own_control(trained: Store) -> None:
    for each in planned(trained, kinds=("path",)).analyses:
        if each.control == "other-init":
            assert each.ends[0].seed == each.ends[1].seed == each.seed
            assert each.ends[0].cell_id != each.ends[1].cell_id
        else:
            assert each.ends[0].cell_id == each.ends[1].cell_id


def test_each_benchmark_has_its_own_controls(trained: Store, tmp_path: Path) -> None:
    both = Store(str(tmp_path))
    with trained.database() as database:
        minima = database.sql("SELECT * EXCLUDE (sweep) FROM minima").to_arrow_table().to_pylist()
    runs = trained.committed("s").values()
    for name in ("rotated-digits", "permuted-digits"):
        rows = {"runs": runs, "minima": minima}
        renamed = {
            table: [row | {"cell_id": f"{name} {row['cell_id']}"} for row in each]
            for table, each in rows.items()
        }
        for row in renamed["runs"]:
            row["config"] = json.dumps(json.loads(row["config"]) | {"benchmark": name})
            del row["sweep"]
        both.commit("s", name, renamed)
    pairs = [each.ends for each in planned(both).analyses if each.control == "other-init"]
    assert len({start.cell_id for start, *_ in pairs}) == 2 * 3
    assert all(a.cell_id.split()[0] == b.cell_id.split()[0] for a, b in pairs)


def test_an_analysis_is_its_specification(trained: Store) -> None:
    one = planned(trained, kinds=("path",)).analyses[0]
    told = json.loads(one.config)
    assert told["purpose"] == "analysis"
    assert told["ends"] == [[end.cell_id, end.minimum, end.task] for end in one.ends]
    assert one.id == planned(trained, kinds=("path",)).analyses[0].id
    finer = planned(trained, replace(HOW, points=7), kinds=("path",)).analyses[0]
    assert finer.id != one.id
    assert replace(one, control="other-init").id != one.id


def test_kinds_of() -> None:
    assert kinds_of(None) == KINDS
    assert kinds_of(["plane", "path", "plane"]) == ("path", "plane")
    with pytest.raises(UserError, match="unknown measurement 'paths': did you mean 'path'"):
        kinds_of(["paths"])


def test_a_path_of_the_users(trained: Store) -> None:
    asked = "multitask:2 -> connected:3 @ all"
    found = planned(trained, kinds=("path",), paths=[asked]).analyses
    own = [each for each in found if str(each.ends[0]) == "multitask:2"]
    assert [each.eval_tasks for each in own] == [(1, 2, 3)] * 3


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("sequential:1->multitask:4@1", "no minimum multitask:4 was kept; kept are .*multitask:3"),
        ("sequential:1->joint:3@1", "no minimum joint:3 was kept"),
        ("sequential:1->multitask:3@4", "there is no task 4, only 1 to 3"),
        ("sequential:1->multitask:3@0", "there is no task 0, only 1 to 3"),
        ("sequential:1->multitask:3", "write it as in"),
        ("sequential:1-multitask:3@1", "write it as in"),
    ],
)
def test_a_path_that_cannot_be(trained: Store, path: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^--path {path}: .*{line}") as caught:
        planned(trained, paths=[path])
    assert "\n" not in str(caught.value)


def test_a_sweep_without_minima(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.commit("s", "a", {"runs": [run("x")]})
    assert planned(store).analyses == []


# What is measured


@pytest.fixture(scope="module")
def here() -> Place:
    return Place(setting(part="full"), "test", 20)


def thetas(place: Place, *seeds: int) -> list[torch.Tensor]:
    return list(place.setting.initial(seeds) * 2)


def ends(*names: str, seeds: Sequence[int] | None = None) -> Any:
    parts = [name.split(":") for name in names]
    own = seeds or [3] * len(parts)
    return tuple(
        End(f"cell-{seed}", seed, minimum, int(task))
        for (minimum, task), seed in zip(parts, own, strict=True)
    )


def test_a_path_is_the_line_itself(here: Place) -> None:
    a, b = thetas(here, 1, 2)
    found = path_rows(
        here, ends("sequential:1", "multitask:3"), (a, b), "same-init", (1, 2), 5, None
    )
    for task in (1, 2):
        examples = here.setting.benchmark.examples(task, "test")
        line = linear_path(here.setting.network, a[None], b[None], 5, examples, None, 20)
        rows = [row for row in found["paths"] if row["eval_task"] == task]
        assert [row["alpha"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
        assert [row["loss"] for row in rows] == line.loss[0].tolist()
        (height,) = (row for row in found["barriers"] if row["eval_task"] == task)
        heights = asdict(barriers(line, 0, same_task=False))
        untrained = ("loss_rise", "error_rise", "connected") if task > 1 else ()
        heights |= dict.fromkeys(untrained)
        assert {name: height[name] for name in heights} == heights
        assert height["instability"] is None
        assert height["path_id"] == "sequential:1->multitask:3"
        assert (height["from_seed"], height["to_task"], height["curve"]) == (3, 3, "linear")


def test_only_a_line_above_both_ends_is_bent(here: Place) -> None:
    """Between two good minima with a hill between them; not on the way to a bad one."""
    network, task = here.setting.network, 1
    examples = here.setting.examples(task)
    good = []
    for theta in thetas(here, 1, 2):
        w = theta[None].clone()
        for _ in range(300):
            pixels = examples.images[None].double() / 255
            _, gradient = network.loss_and_gradient(w, pixels, examples.labels[None])
            w -= 0.5 * gradient
        good.append(w[0])
    bend = Bend(steps=50, learning_rate=0.1, batch_size=1_000)  # more than there are: all
    pair = ends("multitask:3", "multitask:3", seeds=(1, 2))
    found = path_rows(here, pair, (good[0], good[1]), "other-seed", (task,), 9, bend)
    straight, curved = found["barriers"]
    assert [straight["curve"], curved["curve"]] == ["linear", "bezier"]
    assert curved["max_loss"] < straight["max_loss"]
    assert len(found["paths"]) == 2 * 9
    start, end = (theta[None] for theta in good)
    how: Any = {"seeds": [1], "steps": 50, "learning_rate": 0.1}
    how |= {"batch_size": len(examples.labels)}
    control = fit_control(network, start, end, examples, None, **how)
    shown = here.setting.examples(task, "test")
    curve = bezier_path(network, start, control, end, 9, shown, None, 20)
    assert [row["loss"] for row in found["paths"][9:]] == curve.loss[0].tolist()
    bad = good[0].clone()
    network.layout.views(bad[None])["2.weight"].neg_()  # wrong wherever it was right
    downhill = path_rows(here, pair, (good[0], bad), "other-seed", (task,), 9, bend)
    assert [row["curve"] for row in downhill["barriers"]] == ["linear"]


def test_alignment_moves_the_end_and_not_what_it_computes(here: Place) -> None:
    a, b = thetas(here, 1, 2)
    found = seed_rows(here, ends("sequential:1", "sequential:1", seeds=(1, 2)), (a, b), (1,), 5)
    by_control = {
        control: [row["loss"] for row in found["paths"] if row["control"] == control]
        for control in ("other-seed", "aligned")
    }
    before, after = by_control["other-seed"], by_control["aligned"]
    assert after[0] == before[0]
    assert after[-1] == pytest.approx(before[-1])
    assert after[1:-1] != before[1:-1]
    heights = {row["control"]: row for row in found["barriers"]}
    assert heights["aligned"]["instability"] is not None, "both ends were trained on one task"
    moved = align(here.setting.network, a, b, stream(1, "align"))
    examples = here.setting.benchmark.examples(1, "test")
    _, loss = evaluate(here.setting.network, ((a + moved) / 2)[None], examples, None, 20)
    assert after[2] == pytest.approx(float(loss))


def test_a_spectrum_and_its_overlaps(here: Place) -> None:
    at, one, two = thetas(here, 1, 2, 3)
    names = ends("sequential:1", "sequential:2", "multitask:2")
    found = spectrum_rows(here, names, (at, one, two), 3, 1_000, 1e-9, 200)["spectra"]
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert [row["to_task"] for row in found] == [2, 2, 2]
    assert found[0]["examples"] == here.setting.size(1)
    assert found[0]["eigenvalue"] >= found[1]["eigenvalue"] >= found[2]["eigenvalue"]
    assert max(row["residual"] for row in found) < 1e-6
    # Along the sharpest direction the loss bends by its eigenvalue: the second difference says so.
    way = (one - at) / (one - at).norm()
    everything = here.setting.examples(1)
    bent = hessian_product(here.setting.network, at[None], everything, None, 20)(way[None])
    assert float((way * bent[0]).sum()) <= found[0]["eigenvalue"] + 1e-9
    # And the directions are those of the Hessian itself, put together column by column.
    unit = torch.eye(len(at), dtype=at.dtype)
    columns = [
        hessian_product(here.setting.network, at[None], everything, None, 20)(each[None])[0]
        for each in unit
    ]
    _, directions = torch.linalg.eigh(torch.stack(columns))
    for rank, row in enumerate(found, 1):
        for name, end in (("sequential", one), ("multitask", two)):
            along = (directions[:, -rank] @ (end - at)) / (end - at).norm()
            assert row[f"overlap_{name}"] == pytest.approx(abs(float(along)), abs=1e-5)


def test_a_spectrum_stands_whatever_became_of_later_minima(here: Place) -> None:
    at, one, two = thetas(here, 1, 2, 3)
    names = ends("sequential:1", "sequential:2", "multitask:2")
    whole, part = (
        spectrum_rows(here, names, (at, way, two), 3, 1_000, 1e-9, 200)["spectra"]
        for way in (one, torch.full_like(one, torch.inf))
    )
    assert part == [
        {name: value for name, value in row.items() if name != "overlap_sequential"}
        for row in whole
    ]


def test_three_minima_in_line_have_no_plane(here: Place) -> None:
    a, b = thetas(here, 1, 2)
    names = ends("sequential:1", "sequential:2", "connected:2")
    assert plane_rows(here, names, (a, b, b), (1,), 5, 10) == {"planes": []}
    assert plane_rows(here, names, (a, b, (a + b) / 2), (1,), 5, 10) == {"planes": []}
    assert len(plane_rows(here, names, (a, b, 2 * a), (1,), 5, 10)["planes"]) == 25


def test_on_a_plane_the_minima_are_where_their_anchors_are(here: Place) -> None:
    """Eight points a side, of which the second and the seventh are the anchors' box."""
    a, b, c = thetas(here, 1, 2, 3)
    way = (b - a) / (b - a).norm()
    c -= way * ((c - a) @ way)  # above a
    names = ends("sequential:1", "sequential:2", "connected:2")
    found = plane_rows(here, names, (a, b, c), (2,), 8, 25)["planes"]
    at = {(row["x"], row["y"]): row for row in found}
    examples = here.examples(2, 25)
    for theta, x, y in zip((a, b, c), found[0]["anchor_x"], found[0]["anchor_y"], strict=True):
        accuracy, loss = evaluate(here.setting.network, theta[None], examples, None, 20)
        row = at[min(at, key=lambda place: math.dist(place, (x, y)))]
        assert (row["x"], row["y"]) == pytest.approx((x, y), abs=1e-6)
        assert row["loss"] == pytest.approx(float(loss))
        assert row["accuracy"] == float(accuracy)


def test_a_similarity_is_that_of_the_two_minima(here: Place) -> None:
    a, b = thetas(here, 1, 2)
    names = ends("sequential:1", "multitask:3")
    found = similarity_rows(here, names, (a, b), "same-init", (1, 2), 25)["similarities"]
    network, pair = here.setting.network, (a[None], b[None])
    wanted: dict[tuple[str, int | None], dict[str, torch.Tensor]] = {
        ("l2", None): distances(network, *pair),
        ("cosine", None): cosines(network, *pair),
    }
    for task in (1, 2):
        images = here.setting.examples(task, "test").images[:25]
        wanted["cka", task] = activation_cka(network, *pair, images, 20)
    assert {
        (row["measure"], row.get("eval_task"), row["layer"]): row["value"] for row in found
    } == {(*key, layer): float(x) for key, each in wanted.items() for layer, x in each.items()}


# As cells


def rows_of(store: Store, table: str) -> list[dict[str, Any]]:
    with store.database() as database:
        sql = (
            f"SELECT t.* FROM {table} t SEMI JOIN (FROM runs WHERE analysis <> '') USING (cell_id)"
        )
        return database.sql(sql).to_arrow_table().to_pylist()


def test_every_kind_is_committed_with_its_rows(trained: Store) -> None:
    what = planned(trained)
    firsts = {each.kind: each for each in reversed(what.analyses)}
    for each in firsts.values():
        measure(workplace(Path(trained.root)), each, [what.weights[end] for end in each.ends])
    runs = {row["analysis"]: row for row in rows_of(trained, "runs")}
    assert set(runs) == set(KINDS)
    for kind, row in runs.items():
        assert (row["cell_id"], row["config"]) == (firsts[kind].id, firsts[kind].config)
        assert (row["purpose"], row["status"], row["method"]) == ("analysis", "finished", "mcsgd")
        assert row["seed"] == (None if kind == "seeds" else 0)
        assert row["average_accuracy"] is None
    tables = {
        "paths": {"path", "seeds"},
        "barriers": {"path", "seeds"},
        "planes": {"plane"},
        "spectra": {"spectrum"},
        "similarities": {"similarity"},
    }
    of_kind = {row["cell_id"]: kind for kind, row in runs.items()}
    for table, kinds in tables.items():
        assert {of_kind[row["cell_id"]] for row in rows_of(trained, table)} == kinds
    assert len(rows_of(trained, "planes")) == HOW.plane_points**2
    assert trained.verify() == []


def test_an_analysis_shows_test_images_and_has_learned_from_all_others(trained: Store) -> None:
    what = planned(trained, replace(HOW, spectrum_examples=5_000), kinds=("path", "spectrum"))
    ways = {(*map(str, each.ends), *each.eval_tasks): each for each in what.analyses}
    way = ways["sequential:1", "sequential:3", 1]
    spectrum = what.analyses[0]
    for each in (way, spectrum):
        measure(workplace(Path(trained.root)), each, [what.weights[end] for end in each.ends])
    points = [row for row in rows_of(trained, "paths") if row["cell_id"] == way.id]
    with trained.database() as database:
        sql = """SELECT loss FROM accuracies WHERE cell_id = ? AND minimum = 'sequential'
            AND after_task = 1 AND eval_task = 1 AND split = 'test'"""
        (own,) = database.execute(sql, [way.ends[0].cell_id]).fetchall()
    assert {row["split"] for row in points} == {"test"}
    assert min(points, key=lambda row: row["alpha"])["loss"] == pytest.approx(own[0], abs=1e-6)
    seen = {row["examples"] for row in rows_of(trained, "spectra") if row["cell_id"] == spectrum.id}
    assert seen == {1257 + 180}


def test_a_minimum_that_is_not_finite_is_not_measured(trained: Store) -> None:
    what = planned(trained, kinds=("spectrum",))
    each = replace(what.analyses[0], eval_tasks=(2,))  # a cell of its own
    network = build(each.place.network, (1, 8, 8), 10)
    theta = torch.full((network.layout.size,), torch.nan)
    data = to_bytes(network, theta, {})
    trained.write_weights("weights/sweep=s/nan/x.safetensors", data)
    bad = Weights("weights/sweep=s/nan/x.safetensors", digest(data))
    good = [what.weights[end] for end in each.ends[1:]]
    measure(workplace(Path(trained.root)), each, [bad, *good])
    row = trained.committed("s")[each.id]
    assert (row["status"], row["analysis"]) == ("diverged", "spectrum")


def test_a_minimum_that_is_not_what_it_was(trained: Store, tmp_path: Path) -> None:
    what = planned(trained, kinds=("similarity",))
    each = what.analyses[0]
    good = [what.weights[end] for end in each.ends]
    for bad, says in (
        (Weights("weights/nowhere", good[0].sha256), "cannot be read"),
        (Weights(good[1].uri, good[0].sha256), "was altered"),
    ):
        with pytest.raises(FailedError) as caught:
            measure(workplace(Path(trained.root)), each, [bad, good[1]])
        line = str(caught.value)
        assert says in line
        assert f"minimum {each.ends[0]} of cell {each.ends[0].cell_id} (seed 0)" in line
        assert "train it again: the same command with another --results" in line
        assert "\n" not in line


def test_minima_of_another_network(trained: Store) -> None:
    what = planned(trained, kinds=("similarity",))
    each = what.analyses[0]
    other = replace(each, place=replace(each.place, network="mlp-8-16"))
    with pytest.raises(FailedError, match="not those of a mlp-8-16"):
        measure(workplace(Path(trained.root)), other, [what.weights[end] for end in each.ends])
