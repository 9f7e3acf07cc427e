"""Kept minima: which, what is in their files, and what the ledger knows of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import benchmark, setting, values

from lmc_ray.errors import UserError
from lmc_ray.models.weights import from_bytes, to_bytes
from lmc_ray.randomness import stream
from lmc_ray.store import Store, weights
from lmc_ray.store.presence import plant_flag
from lmc_ray.sweep.cells import Block, Cell, Pack, Place
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.keeping import room, tasks_to_keep
from lmc_ray.sweep.study import Protocol, StudyRun
from lmc_ray.sweep.trainable import StackTrainable, Workplace
from lmc_ray.training import Measurement, Training

# Which


@pytest.mark.parametrize(
    ("text", "tasks"),
    [(None, ()), ("last", (5,)), ("all", (1, 2, 3, 4, 5)), ("1,5", (1, 5)), ("5,1,5", (1, 5))],
)
def test_tasks_to_keep(text: str | None, tasks: tuple[int, ...]) -> None:
    assert tasks_to_keep(text, 5) == tasks


@pytest.mark.parametrize("text", ["", "first", "1,,2", "0", "6", "1,6", "-1", "1.5", "1-3"])
def test_tasks_that_cannot_be_kept(text: str) -> None:
    with pytest.raises(UserError, match=r"^--keep-minima [^\n]*$"):
        tasks_to_keep(text, 5)


def trained(method: str, keep: tuple[int, ...], **changes: Any) -> tuple[Training, dict[Any, Any]]:
    """A stack trained to its end, and the minima that stood after each task to be kept."""
    run = Training(
        setting(part="full"),
        method,
        [values(method, **changes)] * 2,
        (3, 4),
        Measurement("test", 20, 3 if method != "multitask" else 0, keep),
    )
    stood = {}
    while not run.finished:
        run.step()
        if run.task in keep:
            minima = run.learner.minima(run.task)
            stood |= {(name, run.task): theta.clone() for name, theta in minima.items()}
    return run, stood


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("mcsgd", {"connected", "inner", "sequential", "multitask"}),
        ("naive-sgd", {"sequential"}),
        ("weight-averaging", {"averaged", "inner"}),
        ("multitask", {"multitask"}),
    ],
)
def test_the_minima_that_stood(method: str, names: set[str]) -> None:
    run, stood = trained(method, (1, 3))
    own = {(name, 3) for name in names}
    kept = own if method == "multitask" else own | {(name, 1) for name in names}
    for replica, record in enumerate(run.records):
        found = run.minima(record)
        assert set(found) == kept, "joint training has a minimum at its end only"
        for key, theta in found.items():
            assert torch.equal(theta, stood[key][replica])


def test_a_diverged_replica_keeps_nothing_and_the_others_their_own() -> None:
    one, two = values("naive-sgd"), values("naive-sgd", learning_rate=1e200)
    measurement = Measurement("test", 20, 3, (1, 2, 3))
    run = Training(setting(), "naive-sgd", [two, one], (3, 4), measurement)
    alone = Training(setting(), "naive-sgd", [one], (4,), measurement)
    for each in (run, alone):
        while not each.finished:
            each.step()
    assert run.minima(run.records[0]) == {}
    found, wanted = run.minima(run.records[1]), alone.minima(alone.records[0])
    assert set(found) == set(wanted) == {("sequential", task) for task in (1, 2, 3)}
    for key, theta in wanted.items():
        torch.testing.assert_close(found[key], theta)


def test_kept_minima_survive_an_interruption() -> None:
    whole, _ = trained("mcsgd", (1, 2))
    first = Training(
        setting(part="full"),
        "mcsgd",
        [values("mcsgd")] * 2,
        (3, 4),
        Measurement("test", 20, 3, (1, 2)),
    )
    first.step()
    resumed = Training(
        setting(part="full"), "mcsgd", [values("mcsgd")] * 2, (3, 4), first.measurement
    )
    resumed.restore(first.state())
    while not resumed.finished:
        resumed.step()
    for one, other in zip(whole.records, resumed.records, strict=True):
        kept, again = whole.minima(one), resumed.minima(other)
        assert set(kept) == set(again)
        assert all(torch.equal(theta, again[key]) for key, theta in kept.items())


def test_another_initialisation_changes_w0_and_nothing_else() -> None:
    one, other = (
        Training(
            setting(),
            "naive-sgd",
            [values("naive-sgd", initialisation=number)],
            (3,),
            Measurement("test", 20),
        ).learner
        for number in (0, 1)
    )
    assert torch.equal(one.initial(), setting().initial([3]))
    assert not torch.equal(other.initial(), one.initial())
    again = setting().initial([3], 1)
    assert torch.equal(other.initial(), again)
    assert not torch.equal(setting().initial([3], 2), again)


# Their files


@pytest.mark.parametrize("name", ["mlp-16-8", "resnet18-2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_come_back_to_the_bit(name: str, dtype: torch.dtype) -> None:
    network = setting(network=name).network
    theta = network.initial(stream(1, "initial")).to(dtype)
    again = from_bytes(network, to_bytes(network, theta, {"seed": "1"}))
    assert again.dtype == dtype
    assert torch.equal(again, theta)


def test_weights_of_another_network_are_refused() -> None:
    small, large = (setting(network=name).network for name in ("mlp-16-8", "mlp-16-16"))
    data = to_bytes(small, small.initial(stream(1, "initial")), {})
    with pytest.raises(UserError, match="not those of a mlp-16-16"):
        from_bytes(large, data)
    with pytest.raises(UserError, match="not a safetensors file"):
        from_bytes(small, data[:20])


# In the ledger

KEEP = (1, 3)


@pytest.fixture
def place() -> Place:
    few = benchmark()
    return Place(
        benchmark="rotated-digits",
        tasks=3,
        angle=few.angle,
        classes_per_task=None,
        fingerprint=few.fingerprint,
        network="mlp-8-8",
    )


def block(place: Place, keep: tuple[int, ...] = KEEP, method: str = "mcsgd") -> Block:
    cells = tuple(
        Cell(
            method=method,
            place=place,
            hyperparameters=values(method, batch_size=64),
            seed=seed,
            purpose="confirm",
            path_points=3,
            keep_minima=keep,
        )
        for seed in (0, 1)
    )
    return Block(study=method, trial=None, cells=cells)


def commit(root: Path, *blocks: Block) -> Store:
    plant_flag(str(root))
    workplace = Workplace("s", str(root), None, {"rotated-digits": "rotated-digits"})
    trainable = StackTrainable(config={"pack": Pack(blocks), "workplace": workplace})
    while not trainable.train().get("outcomes"):
        pass
    return Store(str(root))


def kept(store: Store) -> list[dict[str, Any]]:
    with store.database() as database:
        return database.sql("SELECT * FROM minima ORDER BY ALL").to_arrow_table().to_pylist()


def test_keeping_is_part_of_what_a_cell_is(place: Place) -> None:
    none, some = block(place, ()).cells[0], block(place).cells[0]
    assert "keep_minima" not in none.specification, "or the ids of earlier cells would change"
    assert some.specification["keep_minima"] == [1, 3]
    assert none.id != some.id


def test_a_block_commits_its_minima(tmp_path: Path, place: Place) -> None:
    what = block(place)
    store = commit(tmp_path, what)
    rows = kept(store)
    names = ("connected", "inner", "multitask", "sequential")
    assert {(row["cell_id"], row["minimum"], row["task"]) for row in rows} == {
        (cell.id, name, task) for cell in what.cells for name in names for task in KEEP
    }
    network = setting(network="mlp-8-8").network
    loaded = {}
    for row in rows:
        data = store.read_weights(row["uri"], row["sha256"])
        assert len(data) == row["bytes"]
        loaded[row["seed"], row["minimum"], row["task"]] = from_bytes(network, data)
    for seed in (0, 1):  # a trio shares its solution of task 1
        assert torch.equal(loaded[seed, "connected", 1], loaded[seed, "sequential", 1])
        assert torch.equal(loaded[seed, "multitask", 1], loaded[seed, "sequential", 1])
        assert not torch.equal(loaded[seed, "multitask", 3], loaded[seed, "sequential", 3])
    assert not torch.equal(loaded[0, "connected", 3], loaded[1, "connected", 3])
    assert store.verify() == []


def test_every_block_of_a_pack_keeps_its_own_minima(tmp_path: Path, place: Place) -> None:
    """As a Pareto search confirms several configurations; one seed of the first diverges."""
    usual = block(place, method="stable-sgd")

    def changed(each: Cell, **other: float) -> Cell:
        return replace(each, hyperparameters=replace(each.hyperparameters, **other))

    lost = replace(usual, cells=(changed(usual.cells[0], learning_rate=1e30), usual.cells[1]))
    calm = replace(usual, cells=tuple(changed(each, learning_rate=0.02) for each in usual.cells))
    store = commit(tmp_path / "pack", lost, calm)
    apart = {row["cell_id"]: row for row in kept(commit(tmp_path / "apart", usual, calm))}
    rows = kept(store)
    finished = [usual.cells[1].id, *(each.id for each in calm.cells)]
    assert sorted({row["cell_id"] for row in rows}) == sorted(finished)
    network = setting(network="mlp-8-8").network
    other = Store(str(tmp_path / "apart"))
    last = [row for row in rows if row["task"] == max(KEEP)]
    for row in last:
        wanted = next(
            each
            for each in kept(other)
            if all(each[name] == row[name] for name in ("cell_id", "minimum", "task"))
        )
        mine = from_bytes(network, store.read_weights(row["uri"], row["sha256"]))
        theirs = from_bytes(network, other.read_weights(wanted["uri"], wanted["sha256"]))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert len(last) == 3 == len({row["sha256"] for row in last})
    assert set(apart) > set(finished)


def test_a_root_may_be_moved(tmp_path: Path, place: Place) -> None:
    commit(tmp_path / "here", block(place))
    (tmp_path / "here").rename(tmp_path / "there")
    store = Store(str(tmp_path / "there"))
    assert store.read_weights(kept(store)[0]["uri"], kept(store)[0]["sha256"])
    assert store.verify() == []


def test_verify_finds_missing_altered_and_left_over_files(tmp_path: Path, place: Place) -> None:
    store = commit(tmp_path, block(place))
    rows = kept(store)
    missing, altered = tmp_path / rows[0]["uri"], tmp_path / rows[-1]["uri"]
    missing.unlink()
    altered.write_bytes(altered.read_bytes()[:-1] + b"\1")
    store.write_weights(weights.uri("s", "lost", "x"), b"of an attempt that was killed")
    found = {Path(f.file): f for f in store.verify()}
    assert set(found) == {missing, altered, tmp_path / "weights/sweep=s/lost"}
    assert found[missing].cells == (rows[0]["cell_id"],)
    assert "cannot be read" in found[missing].message
    assert found[altered].cells == (rows[-1]["cell_id"],)
    assert "altered" in found[altered].message
    assert found[tmp_path / "weights/sweep=s/lost"].harmless


def test_minima_stay_through_compaction_and_in_other_sweeps(tmp_path: Path, place: Place) -> None:
    store = commit(tmp_path, block(place))
    before = kept(store)
    assert store.compact("s").merged
    assert kept(store) == before
    store.reuse("t", "r", {before[0]["cell_id"]: {}})
    linked = [row for row in kept(store) if row["sweep"] == "t"]
    assert [row["uri"] for row in linked] == [
        row["uri"] for row in before if row["cell_id"] == before[0]["cell_id"]
    ]
    assert store.verify() == []


def test_room(place: Place) -> None:
    protocol = Protocol(place=place, trials=0, seeds=3, keep_minima=KEEP)
    studies = [
        StudyRun(Study(method="mcsgd", space={"memory_per_class": 1}), protocol, 1),
        StudyRun(Study(method="multitask", space={"epochs": 1}), protocol, 1),
    ]
    number, size = room(studies, benchmark())
    size_of_one = 4 * setting(network="mlp-8-8").network.layout.size
    assert number == 3 * (4 * 2 + 1)
    assert size == number * size_of_one
    either = {"multitask_schedule": ["joint", "growing"]}
    searched = StudyRun(Study(method="multitask", space=either), replace(protocol, trials=2), 1)
    assert room([searched], benchmark()) == (3 * 2, 3 * 2 * size_of_one), "at most"


def test_the_same_name_with_other_minima_is_another_sweep(place: Place) -> None:
    protocol = Protocol(place=place, trials=0, seeds=2, path_points=3, keep_minima=KEEP)
    study = StudyRun(Study(method="mcsgd", space=vars(values("mcsgd", batch_size=64))), protocol, 1)
    cells = block(place).cells
    assert study.difference(cells[0].specification) is None
    other = block(place, ()).cells[0].specification
    assert study.difference(other) == "it kept no minima, it is to keep minima of tasks 1,3"
    search = replace(cells[0], purpose="search", path_points=0, keep_minima=())
    assert study.difference(search.specification) is None
    without = replace(cells[0], path_points=0).specification
    assert study.difference(without) == "it measured no paths, it is to measure paths of 3 points"
