"""Real nights in processes of their own: fine, interrupted, killed, twice at once, as a job."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ray_support import SWEEPS, Driver, Ended, committed, files, started, wait_until, whole

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

ROOT = SWEEPS.parent
BASE = '''"""One configuration that needs its momentum; nothing to search on validation data."""

from lmc_ray.sweep import Study, main

SPACE = {"learning_rate": 0.03, "momentum": 0.9, "dropout": 0.0, "batch_size": 64, "epochs": 4}
main([Study(method="stable-sgd", space=SPACE)], trials=0, seeds=4)
'''
NIGHT = ("--sweep", "mine", "--seeds-per-night", "4")


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store(str(root)).database() as database:
        return database.execute(sql).fetchall()


def night(root: Path, date: str, *arguments: str, script: Path = SWEEPS / "nightly.py") -> Ended:
    with started(root, *NIGHT, "--night", date, *arguments, script=script) as driver:
        return driver.wait()


def check_whole(root: Path, date: str) -> None:
    """Every planned cell once, one row of `nights`, nothing torn."""
    assert not [found for found in Store(str(root)).verify() if not found.harmless]
    assert not (root / ".ray").exists(), "checkpoints stay behind"
    seeds = f"SELECT count(*), count(DISTINCT seed) FROM runs WHERE night = '{date}'"
    assert query(root, seeds) == [(7, 7)]
    sql = f"SELECT method, seeds, anchors, verdict FROM nights WHERE night = '{date}'"
    assert query(root, sql) == [("stable-sgd", 4, 3, "fine")]


@pytest.fixture(scope="module")
def first_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A confirmed sweep and its first night."""
    root = tmp_path_factory.mktemp("nights") / "results"
    script = root.parent / "base.py"
    script.write_text(BASE)
    options = ("--name", "mine", "--tasks", "2", "--network", "mlp-16-16")
    whole(root, *options, script=script)
    ended = night(root, "2026-11-20")
    assert ended.status == 0, ended.err
    check_whole(root, "2026-11-20")
    return root


@pytest.fixture
def root(first_nights: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(first_nights, tmp_path / "results"))


def test_interrupted_then_killed_then_finished(root: Path) -> None:
    """A drop planted in the code is found by test_nightly.py, with the same training."""
    date = "2026-11-21"
    options = (*NIGHT, "--night", date, "--replicas", "1", "--max-concurrent", "1")
    script, before = SWEEPS / "nightly.py", committed(root)
    with started(root, *options, script=script) as driver:
        wait_until(lambda: committed(root) > before, "no block has ended")
        driver.interrupt()
        ended = driver.wait()
    assert ended.status == 4, ended.err
    assert ended.err == "incomplete: interrupted: the same command goes on\n"
    before = committed(root)
    with started(root, *options, script=script) as driver:
        wait_until(lambda: committed(root) > before, "no block has ended")
        driver.kill()
    kept = set(query(root, f"SELECT cell_id, attempt FROM runs WHERE night = '{date}'"))
    assert 0 < len(kept) < 7
    assert not query(root, f"SELECT * FROM nights WHERE night = '{date}'")
    ended = night(root, date)
    assert ended.status == 0, ended.out
    check_whole(root, date)
    assert " equal " in ended.out, "anchors are the same to the bit"
    now = set(query(root, f"SELECT cell_id, attempt FROM runs WHERE night = '{date}'"))
    assert kept <= now, "a cell that had ended was run again"
    whole_night = files(root)
    assert night(root, date).status == 0
    assert files(root) == whole_night, "nothing had to run"


def test_two_starts_at_once(root: Path) -> None:
    """Either both do the night, or one is told that it is under way; the results hold."""
    with ExitStack() as stack:
        drivers: list[Driver] = [
            stack.enter_context(
                started(root, *NIGHT, "--night", "2026-11-21", script=SWEEPS / "nightly.py")
            )
            for _ in range(2)
        ]
        ends = [driver.wait() for driver in drivers]
    assert 0 in [ended.status for ended in ends], ends
    assert {ended.status for ended in ends} <= {0, 2}, ends
    check_whole(root, "2026-11-21")


# Ray's jobs


# As `ray start --head` would, but for two things that another Ray on the machine may have: a port,
# for which `ray.init` has no option, and the file that tells a job which cluster it belongs to.
HEAD = """
import functools, pathlib, ray, sys, time
from ray._private.parameter import RayParams

RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
context = ray.init(
    address="local",
    num_cpus=2,
    include_dashboard=True,
    dashboard_host="127.0.0.1",
    dashboard_port=0,
    _node_ip_address="127.0.0.1",
    _temp_dir=sys.argv[1],
    object_store_memory=100 * 2**20,
)
pathlib.Path(sys.argv[1], "ray_current_cluster").write_text(context.address_info["gcs_address"])
print(context.dashboard_url, flush=True)
time.sleep(10_000)
"""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray of our own with its dashboard on loopback; the environment that reaches it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "LMC_"))} | {
        "LMC_CACHE": os.environ["LMC_CACHE"],
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or it would leave loopback
        "RAY_raylet_start_wait_time_s": "280",
    }
    log = tmp_path / "head.out"
    folder = tempfile.mkdtemp(prefix="lmc-ray-")  # below tmp_path its sockets' names are too long
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD, folder],
            env=environment,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    driver = Driver(process, log)
    try:
        wait_until(lambda: log.read_text().endswith("\n"), "Ray did not start")
        dashboard = log.read_text().split()[-1]
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://{dashboard}"}
    finally:
        driver.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_night_as_a_job_and_the_same_again(root: Path, head: dict[str, str]) -> None:
    """Submitted twice, it runs once."""

    def submit() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [ROOT / "cluster" / "nightly" / "submit.sh", "--results", str(root), *NIGHT],
            env=head | {"RAY": str(Path(sys.executable).parent / "ray")},
            capture_output=True,
            text=True,
            timeout=280,
        )

    first = submit()
    assert first.returncode == 0, first.stdout + first.stderr
    again = submit()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is known already" in again.stdout
    ray = Path(sys.executable).parent / "ray"
    night = time.strftime("%Y-%m-%d", time.gmtime())
    (job,) = re.findall(rf"nightly-mine-{night}-\d+(?= is known already)", again.stdout)

    def status() -> str:
        command = [ray, "job", "status", job]
        said = subprocess.run(command, env=head, capture_output=True, text=True)
        return (said.stdout + said.stderr).lower()

    wait_until(lambda: re.search("succeeded|failed", status()), "the job has no end")
    assert "succeeded" in (said := status()), said
    (found,) = query(root, "SELECT max(night), count(*) FROM nights")
    assert found == (night, 2)
