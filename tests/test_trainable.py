"""The trainable, driven as Tune drives it, but without Ray: reuse, resumption, rows, outcomes."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import pytest
import torch

from lmc_ray.benchmarks import load
from lmc_ray.errors import UnavailableError
from lmc_ray.learners import METHODS, hyperparameters
from lmc_ray.metrics import summarize
from lmc_ray.store import Store
from lmc_ray.store.presence import plant_flag
from lmc_ray.sweep.cells import Block, Cell, Outcome, Pack, Place
from lmc_ray.sweep.checkpoints import Checkpoints
from lmc_ray.sweep.trainable import (
    StackTrainable,
    Workplace,
    benchmark_at,
    setting_of,
    stored_outcomes,
    training_of,
)
from lmc_ray.training import Measurement, Training

TASKS = 3
CHANCE = 0.1
CHANCES = {"rotated-digits": CHANCE}
TABLES = ("runs", "accuracies", "paths", "barriers")
# What may differ between two runs of one cell, and nothing else may.
FREE = {"sweep", "attempt", "wall_seconds", "started_at", "finished_at"}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def place() -> Place:
    benchmark = load("rotated-digits", tasks=TASKS)
    return Place(
        benchmark=benchmark.name,
        tasks=TASKS,
        angle=benchmark.angle,
        classes_per_task=None,
        fingerprint=benchmark.fingerprint,
        network="mlp-8-8",
    )


def block(
    place: Place,
    method: str,
    *configurations: dict[str, Any],
    confirm: bool = False,
    limits: tuple[float | None, ...] = (),
) -> Block:
    """A block with one cell a configuration, the n-th with the n-th seed."""
    points = 5 if confirm and method != "multitask" else 0
    small: dict[str, Any] = {"batch_size": 64, "epochs": 1}
    if method == "mcsgd":
        small |= {"connect_steps": 3, "line_samples": 2}
    cells = tuple(
        Cell(
            method=method,
            place=place,
            hyperparameters=hyperparameters(method, small | values),
            seed=seed,
            purpose="confirm" if confirm else "search",
            path_points=points,
        )
        for seed, values in enumerate(configurations)
    )
    return Block(study=method, trial=None if confirm else 7, cells=cells, prune_below=limits)


def workplace(root: Path, name: str = "sweep") -> Workplace:
    return Workplace(name, str(root), None, {"rotated-digits": "rotated-digits"})


def config(root: Path, what: Block) -> dict[str, Any]:
    plant_flag(str(root))
    return {"pack": Pack((what,)), "workplace": workplace(root)}


def finish(trainable: StackTrainable) -> dict[str, Any]:
    result: dict[str, Any] = {}
    while not result.get("done"):
        result = trainable.train()
        assert result["training_iteration"] <= TASKS
    return result


def run(root: Path, what: Block) -> tuple[Rows, dict[str, Outcome]]:
    result = finish(StackTrainable(config=config(root, what)))
    return rows(root), dict(result["outcomes"])


def rows(root: Path) -> Rows:
    """Everything that a root holds, but what may differ from run to run."""
    found: Rows = {}
    with Store(str(root)).database() as database:
        for table in TABLES:
            relation = database.sql(f"SELECT * FROM {table} ORDER BY ALL")
            names = relation.columns
            found[table] = [
                {k: v for k, v in zip(names, values, strict=True) if k not in FREE}
                for values in relation.fetchall()
            ]
    return {table: sorted(each, key=repr) for table, each in found.items()}


def same(one: Rows, other: Rows) -> bool:
    """Equality to the bit; a NaN equals itself."""
    return repr(one) == repr(other)


BLOCKS: dict[str, tuple[str, Sequence[dict[str, Any]], bool]] = {
    "mcsgd search": ("mcsgd", [{"dropout": 0.3}] * 2, False),
    "mcsgd confirm": ("mcsgd", [{"memory_per_class": 2}] * 2, True),
    "mcsgd as the authors": (
        "mcsgd",
        [{"connect_steps": 0, "connect_schedule": "author", "continue_from": "sequential"}],
        True,
    ),
    "stable-sgd search": ("stable-sgd", [{}, {"learning_rate": 0.02}, {"dropout": 0.1}], False),
    "stable-sgd confirm": ("stable-sgd", [{"momentum": 0.5}] * 2, True),
    "naive-sgd confirm": ("naive-sgd", [{"momentum": 0.5}], True),
    "joint search": ("multitask", [{}] * 2, False),
    "growing confirm": ("multitask", [{"multitask_schedule": "growing"}], True),
    "one diverges": ("stable-sgd", [{}, {"learning_rate": 1e30}, {"dropout": 0.3}], True),
    "all diverge": ("mcsgd", [{"learning_rate": 1e30}] * 2, True),
    "multitask diverges": ("multitask", [{"learning_rate": 1e30}, {}], False),
    "late divergence": ("mcsgd", [{}, {"connect_learning_rate": 1e30}], True),
}


def named(name: str, place: Place) -> Block:
    method, configurations, confirm = BLOCKS[name]
    return block(place, method, *configurations, confirm=confirm)


@dataclass(frozen=True)
class Whole:
    """A block that ran once, undisturbed."""

    block: Block
    root: Path
    rows: Rows
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """Each block of `BLOCKS`, run when first asked for."""

    @cache
    def undisturbed(name: str) -> Whole:
        root, what = tmp_path_factory.mktemp("whole"), named(name, place)
        return Whole(what, root, *run(root, what))

    return undisturbed


@pytest.mark.parametrize("name", BLOCKS)
def test_resumed_after_any_task_equals_uninterrupted(
    tmp_path: Path, place: Place, whole: Callable[[str], Whole], name: str
) -> None:
    wanted = whole(name)
    for cut in range(1, TASKS):
        root = tmp_path / f"cut-{cut}"
        first = StackTrainable(config=config(root, wanted.block))
        results = [first.train() for _ in range(cut)]
        if results[-1]["done"]:
            break  # nothing is left to train, nothing to resume
        other = StackTrainable(config=config(tmp_path, named("joint search", place)))
        other.train()
        other.reset(config(root, wanted.block))
        assert other.resumed == cut
        assert other.started_at == first.started_at
        assert dict(finish(other)["outcomes"]) == wanted.outcomes
        assert same(rows(root), wanted.rows)


def test_resumed_again_and_again(tmp_path: Path, whole: Callable[[str], Whole]) -> None:
    """A worker lost after each task, and two that learn the last task at the same time."""
    wanted = whole("mcsgd confirm")
    root = tmp_path / "cut"
    for task in range(1, TASKS):
        result = StackTrainable(config=config(root, wanted.block)).train()
        assert (result["task"], result["resumed"]) == (task, task - 1 or None)
    last, late = (StackTrainable(config=config(root, wanted.block)) for _ in range(2))
    for trainable in (last, late):
        result = trainable.train()
        assert result["resumed"] == TASKS - 1
        assert dict(result["outcomes"]) == wanted.outcomes
    marks = list((root / "runs").rglob("*.parquet"))
    assert len(marks) == 2, "the cells were committed twice, and are seen once"
    assert same(rows(root), wanted.rows)
    assert not list(root.rglob("*.pt")), "a committed block needs no checkpoint"


def test_a_block_under_other_limits_starts_anew(tmp_path: Path, place: Place) -> None:
    """What was not pruned under the one's limits might have been under the other's."""
    free = block(place, "stable-sgd", {}, {})
    StackTrainable(config=config(tmp_path, free)).train()
    assert StackTrainable(config=config(tmp_path, free)).resumed == 1
    limited = replace(free, prune_below=(0.5, None, None))
    assert StackTrainable(config=config(tmp_path, limited)).resumed is None
    fewer = replace(free, cells=free.cells[:1])
    assert StackTrainable(config=config(tmp_path, fewer)).resumed is None


def test_a_commit_waits_for_the_root(tmp_path: Path, whole: Callable[[str], Whole]) -> None:
    """Also where an empty folder stands in its place, as when a file system is not mounted."""
    wanted, root, away = whole("mcsgd search"), tmp_path / "root", tmp_path / "away"
    trainable = StackTrainable(config=config(root, wanted.block))
    for task in range(1, TASKS):
        assert trainable.train()["task"] == task
    root.rename(away)
    assert ".lmc-ray" in trainable.train()["waits"]
    root.mkdir()
    assert ".lmc-ray" in trainable.train()["waits"]
    assert not list(root.iterdir()), "results went to the folder under the mount"
    root.rmdir()
    away.rename(root)
    assert dict(trainable.train()["outcomes"]) == wanted.outcomes
    assert same(rows(root), wanted.rows)
    assert not Store(str(root)).verify()


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_a_worker_waits_for_a_store_that_does_not_answer(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """AWS is asked for a bucket's region before anything else; here it answers at the second try.

    That it never does is no failure of the trial.
    """
    answers = iter([False, True])

    def asked(*root: str) -> Checkpoints:
        if not next(answers):
            raise UnavailableError("cannot open the results root: no connection")
        return Checkpoints(*root)

    monkeypatch.setattr("lmc_ray.sweep.trainable.Checkpoints", asked)
    monkeypatch.setattr("lmc_ray.sweep.backoff.FIRST", 0.01)
    there = replace(workplace(tmp_path), patience=patience)
    config = {"pack": Pack((block(place, "naive-sgd", {}),)), "workplace": there}
    result = StackTrainable(config=config).train()
    if patience:
        assert result["task"] == 1
    else:
        assert result["lost"].startswith("cannot open the results root")


@pytest.mark.parametrize(("share", "device"), [([0], "cuda"), ([], "cpu")])
def test_a_worker_without_a_share_of_a_gpu_leaves_it_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, share: list[int], device: str
) -> None:
    """Ray hides it from nobody; what Ray and torch would say here, where there may be none."""
    module = "lmc_ray.sweep.trainable"
    monkeypatch.setattr(f"{module}.choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(f"{module}.is_initialized", lambda: True)
    monkeypatch.setattr(f"{module}.get_gpu_ids", lambda: share)
    benchmark = load("rotated-digits", tasks=TASKS)
    assert setting_of(place, benchmark, "train").device.type == device


def test_a_block_is_lost_when_patience_is_at_its_end(
    tmp_path: Path, whole: Callable[[str], Whole]
) -> None:
    wanted, root = whole("mcsgd search"), tmp_path / "root"
    impatient = config(root, wanted.block)
    impatient["workplace"] = replace(impatient["workplace"], patience=0.1)
    trainable = StackTrainable(config=impatient)
    for _ in range(TASKS - 1):
        trainable.train()
    (root / ".lmc-ray").unlink()
    assert "waits" in trainable.train()
    result = trainable.train()
    assert result["done"]
    assert f".lmc-ray', on node {gethostname()}" in result["lost"]
    assert "outcomes" not in result
    assert rows(root)["runs"] == []


def test_a_checkpoint_that_cannot_be_read_only_costs_time(tmp_path: Path, place: Place) -> None:
    """Torn by whatever: its pack starts anew, to the same end."""
    what = block(place, "mcsgd", {})
    trainable = StackTrainable(config=config(tmp_path, what))
    trainable.train()
    (file,) = (tmp_path / ".checkpoints").rglob("*.pt")
    data = file.read_bytes()
    for torn in (b"", data[: len(data) // 2], b"nonsense"):
        file.write_bytes(torn)
        again = StackTrainable(config=config(tmp_path, what))
        assert again.resumed is None
        assert again.training.task == 0


def test_a_device_that_is_full_before_the_first_step_halves_the_stack_too(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Training:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("lmc_ray.sweep.trainable.training_of", full)
    result = StackTrainable(config=config(tmp_path, block(place, "naive-sgd", {}, {}))).train()
    assert result["too_large"] == 2


def test_a_block_whose_checkpoints_cannot_be_written_goes_on(
    tmp_path: Path, whole: Callable[[str], Whole]
) -> None:
    wanted = whole("mcsgd search")
    (tmp_path / ".checkpoints").write_text("in the way")
    trainable = StackTrainable(config=config(tmp_path, wanted.block))
    assert dict(finish(trainable)["outcomes"]) == wanted.outcomes
    assert same(rows(tmp_path), wanted.rows)


def check_reused(
    reused: StackTrainable, root: Path, names: Sequence[str], whole: Callable[[str], Whole]
) -> None:
    """An actor that has done something else gives the rows of a fresh one."""
    for number, name in enumerate(names):
        wanted = whole(name)
        own = root / str(number)
        assert reused.reset(config(own, wanted.block))
        assert dict(finish(reused)["outcomes"]) == wanted.outcomes
        assert same(rows(own), wanted.rows)


@pytest.mark.parametrize("before", BLOCKS)
def test_a_reused_actor_has_no_memory(
    tmp_path: Path, whole: Callable[[str], Whole], before: str
) -> None:
    reused = StackTrainable(config=config(tmp_path / "first", whole(before).block))
    finish(reused)
    check_reused(reused, tmp_path, ["mcsgd confirm"], whole)


def test_an_actor_that_does_everything(tmp_path: Path, whole: Callable[[str], Whole]) -> None:
    names = [*BLOCKS, *reversed(BLOCKS)]
    reused = StackTrainable(config=config(tmp_path / "first", whole(names[0]).block))
    check_reused(reused, tmp_path, names, whole)


def test_an_actor_is_reused_in_the_middle_of_a_block(
    tmp_path: Path, place: Place, whole: Callable[[str], Whole]
) -> None:
    reused = StackTrainable(config=config(tmp_path / "lost", named("one diverges", place)))
    reused.train()
    check_reused(reused, tmp_path, ["mcsgd confirm", "stable-sgd search"], whole)
    assert not list((tmp_path / "lost").rglob("*.parquet")), "a block that did not end left rows"


@pytest.mark.parametrize("name", BLOCKS)
def test_stored_outcomes_are_the_told_ones_to_the_bit(
    whole: Callable[[str], Whole], name: str
) -> None:
    found = whole(name)
    assert set(found.outcomes) == {cell.id for cell in found.block.cells}
    assert stored_outcomes(Store(str(found.root)), "sweep", CHANCES) == found.outcomes
    assert stored_outcomes(Store(str(found.root)), "another", CHANCES) == {}


def test_the_rows_of_a_whole_block(whole: Callable[[str], Whole]) -> None:
    what = whole("mcsgd confirm")
    found, told = what.rows, what.outcomes
    by_id = {cell.id: cell for cell in what.block.cells}
    assert {row["cell_id"] for row in found["runs"]} == set(by_id)
    for row in found["runs"]:
        cell = by_id[row["cell_id"]]
        assert json.loads(row["config"]) == cell.specification
        assert set(cell.specification) <= set(row), "a part of the specification has no column"
        assert {name: row[name] for name in cell.specification} == cell.specification
        assert row["status"] == "finished"
        assert row["tasks_completed"] == TASKS
        assert row["average_accuracy"] == told[cell.id].value
        assert row["study"] == "mcsgd"
        assert row["trial"] is None
        assert row["replicas"] == 2
        assert row["gradient_evaluations"] > 0
        assert row["examples_seen"] > row["gradient_evaluations"]
    # Three minima of a trio beside the inner one, on each task so far; 5 paths of 5 points.
    minima = {row["minimum"] for row in found["accuracies"]}
    assert minima == {"connected", "sequential", "multitask", "inner"}
    assert len(found["accuracies"]) == 2 * 4 * (1 + 2 + 3)
    assert len(found["barriers"]) == 2 * 5
    assert len(found["paths"]) == 2 * 5 * 5
    assert not Store(str(what.root)).verify()


def test_a_search_measures_its_own_minimum_on_validation_images(
    whole: Callable[[str], Whole],
) -> None:
    found = whole("mcsgd search").rows
    assert {row["minimum"] for row in found["accuracies"]} == {"connected"}
    for table in ("runs", "accuracies"):
        assert {row["split"] for row in found[table]} == {"validation"}
    assert {row["examples"] for row in found["accuracies"]} == {180}
    assert {row["trial"] for row in found["runs"]} == {7}
    assert found["paths"] == found["barriers"] == []


@pytest.mark.parametrize(
    ("name", "images"), [("stable-sgd search", 1257), ("stable-sgd confirm", 1437)]
)
def test_only_a_confirmation_learns_from_the_validation_images(
    whole: Callable[[str], Whole], name: str, images: int
) -> None:
    assert {row["examples_seen"] for row in whole(name).rows["runs"]} == {TASKS * images}


@pytest.mark.parametrize(
    ("name", "minimum"), [("mcsgd confirm", "connected"), ("stable-sgd search", "sequential")]
)
def test_the_stored_summary_is_that_of_the_stored_accuracies(
    whole: Callable[[str], Whole], name: str, minimum: str
) -> None:
    found = whole(name).rows
    for run in found["runs"]:
        matrix = np.full((TASKS, TASKS), np.nan)
        for row in found["accuracies"]:
            if (row["cell_id"], row["minimum"]) == (run["cell_id"], minimum):
                matrix[row["after_task"] - 1, row["eval_task"] - 1] = row["accuracy"]
        expected = asdict(summarize(matrix))
        assert {column: run[column] for column in expected} == expected
        assert run["own_minimum"] == minimum


def test_a_stored_path_leads_from_its_cell_to_its_cell(whole: Callable[[str], Whole]) -> None:
    found = whole("mcsgd confirm")
    seeds = {cell.id: cell.seed for cell in found.block.cells}
    for row in found.rows["paths"] + found.rows["barriers"]:
        assert row["from_cell_id"] == row["to_cell_id"] == row["cell_id"]
        assert row["from_seed"] == row["to_seed"] == seeds[row["cell_id"]]


def test_a_cell_is_measured_in_groups_of_its_place(place: Place) -> None:
    what = named("mcsgd confirm", replace(place, evaluation_group=7))
    training = training_of(Pack((what,)), load("rotated-digits", tasks=TASKS))
    assert training.measurement == Measurement("test", 7, path_points=5)


def test_a_result_tells_the_accuracy_so_far(tmp_path: Path, place: Place) -> None:
    what = named("stable-sgd search", place)
    trainable = StackTrainable(config=config(tmp_path, what))
    seen = [trainable.train() for _ in range(TASKS)]
    assert [result["task"] for result in seen] == [1, 2, 3]
    assert [result["done"] for result in seen] == [False, False, True]
    curves = [outcome.curve for _, outcome in seen[-1]["outcomes"]]
    means = [sum(curve[task] for curve in curves) / 3 for task in range(TASKS)]
    assert [result["accuracy"] for result in seen] == pytest.approx(means, rel=1e-12)


# Divergence


def alone(root: Path, what: Block, seed: int) -> Rows:
    return run(root, replace(what, cells=(what.cells[seed],)))[0]


def close(one: Any, other: Any) -> bool:
    """Equality but for what a stack of another size may do to the last bits."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
    return one == other


def test_a_diverging_replica_stops_nobody(tmp_path: Path, whole: Callable[[str], Whole]) -> None:
    stack = whole("one diverges")
    what, found, told = stack.block, stack.rows, stack.outcomes
    status = {row["seed"]: row for row in found["runs"]}
    assert {seed: row["status"] for seed, row in status.items()} == {
        0: "finished",
        1: "diverged",
        2: "finished",
    }
    lost = status[1]
    assert lost["learning_rate"] == 1e30
    assert json.loads(lost["config"])["learning_rate"] == 1e30
    assert lost["tasks_completed"] < TASKS
    assert lost["average_accuracy"] is lost["forgetting"] is None
    assert told[what.cells[1].id].value == CHANCE
    assert told[what.cells[1].id].status == "diverged"
    for seed in (0, 2):
        by_itself = alone(tmp_path / f"alone-{seed}", what, seed)
        for table in TABLES:
            mine = [row for row in found[table] if row.get("seed", seed) == seed]
            for row, other in zip(mine, by_itself[table], strict=True):
                row = row | {"replicas": 1} if table == "runs" else row
                assert all(close(row[name], other[name]) for name in row), (table, row, other)
    assert not Store(str(stack.root)).verify()


@pytest.mark.parametrize("name", ["all diverge", "multitask diverges", "late divergence"])
def test_every_way_to_diverge_is_recorded(whole: Callable[[str], Whole], name: str) -> None:
    what = whole(name)
    found, told = what.rows, what.outcomes
    lost = [row for row in found["runs"] if row["status"] == "diverged"]
    assert len(found["runs"]) == len(what.block.cells)
    assert lost
    for row in lost:
        assert told[row["cell_id"]].value == CHANCE
        assert row["average_accuracy"] is None
        rates = row["learning_rate"], row["connect_learning_rate"]
        assert 1e30 in rates
    assert not Store(str(what.root)).verify()


def test_a_block_ends_when_all_have_diverged(tmp_path: Path, place: Place) -> None:
    trainable = StackTrainable(config=config(tmp_path, named("all diverge", place)))
    result = trainable.train()
    assert result["done"]
    assert result["accuracy"] == CHANCE


# Pruning


def test_pruning_commits_what_was_learned(tmp_path: Path, place: Place) -> None:
    what = block(place, "stable-sgd", {}, {}, limits=(None, 1.0, None))
    trainable = StackTrainable(config=config(tmp_path, what))
    assert not trainable.train()["done"]
    result = trainable.train()
    assert result["done"]
    told = dict(result["outcomes"])
    assert {outcome.status for outcome in told.values()} == {"pruned"}
    assert {len(outcome.curve) for outcome in told.values()} == {2}
    assert stored_outcomes(Store(str(tmp_path)), "sweep", CHANCES) == told
    found = rows(tmp_path)
    for row in found["runs"]:
        assert row["status"] == "pruned"
        assert row["tasks_completed"] == 2
        assert row["average_accuracy"] is None
    assert len(found["accuracies"]) == 2 * (1 + 2)
    free, _ = run(tmp_path / "free", replace(what, prune_below=()))
    early = [row for row in free["accuracies"] if row["after_task"] <= 2]
    assert same({"accuracies": found["accuracies"]}, {"accuracies": early})
    assert not Store(str(tmp_path)).verify()


@pytest.mark.parametrize("limits", [(), (None, 0.0, None), (0.0, 0.0, None)])
def test_good_blocks_are_not_pruned(
    tmp_path: Path, place: Place, limits: tuple[float | None, ...]
) -> None:
    _, told = run(tmp_path, block(place, "stable-sgd", {}, {}, limits=limits))
    assert {outcome.status for outcome in told.values()} == {"finished"}


def test_the_limit_is_for_the_mean_of_the_block(tmp_path: Path, place: Place) -> None:
    both = block(place, "stable-sgd", {}, {})
    _, told = run(tmp_path / "free", both)
    after_two = [told[cell.id].curve[1] for cell in both.cells]
    mean = sum(after_two) / 2
    for limit, status in ((mean, "finished"), (math.nextafter(mean, 1), "pruned")):
        limited = replace(both, prune_below=(None, limit, None))
        _, ended = run(tmp_path / status, limited)
        assert {outcome.status for outcome in ended.values()} == {status}


def test_a_diverged_replica_counts_at_chance_when_pruning(tmp_path: Path, place: Place) -> None:
    configurations = {}, {"learning_rate": 1e30}
    both = block(place, "stable-sgd", *configurations)
    _, told = run(tmp_path / "free", both)
    mean = (told[both.cells[0].id].curve[1] + CHANCE) / 2
    limited = replace(both, prune_below=(None, math.nextafter(mean, 1), None))
    _, ended = run(tmp_path / "limited", limited)
    assert [ended[cell.id].status for cell in both.cells] == ["pruned", "diverged"]


# Packs


def packed(root: Path, *blocks: Block) -> dict[str, Any]:
    """As `config`, for several blocks."""
    return config(root, blocks[0]) | {"pack": Pack(blocks)}


def three(place: Place) -> tuple[Block, Block, Block]:
    """Blocks of one shape: the first is pruned after task 2, a half of the second diverges."""
    pruned = block(place, "mcsgd", {"learning_rate": 0.01}, {}, limits=(None, 1.0, None))
    mad = block(place, "mcsgd", {"dropout": 0.3}, {"learning_rate": 1e30}, limits=(None, 0.0, None))
    whole = block(place, "mcsgd", {"momentum": 0.5}, {"init_position": 0.9}, {})
    return pruned, replace(mad, trial=8), replace(whole, study="another", trial=9)


def test_every_block_of_a_pack_ends_as_it_does_alone(tmp_path: Path, place: Place) -> None:
    blocks = three(place)
    result = finish(StackTrainable(config=packed(tmp_path / "pack", *blocks)))
    found, told = rows(tmp_path / "pack"), dict(result["outcomes"])
    assert len(list((tmp_path / "pack" / "runs").rglob("*.parquet"))) == 1
    status = [[told[cell.id].status for cell in each.cells] for each in blocks]
    assert status == [["pruned"] * 2, ["finished", "diverged"], ["finished"] * 3]
    for number, each in enumerate(blocks):
        wanted, outcomes = run(tmp_path / str(number), each)
        for cell in each.cells:
            assert told[cell.id].status == outcomes[cell.id].status
            assert told[cell.id].curve == pytest.approx(outcomes[cell.id].curve, abs=1e-2)
            for table in TABLES:
                mine = [row for row in found[table] if row["cell_id"] == cell.id]
                alone = [row for row in wanted[table] if row["cell_id"] == cell.id]
                for row, other in zip(mine, alone, strict=True):
                    own = {"replicas": 7} if table == "runs" else {}
                    assert all(close(row[name], (other | own)[name]) for name in row), (row, other)
    assert not Store(str(tmp_path / "pack")).verify()


def test_a_limit_is_for_the_mean_of_its_own_block(tmp_path: Path, place: Place) -> None:
    one = block(place, "stable-sgd", {"learning_rate": 0.01}, {"learning_rate": 0.01})
    two = block(place, "stable-sgd", {"learning_rate": 0.2}, {"learning_rate": 0.2})
    free = dict(finish(StackTrainable(config=packed(tmp_path / "free", one, two)))["outcomes"])
    means = [sum(free[cell.id].curve[1] for cell in each.cells) / 2 for each in (one, two)]
    assert means[0] < means[1] - 0.1
    for low, high in ((0, 1), (1, 0)):
        limits = [math.nextafter(mean, up) for mean, up in zip(means, (low, high), strict=True)]
        limited = [
            replace(each, prune_below=(None, limit, None))
            for each, limit in zip((one, two), limits, strict=True)
        ]
        result = finish(StackTrainable(config=packed(tmp_path / str(low), *limited)))
        told = [outcome.status for _, outcome in result["outcomes"]]
        assert told == ["pruned" if up else "finished" for up in (low, low, high, high)]


def test_a_pack_resumes_as_it_was_and_starts_anew_under_another_packing(
    tmp_path: Path, place: Place
) -> None:
    one, two, other = three(place)
    whole = finish(StackTrainable(config=packed(tmp_path / "whole", one, two, other)))
    for cut in (1, 2):  # before and after the first block has left
        root = tmp_path / f"cut-{cut}"
        first = StackTrainable(config=packed(root, one, two, other))
        for _ in range(cut):
            first.train()
        for packing in (
            (one,),
            (one, two),
            (two, one, other),
            (one, two, replace(other, cells=())),
        ):
            assert StackTrainable(config=packed(root, *packing)).resumed is None
        unlimited = replace(one, prune_below=())
        assert StackTrainable(config=packed(root, unlimited, two, other)).resumed is None
        again = StackTrainable(config=packed(root, one, two, other))
        assert again.resumed == cut
        assert dict(finish(again)["outcomes"]) == dict(whole["outcomes"])
        assert same(rows(root), rows(tmp_path / "whole"))


def test_a_pack_whose_blocks_are_all_pruned_has_ended(tmp_path: Path, place: Place) -> None:
    one = block(place, "stable-sgd", {}, limits=(1.0, 1.0, None))
    two = block(place, "stable-sgd", {"dropout": 0.1}, limits=(None, 1.0, None))
    trainable = StackTrainable(config=packed(tmp_path, one, two))
    assert not trainable.train()["done"]
    result = trainable.train()
    assert result["done"]
    assert [len(outcome.curve) for _, outcome in result["outcomes"]] == [1, 2]
    assert {outcome.status for _, outcome in result["outcomes"]} == {"pruned"}


def test_a_stack_too_large_for_the_memory_says_so(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing behind; the same worker trains a smaller one."""
    stacks = packed(tmp_path, *(block(place, "stable-sgd", {}, {"dropout": p}) for p in (0.1, 0.2)))
    learn = Training.step

    def too_large(training: Training) -> None:
        if training.task == 1 and len(training.records) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        learn(training)

    monkeypatch.setattr(Training, "step", too_large)
    trainable = StackTrainable(config=stacks)
    assert not trainable.train()["done"]
    result = trainable.train()
    assert result["done"]
    assert result["too_large"] == 4
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".pt")]
    trainable.reset(config(tmp_path, block(place, "stable-sgd", {})))
    assert "outcomes" in finish(trainable)


# Data and workers


def test_what_is_found_wrong_while_learning_is_told_too(tmp_path: Path, place: Place) -> None:
    """A full disk below the cache, say, or here a memory that no class can fill."""
    much = block(place, "er", {"memory_per_class": 1_000, "replay_memory": "ring"})
    result = StackTrainable(config=config(tmp_path, much)).train()
    assert result["done"]
    assert "memory_per_class=1000 is more than a class of task 1 has" in result["mistake"]
    assert not list(tmp_path.rglob("*.parquet"))


def test_other_data_than_the_drivers_are_refused(tmp_path: Path, place: Place) -> None:
    """Told as a mistake, not raised: Ray would try again what cannot help."""
    other = block(replace(place, fingerprint="00" * 32), "stable-sgd", {})
    mine = block(place, "stable-sgd", {})
    trainable = StackTrainable(config=config(tmp_path, other))
    for _ in range(2):
        result = trainable.train()
        assert result["done"]
        assert "rotated-digits on node" in result["mistake"]
        assert "give all nodes the same files" in result["mistake"]
        assert not list(tmp_path.rglob("*.parquet"))
        trainable.reset(config(tmp_path / "own", mine))
        assert "mistake" not in trainable.train()
        trainable.reset(config(tmp_path, other))


def test_a_study_that_is_done_leaves_the_checkpoints_of_others(
    tmp_path: Path, place: Place
) -> None:
    mine, other = (named(name, place) for name in ("joint search", "mcsgd search"))
    root, elsewhere = tmp_path / "root", replace(place, benchmark="permuted-digits")
    away = replace(mine, cells=tuple(replace(cell, place=elsewhere) for cell in mine.cells))
    plant_flag(str(root))
    checkpoints = Checkpoints(str(root), "sweep")
    for each in (mine, other, away):
        checkpoints.save(Pack((each,)), {"of": each.study})
    checkpoints.clear([(place.benchmark, mine.study)])
    kept = [checkpoints.load(Pack((each,))) for each in (mine, other, away)]
    assert kept == [None, {"of": other.study}, {"of": mine.study}]
    checkpoints.clear([(place.benchmark, other.study), ("permuted-digits", mine.study)])
    assert not (root / ".checkpoints").exists()


def test_the_benchmark_is_opened_once_a_worker(tmp_path: Path, place: Place) -> None:
    one = StackTrainable(config=config(tmp_path, named("joint search", place)))
    first = one.training.setting.benchmark
    one.reset(config(tmp_path, named("mcsgd confirm", place)))
    assert one.training.setting.benchmark is first
    assert benchmark_at(workplace(tmp_path), place) is first


def test_a_trial_uses_as_many_threads_as_it_was_given(tmp_path: Path, place: Place) -> None:
    before = torch.get_num_threads()
    try:
        two = replace(workplace(tmp_path), threads=2)
        StackTrainable(config=config(tmp_path, named("joint search", place)) | {"workplace": two})
        assert torch.get_num_threads() == 2
        StackTrainable(config=config(tmp_path, named("joint search", place)))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_split_tasks(tmp_path: Path, method: str) -> None:
    benchmark = load("split-digits", tasks=2)
    place = Place(
        benchmark=benchmark.name,
        tasks=2,
        angle=None,
        classes_per_task=2,
        fingerprint=benchmark.fingerprint,
        network="mlp-8-8",
    )
    what = block(place, method, {"batch_size": 8, "learning_rate": 0.1}, confirm=True)
    plant_flag(str(tmp_path))
    source = Workplace("sweep", str(tmp_path), None, {"split-digits": "split-digits"})
    trainable = StackTrainable(config={"pack": Pack((what,)), "workplace": source})
    result = finish(trainable)
    outcome = dict(result["outcomes"])[what.cells[0].id]
    assert outcome.status == "finished"
    assert outcome.curve[0 if method != "multitask" else -1] > 0.7  # chance is a half
    assert stored_outcomes(Store(str(tmp_path)), "sweep", {"split-digits": 0.5}) == dict(
        result["outcomes"]
    )
