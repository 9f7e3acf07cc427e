"""Whole sweeps with Ray, packed and not: the same trials, and the same rows but for last bits."""

import time
from pathlib import Path
from typing import Any

import pytest
from ray_support import (
    TABLES,
    committed,
    content,
    defects,
    started,
    wait_until,
    whole,
)

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

# One shape a method, and generations that no stack of 8 holds.
NAME = ("--name", "mine", "--set", "connect_steps=2", "--generation", "6", "--trials", "18")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sweep with a trial a stack."""
    root = tmp_path_factory.mktemp("unpacked") / "results"
    whole(root, *NAME, "--replicas", "2")
    states = {row["state"] for row in content(root)["trials"]}
    assert "pruned" in states, "nothing was pruned: nobody left a stack"
    return root


def stacks(root: Path) -> list[int]:
    """The sizes of the stacks in which proposals were tried."""
    sql = "SELECT DISTINCT replicas FROM runs WHERE seed IN (10000, 10001) ORDER BY ALL"
    with Store(str(root)).database() as database:
        return [size for (size,) in database.execute(sql).fetchall()]


def rows(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All that a sweep has found; how many trained together is no finding."""
    found = content(root)
    keys = ("cell_id", "study", "number", "path_id", "minimum", "after_task", "eval_task", "alpha")
    for each in found["runs"]:
        del each["replicas"]
    return {
        table: sorted(found[table], key=lambda row: repr([row.get(key) for key in keys]))
        for table in TABLES
    }


def check_same(root: Path, other: Path) -> None:
    """Trials identical, numbers close: a stack's size may change their last bits."""
    mine, wanted = rows(root), rows(other)
    for table in TABLES:
        assert len(mine[table]) == len(wanted[table]), table
        for row, same in zip(mine[table], wanted[table], strict=True):
            for name, value in same.items():
                if table == "trials" and name == "values":
                    assert row[name] == pytest.approx(value, abs=0.01)
                elif isinstance(value, float):
                    assert row[name] == pytest.approx(value, rel=0.01, abs=0.01), (table, name)
                else:
                    assert row[name] == value, (table, name)
    assert defects(root) == []


def test_packed_and_unpacked_are_one_sweep(unpacked: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    whole(root, *NAME, "--replicas", "8")
    assert stacks(unpacked) == [2]
    assert max(stacks(root)) == 6, "two workers share six trials out"
    assert committed(root) < committed(unpacked)
    check_same(root, unpacked)


def test_one_stack_a_generation(unpacked: Path, tmp_path: Path) -> None:
    """As on a GPU: one worker, and room for all that is ready."""
    root = tmp_path / "results"
    whole(root, *NAME, "--replicas", "64", "--max-concurrent", "1")
    assert max(stacks(root)) == 12
    check_same(root, unpacked)


def test_killed_and_interrupted_it_goes_on_with_another_packing(
    unpacked: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    with started(root, *NAME, "--replicas", "8") as driver:
        wait_until(lambda: committed(root) >= 2, "no pack has ended")
        time.sleep(0.3)
        driver.kill()
    before = committed(root)
    with started(root, *NAME, "--replicas", "2") as driver:
        wait_until(lambda: committed(root) > before + 2, "no pack has ended")
        driver.interrupt()
        ended = driver.wait()
    assert ended.status == 130, ended.err
    whole(root, *NAME, "--replicas", "64")
    check_same(root, unpacked)
