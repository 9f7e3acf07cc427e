"""Trios, controls and all that is measured of them, with Ray: repeated, killed, minima lost."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_support import (
    FREE,
    SWEEPS,
    Ended,
    before_workers_import,
    defects,
    started,
    sweep,
    wait_until,
    whole,
)

from lmc_ray.store import TABLES, Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

SCRIPT = SWEEPS / "connectivity.py"
SMALL = ("--tasks", "2", "--seeds", "2", "--name", "mine")
MEASURED = ("paths", "barriers", "planes", "spectra", "similarities")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The sweep of these tests, undisturbed."""
    root = tmp_path_factory.mktemp("calm") / "results"
    return root, whole(root, *SMALL, script=SCRIPT)


def content(root: Path) -> dict[str, list[str]]:
    """Every visible row, but what may differ from run to run."""
    found: dict[str, list[str]] = {}
    with Store(str(root)).database() as database:
        for table in TABLES:
            relation = database.sql(f"SELECT * FROM {table}")
            rows = (dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall())
            free = (*FREE, "uri", "sha256")  # the attempt is part of a file's place and metadata
            found[table] = sorted(
                repr({k: v for k, v in row.items() if k not in free}) for row in rows
            )
    return found


def parquet(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.suffix in (".parquet", ".safetensors")}


def test_everything_is_measured_once(calm: tuple[Path, Ended]) -> None:
    root, ended = calm
    rows = content(root)
    assert all(rows[table] for table in (*MEASURED, "minima"))
    with Store(str(root)).database() as database:
        kinds = database.sql("SELECT DISTINCT analysis FROM runs WHERE purpose = 'analysis'")
        assert {kind for (kind,) in kinds.fetchall()} == {
            *("path", "seeds", "plane", "spectrum", "similarity")
        }
    assert (root / "mine.html").is_file()
    assert f"Report:      {root / 'mine.html'}" in ended.out
    for words in ("sequential 1 → multitask 2 (other-init)", "(aligned)", "within seeds, MC-SGD"):
        assert words in ended.out


@pytest.fixture
def copied(calm: tuple[Path, Ended], tmp_path: Path) -> Path:
    """A copy of its results, to go on with."""
    return Path(shutil.copytree(calm[0], tmp_path / "copied" / "results"))


def test_a_second_start_with_one_more_path_does_that_alone(copied: Path) -> None:
    """Nothing is trained again, and what was measured is not measured again."""
    root, before = copied, parquet(copied)
    path = "multitask:1->connected:2"
    whole(root, *SMALL, "--path", f"{path}@all", script=SCRIPT)
    new = {file.parent.parent.name for file in parquet(root) - before}
    assert new == {"paths", "barriers", "runs"}
    names = [str(file) for file in parquet(root) - before if "/barriers/" in str(file)]
    assert set(pa.concat_tables(map(pq.read_table, names))["path_id"].to_pylist()) == {path}


def test_killed_while_it_measures(calm: tuple[Path, Ended], tmp_path: Path) -> None:
    """The driver by SIGKILL, then a worker in the restarted sweep: the same rows, each once."""
    root = tmp_path / "results"

    def measured() -> int:
        return len(list((root / "runs").rglob("*.parquet")))

    with started(root, *SMALL, script=SCRIPT) as driver:
        wait_until(lambda: (root / "similarities").exists() or measured() > 6, "nothing measured")
        driver.kill()
    before = measured()
    with started(root, *SMALL, script=SCRIPT) as driver:
        workers: list[int] = []

        def at_work() -> Any:
            workers[:] = [pid for pid, name in driver.processes().items() if "measure" in name]
            return workers or driver.process.poll() is not None

        wait_until(at_work, "nobody measures")
        assert workers, "the sweep was at its end before a worker could be killed"
        os.kill(workers[0], signal.SIGKILL)
        ended = driver.wait()
    assert ended.status == 0, ended.err
    assert measured() >= before
    assert content(root) == content(calm[0])
    assert defects(root) == []


# Workers whose device has no room for a spectrum, which is what starts first.
FULL = """
import torch
from lmc_ray import measuring
def full(*arguments, **more):
    raise torch.OutOfMemoryError("out of memory, on purpose")
measuring.spectrum_rows = full
"""


def test_what_cannot_be_measured_keeps_nothing_else_from_it(
    calm: tuple[Path, Ended], tmp_path: Path
) -> None:
    root = tmp_path / "results"
    site = before_workers_import("lmc_ray.sweep.analyst", tmp_path / "site", FULL)
    with started(root, *SMALL, script=SCRIPT, environment=site) as driver:
        ended = driver.wait()
    assert ended.status == 1
    failed = [line for line in ended.err.splitlines() if "could not be measured" in line]
    assert len(failed) == 2, "a seed's each"
    assert all("the spectrum of" in line and "on purpose" in line for line in failed)
    for table in (*MEASURED, "minima"):
        assert (content(root)[table] == content(calm[0])[table]) == (table != "spectra")
    with started(root, *SMALL, script=SCRIPT) as driver:
        assert driver.wait().status == 0, "the same command tries them again"
    assert content(root) == content(calm[0])


def test_a_lost_minimum_is_named_and_keeps_nothing_else_from_being_measured(copied: Path) -> None:
    root, before = copied, parquet(copied)
    with Store(str(root)).database() as database:
        cell, where = database.sql(
            "SELECT cell_id, uri FROM minima WHERE minimum = 'multitask' AND task = 2 AND seed = 0"
            " ORDER BY cell_id IN (SELECT cell_id FROM runs WHERE purpose = 'control')"
        ).fetchall()[0]
    (root / where).unlink()
    new = ("--path", "multitask:1->multitask:2@all", "--measure", "path")
    ended = sweep(root, *SMALL, *new, script=SCRIPT)
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert line.startswith(f"connectivity: error: minimum multitask:2 of cell {cell} (seed 0)")
    assert "train it again" in line
    (other,) = (f for f in parquet(root) - before if f.parent.parent.name == "barriers")
    assert set(pq.read_table(other)["from_seed"].to_pylist()) == {1}
