"""What a sweep does while its results root is away, and what its log says."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from simulation import CHANCES, study
from test_conductor import Sweep, commit, end_of

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.store import Store
from lmc_ray.store.files import DataFile
from lmc_ray.store.parquet import fetch
from lmc_ray.store.presence import FLAG, check_flag, plant_flag
from lmc_ray.sweep import events
from lmc_ray.sweep.backoff import Backoff, patience
from lmc_ray.sweep.cells import Outcome
from lmc_ray.sweep.conductor import Conductor
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes

IMPATIENT = Workplace("sweep", "", None, {"rotated-digits": "rotated-digits"}, patience=0.0)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of a sweep, open while the test runs."""
    monkeypatch.setenv("LMC_LOGS", str(tmp_path / "logs"))
    path = events.open_log("sweep")
    yield path
    handler = events._log.handlers.pop()
    handler.close()


# Patience


def test_pauses_grow_and_patience_ends(monkeypatch: pytest.MonkeyPatch):
    now, ends = [100.0], [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("lmc_ray.sweep.backoff.time.monotonic", lambda: now[0])
    monkeypatch.setattr("lmc_ray.sweep.backoff.time.sleep", sleep)
    backoff = Backoff(100.0)
    while backoff.wait():
        ends.append(now[0])
    pauses = [end - begin for begin, end in pairwise(ends)]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 8.5])
    assert not backoff.wait()
    assert not Backoff(0.0).wait()


@pytest.mark.parametrize(("text", "seconds"), [("", 600), ("0", 0), ("12.5", 12.5)])
def test_patience_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float):
    monkeypatch.setenv("LMC_PATIENCE", text)
    assert patience() == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_patience_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("LMC_PATIENCE", text)
    with pytest.raises(UserError, match=f"LMC_PATIENCE={text} is no number of seconds"):
        patience()


# The flag of a root


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_flag_shows_that_the_root_is_there(tmp_path: Path, scheme: str):
    root = f"{scheme}{tmp_path}/root"
    with pytest.raises(FileNotFoundError):
        check_flag(root)
    assert not (tmp_path / "root").exists()
    plant_flag(root)
    check_flag(root)
    before = (tmp_path / "root" / FLAG).stat().st_mtime_ns
    plant_flag(root)
    assert (tmp_path / "root" / FLAG).stat().st_mtime_ns == before


# The driver's own commits


def conductor(sweep: Sweep, patience: float = 0.0) -> Conductor:
    """The driver of a sweep, without patience if none is given."""
    studies = [StudyRun(each, sweep.protocol, sweep.stack) for each in sweep.studies]
    place = replace(IMPATIENT, results=str(sweep.root), patience=patience)
    packings = {sweep.protocol.place.benchmark: Packing(sweep.stack)}
    return Conductor(studies, sweep.store, place, CHANCES, packings, lambda ran: None)


def work(driver: Conductor, sweep: Sweep, blocks: int) -> int:
    """Run so many blocks, one at a time; how many there were."""
    for done in range(blocks):
        config = driver.suggest("one")
        if config == Searcher.FINISHED:
            return done
        outcomes = end_of(config["pack"])
        commit(sweep.store, sweep.name, config["pack"], outcomes)
        driver.on_trial_complete(
            "one", {"accuracy": 0.5, "task": 4, "outcomes": list(outcomes.items())}
        )
    return blocks


def test_a_driver_that_cannot_commit_stops_in_a_line_and_goes_on_later(tmp_path: Path, log: Path):
    calm, sweep = Sweep(tmp_path / "calm"), Sweep(tmp_path / "root")
    calm.run(workers=1)
    driver = conductor(sweep)
    driver.start()
    flag = sweep.root / FLAG
    assert work(driver, sweep, 2) == 2
    flag.unlink()
    assert work(driver, sweep, 2) == 0, "the driver does not miss its root"
    assert isinstance(driver.problem, UserError)
    text = str(driver.problem)
    assert re.match(rf"the results root {sweep.root} cannot be written \(.*{FLAG}.*\): ", text)
    assert "--name sweep" in text
    assert "commit retried" in log.read_text()
    again = conductor(sweep)
    again.start()
    assert flag.exists()
    assert work(again, sweep, 10**6) < 10**6
    assert again.finished
    assert sweep.results() == calm.results()


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_cells_elsewhere_are_waited_for(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, patience: float
):
    """Those of another sweep, when the root is away just as they are to be taken over."""
    Sweep(tmp_path, "before").run()
    monkeypatch.setattr("lmc_ray.sweep.backoff.FIRST", 0.01)
    answers = iter([False, True])

    def away(store: Store, sweep: str, chances: Mapping[str, float]) -> dict[str, Outcome]:
        if sweep == "before" and not next(answers):
            raise UnavailableError("cannot list runs: no connection")
        return stored_outcomes(store, sweep, chances)

    monkeypatch.setattr("lmc_ray.sweep.ledger.stored_outcomes", away)
    driver = conductor(Sweep(tmp_path), patience=patience)
    if patience:
        driver.start()
        assert driver.ledger.outcomes
    else:
        with pytest.raises(UnavailableError, match="no connection"):
            driver.start()


def test_a_root_that_goes_away_between_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """DuckDB reads some of them, and makes another error of ours."""
    Sweep(tmp_path).run()

    def away(filesystem: Any, file: DataFile) -> Any:
        if file.table == "accuracies":
            raise UnavailableError("cannot read it: no connection")
        return fetch(filesystem, file)

    monkeypatch.setattr("lmc_ray.store.visible.fetch", away)
    with pytest.raises(UnavailableError, match="no connection"):
        stored_outcomes(Sweep(tmp_path).store, "sweep", CHANCES)


def test_a_block_that_was_not_committed_is_no_failed_one(tmp_path: Path, log: Path):
    sweep = Sweep(tmp_path / "root")
    driver = conductor(sweep)
    driver.start()
    (block,) = driver.suggest("one")["pack"].blocks
    driver.on_trial_complete(
        "one", {"accuracy": 0.5, "task": 4, "done": True, "lost": "No space left on device"}
    )
    assert driver.suggest("two") == Searcher.FINISHED
    assert "No space left on device" in str(driver.problem)
    assert driver.failed == []
    assert sweep.trials() == []
    assert (
        f"not committed {block.study} on rotated-digits trial {block.trial} (No space left"
        in log.read_text()
    )
    again = conductor(sweep)
    again.start()
    assert again.suggest("one")["pack"].blocks == (block,)


def test_whatever_comes_over_a_pack_is_logged_for_each_of_its_blocks(tmp_path: Path, log: Path):
    sweep = Sweep(tmp_path / "root", studies=[study("multitask")], stack=64)
    driver = conductor(sweep)
    driver.start()
    blocks = driver.suggest("one")["pack"].blocks
    assert len(blocks) > 2
    where = {"hostname": "node7", "pid": 42, "accuracy": 0.25, "resumed": 2, "task": 3}
    driver.on_trial_result("one", where)
    driver.on_trial_result("one", {"waits": "Input/output error"})
    driver.on_trial_complete("one", {"done": True, "lost": "Input/output error"})
    for event in ("resumed", "commit retried", "not committed"):
        told = [line for line in lines(log) if line.startswith(f"{event} multitask on ")]
        ids = [line.split(": ")[1].split() for line in told]
        assert ids == [[cell.id for cell in block.cells] for block in blocks], event


def test_a_pack_that_is_resumed_for_its_last_task_says_so(tmp_path: Path, log: Path):
    sweep = Sweep(tmp_path / "root", studies=[study("multitask")], stack=64)
    driver = conductor(sweep)
    driver.start()
    pack = driver.suggest("one")["pack"]
    outcomes = end_of(pack)
    commit(sweep.store, sweep.name, pack, outcomes)
    result = {"accuracy": 0.25, "task": 4, "resumed": 3, "outcomes": list(outcomes.items())}
    driver.on_trial_complete("one", result)
    told = [" ".join(line.split()[:6]) for line in lines(log) if line.startswith("resumed")]
    assert told == [
        f"resumed multitask on rotated-digits trial {block.trial}" for block in pack.blocks
    ]
    ends = [line for line in lines(log) if line.startswith("committed multitask on ")]
    for line, block in zip(ends, pack.blocks, strict=True):
        own = [outcomes[cell.id].value for cell in block.cells]
        assert f"(accuracy {sum(own) / 2:.4f} after 4 tasks" in line


# The log


def lines(log: Path) -> list[str]:
    found = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in found)
    return [line.partition(" ")[2] for line in found]


def test_every_cell_has_one_line_that_says_how_it_ended(tmp_path: Path, log: Path):
    sweep = Sweep(tmp_path / "root")
    sweep.run()
    ends = [line for line in lines(log) if re.match("committed|pruned|diverged", line)]
    told = [
        (cell, line.split()[0].replace("committed", "finished"))
        for line in ends
        for cell in line.split(": ")[1].split()
    ]
    stored = {
        (cell, status)
        for purpose in ("search", "confirm")
        for cell, status, *_ in sweep.cells(purpose)
    }
    assert len(told) == len(set(told))
    assert set(told) == stored
    assert {status for _, status in told} >= {"finished", "pruned"}


def test_an_event_is_a_line_however_often_the_log_is_opened(log: Path):
    """As a night does, for every benchmark."""
    events.open_log("sweep")
    events.tell("sweep", "done")
    assert lines(log) == ["sweep done"]


def test_taken_over_failed_resumed_and_waiting_blocks(tmp_path: Path, log: Path):
    first = Sweep(tmp_path / "root")
    first.run()
    replace(first, name="other").run()
    over = [line for line in lines(log) if line.startswith("taken over ")]
    assert len({line.split(": ")[1] for line in over}) == len(over) > 10
    assert all("(from sweep sweep)" in line for line in over)

    sweep = Sweep(tmp_path / "another")
    driver = conductor(sweep)
    driver.start()
    (block,) = driver.suggest("one")["pack"].blocks
    ids = " ".join(cell.id for cell in block.cells)
    where = {"hostname": "node7", "pid": 42, "accuracy": 0.25, "resumed": 2}
    for result in (
        {**where, "task": 3},
        {**where, "task": 4},
        {**where, "task": 4, "waits": "[Errno 5] Input/output\nerror"},
    ):
        driver.on_trial_result("one", result)
    driver.on_trial_complete("one", error=True)
    driver.suggest("two")
    driver.recovered["two"] = 3
    driver.on_trial_complete("two", error=True)
    name = f"{block.study} on rotated-digits trial {block.trial}"
    assert lines(log)[-4:] == [
        f"resumed {name} (after task 2 on node7, process 42): {ids}",
        f"commit retried {name} ([Errno 5] Input/output error): {ids}",
        f"run again {name}: {ids}",
        f"failed {name}: {ids}",
    ]


def test_a_log_goes_on_where_it_was_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path
):
    events.tell("sweep", "one\ntwo")
    assert lines(log) == ["sweep one two"]
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LMC_LOGS", str(tmp_path / "file" / "logs"))
    with pytest.raises(OSError, match="Not a directory"):
        events.open_log("sweep")
