"""The paper's script over two benchmarks in one sweep: killed, narrowed, and gone on with."""

from pathlib import Path

import pytest
from ray_support import (
    SWEEPS,
    TABLES,
    check_undisturbed,
    committed,
    content,
    started,
    wait_until,
    whole,
)

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

SCRIPT = SWEEPS / "paper.py"
NAME = ("--name", "table1", "--tasks", "3", "--network", "mlp-8-8", "--trials", "3", "--seeds", "2")
METHODS = ("--method", "naive-sgd", "--method", "er", "--method", "mcsgd")
QUICK = (
    *("--set", "batch_size=64", "--set", "epochs=1"),
    *("--set", "naive-sgd.batch_size=64", "--set", "naive-sgd.epochs=1"),
)
ROTATED, PERMUTED = ("--benchmark", "rotated-digits"), ("--benchmark", "permuted-digits")
OPTIONS = (*NAME, *METHODS, *QUICK)


def test_two_benchmarks_are_one_sweep(tmp_path: Path) -> None:
    calm = tmp_path / "calm" / "results"
    quiet = whole(calm, *OPTIONS, *ROTATED, *PERMUTED, script=SCRIPT)
    for title in ("permuted-digits, 3 tasks", "rotated-digits, 3 tasks", "all benchmarks"):
        assert f"\n{title}" in quiet.out
    assert all(content(calm)[table] for table in TABLES), "a table is empty"
    with Store(str(calm)).database() as database:
        sql = "SELECT benchmark, study, count(*) FROM trials GROUP BY ALL ORDER BY ALL"
        assert database.sql(sql).fetchall() == [
            (f"{family}-digits", study, 3)
            for family in ("permuted", "rotated")
            for study in ("er", "mcsgd")
        ]

    root = tmp_path / "killed" / "results"
    with started(root, *OPTIONS, *ROTATED, script=SCRIPT) as driver:  # one of the two
        wait_until(lambda: committed(root) >= 5, "no block has ended")
        driver.kill()
    rest = whole(root, *OPTIONS, *PERMUTED, *ROTATED, script=SCRIPT)  # in another order
    check_undisturbed(root, rest, (calm, quiet))
