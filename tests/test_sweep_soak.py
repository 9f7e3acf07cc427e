"""Whole sweeps with Ray: repeated, linked, interrupted, killed, in every mode."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray_support import (
    SMALL_OPTIONS,
    SWEEPS,
    TABLES,
    Ended,
    clean_environment,
    committed,
    content,
    defects,
    files,
    started,
    sweep,
    wait_until,
    whole,
)

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

NAME = ("--name", "mine")
SCRIPTS = sorted(path.name for path in SWEEPS.glob("*.py") if path.name != "nightly.py")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The small sweep, left alone."""
    root = tmp_path_factory.mktemp("undisturbed") / "results"
    return root, whole(root, *NAME)


Undisturbed = tuple[Path, Ended]


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store(str(root)).database() as database:
        return database.execute(sql).fetchall()


def check_same(root: Path, undisturbed: Undisturbed, ended: Ended) -> None:
    """The same trials, rows and tables, and every cell once."""
    assert content(root) == content(undisturbed[0])
    assert ended.tables == undisturbed[1].tables.replace(str(undisturbed[0]), str(root))


def test_the_small_sweep_does_everything(undisturbed: Undisturbed) -> None:
    root, _ = undisturbed
    trials = query(root, "SELECT study, count(*) FROM trials GROUP BY ALL ORDER BY ALL")
    assert trials == [("mcsgd", 15), ("stable-sgd", 3)]
    cells = query(root, "SELECT purpose, count(*) FROM runs GROUP BY ALL ORDER BY ALL")
    assert cells == [("confirm", 9), ("search", 2 * 18 + 3 * (5 + 3))]
    states = {state for (state,) in query(root, "SELECT DISTINCT state FROM trials")}
    assert "pruned" in states, "nothing was pruned: the tests below would not notice its limits"


def test_another_name_and_root_give_the_same_sweep(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """On one worker instead of all: the order of things changes, and nothing else."""
    root = tmp_path / "elsewhere"
    ended = whole(root, "--name", "yours", "--max-concurrent", "1")
    assert content(root) == content(undisturbed[0])
    mine = undisturbed[1].tables.replace(str(undisturbed[0]), str(root)).replace("mine", "yours")
    assert ended.tables == mine


def test_the_same_name_again_and_another_in_the_same_root(undisturbed: Undisturbed) -> None:
    root, first = undisturbed
    before = files(root)
    again = whole(root, *NAME)
    assert again.tables == first.tables
    assert files(root) == before, "nothing had to run"

    other = whole(root, "--name", "yours")
    assert other.tables == first.tables.replace("mine", "yours")
    assert content(root, "yours") == content(root, "mine")
    sql = """
        SELECT DISTINCT reused_from, status = 'pruned' FROM runs WHERE sweep = 'yours' ORDER BY ALL
    """
    # A pruned cell is no result of its specification alone; all others are linked.
    assert query(root, sql) == [("mine", False), (None, True)]
    for path in root.rglob("sweep=yours"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_foreign_name_is_refused(undisturbed: Undisturbed) -> None:
    """As a user sees it; test_conductor.py has every way in which two sweeps differ."""
    root, _ = undisturbed
    before = files(root)
    ended = sweep(root, *NAME, "--set", "line_samples=3")
    assert ended.status == 2
    assert re.fullmatch(r"small: error: sweep 'mine' was made .* another --name.*\n", ended.err)
    assert files(root) == before


# Interruptions


def test_ctrl_c_leaves_results_and_the_same_command_goes_on(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    for blocks in (1, 8):
        with started(root, *NAME) as driver:
            wait_until(lambda blocks=blocks: committed(root) >= blocks, "no block has ended")
            driver.interrupt()
            begin = time.monotonic()
            ended = driver.wait()
        assert ended.status == 130, ended.err
        print(f"\nCtrl-C took {time.monotonic() - begin:.1f} s")
        assert ended.err == "interrupted: the same command goes on (--name mine)\n"
        assert "Traceback" not in ended.out
        assert f"Results:     {root}" in ended.out
        assert defects(root) == []
        assert query(root, "SELECT count(*) FROM runs")[0][0] >= blocks
    check_same(root, undisturbed, whole(root, *NAME))


def test_ctrl_c_before_anything_has_ended(tmp_path: Path) -> None:
    root = tmp_path / "results"
    with started(root, *NAME) as driver:
        wait_until(lambda: driver.log.with_suffix(".out").read_text(), "no line was printed")
        driver.interrupt()
        ended = driver.wait()
    assert ended.status == 130
    assert "Traceback" not in ended.out + ended.err
    assert len(ended.err.splitlines()) <= 1
    assert defects(root) == []


def test_ctrl_c_while_ray_starts(tmp_path: Path) -> None:
    root = tmp_path / "results"
    with started(root, *NAME) as driver:
        # Not just any process: imports start some too.
        wait_until(lambda: "gcs_server" in str(driver.processes()), "Ray did not start")
        time.sleep(0.5)
        driver.interrupt()
        ended = driver.wait()
    assert ended.status == 130
    assert "Traceback" not in ended.out + ended.err
    assert len(ended.err.splitlines()) <= 1


AT_A_POINT = '''"""Ctrl-C at one point, swallowed there, as DuckDB does while it loads."""

import signal
from contextlib import suppress

from lmc_ray.sweep import Study, main, runner, script


def interrupted(work):
    def first(*words, **options):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return work(*words, **options)

    return first


POINT.NAME = interrupted(POINT.NAME)
main([Study(method="naive-sgd", pinned=True, space={"epochs": 1})], trials=0, seeds=1)
'''


@pytest.mark.parametrize(
    "point", ["script.machine_for", "runner.Conductor.start", "runner.Tuner", "script._report"]
)
def test_ctrl_c_that_is_swallowed(tmp_path: Path, point: str) -> None:
    """Before, between and after what Tune does."""
    where, _, name = point.rpartition(".")
    script = tmp_path / "interrupted.py"
    script.write_text(AT_A_POINT.replace("POINT", where).replace("NAME", name))
    ended = sweep(tmp_path / "results", *NAME, *SMALL_OPTIONS, script=script)
    assert ended.status == 130
    assert "Traceback" not in ended.out + ended.err
    assert len(ended.err.splitlines()) <= 1
    after = point == "script._report"
    assert committed(tmp_path / "results") == after, "it went on"


SLOW = '''"""One block that takes a while, on validation data."""

from lmc_ray.sweep import Study, main

main([Study(method="stable-sgd", space={"batch_size": 16, "epochs": 20})], trials=0, seeds=2)
'''


def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    script, options = tmp_path / "slow.py", (*NAME, "--tasks", "8", "--network", "mlp-64-64")
    script.write_text(SLOW)
    calm, root = tmp_path / "calm" / "results", tmp_path / "killed" / "results"
    first = whole(calm, *options, script=script)
    with started(root, *options, script=script) as driver:
        wait_until(lambda: list(root.rglob(".checkpoints/*/*.pt")), "no checkpoint was written")
        when = time.time()
        workers = driver.workers()
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: set(driver.workers()) - set(workers), "no worker came instead")
        ended = driver.wait()
    assert ended.status == 0, ended.err
    assert content(root) == content(calm)
    assert ended.tables == first.tables.replace(str(calm), str(root))
    began = query(root, "SELECT DISTINCT epoch(started_at), epoch(finished_at) FROM runs")
    assert len(began) == 1
    assert began[0][0] < when < began[0][1], "it was started anew, not resumed"


def test_two_sweeps_of_one_root_at_a_time(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The one that ends first leaves the other's checkpoints alone."""
    root = tmp_path / "results"
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    long = ("--name", "long", "--tasks", "8", "--network", "mlp-64-64", "--max-concurrent", "1")
    with started(root, *long, script=script) as driver:
        wait_until(lambda: list(root.rglob(".checkpoints/*/*.pt")), "no checkpoint was written")
        short = sweep(root, *NAME, "--trials", "0", "--seeds", "1")
        assert short.status == 0, short.err
        before = list(root.rglob(".checkpoints/*/*.pt"))
        assert driver.process.poll() is not None or before, "its checkpoints are gone"
        ended = driver.wait()
    assert ended.status == 0, ended.err
    assert ended.err == ""
    assert defects(root) == []
    assert query(root, "SELECT count(*) FROM runs WHERE sweep = 'long'") == [(2,)]


# Modes


@pytest.mark.parametrize("script", SCRIPTS)
def test_smoke(tmp_path: Path, script: str) -> None:
    """Every table of that sweep is written; multitask has no paths, connectivity no search."""
    root = tmp_path / "results"
    begin = time.monotonic()
    whole(root, "--smoke", script=SWEEPS / script)
    seconds = time.monotonic() - begin
    print(f"\n{script} --smoke took {seconds:.1f} s")
    assert seconds < 240, "30 s on a machine with nothing else to do"
    found = content(root)
    missing = {"multitask.py": {"paths", "barriers"}, "connectivity.py": {"trials"}}
    wanted = set(TABLES) - missing.get(script, set())
    assert {table for table, rows in found.items() if rows} == wanted


def test_asynchronous(tmp_path: Path) -> None:
    """Not repeatable, but whole; and under its name it goes on."""
    root = tmp_path / "results"
    with started(root, *NAME, "--async") as driver:
        wait_until(lambda: committed(root) >= 11, "no block has ended")
        driver.kill()
    first = whole(root, *NAME, "--async")
    assert query(root, "SELECT count(*) FROM trials WHERE study = 'mcsgd'") == [(15,)]
    before = files(root)
    assert whole(root, *NAME, "--async").tables == first.tables
    assert files(root) == before


def test_pareto(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ended = whole(root, *NAME, "--pareto", "accuracy,memory", "--seeds", "2")
    pairs = query(root, """SELECT "values" FROM trials WHERE study = 'mcsgd'""")
    assert len(pairs) == 15
    assert all(len(pair) == 2 and pair[1] in range(1, 11) for (pair,) in pairs)
    sql = """
        SELECT memory_per_class, count(*) FROM runs
        WHERE method = 'mcsgd' AND purpose = 'confirm' GROUP BY ALL ORDER BY ALL
    """
    front = query(root, sql)
    assert front
    assert {count % 2 for _, count in front} == {0}
    assert "MC-SGD" in ended.tables


def test_a_preset(tmp_path: Path) -> None:
    """Through to the rows; test_presets.py has all of them."""
    root = tmp_path / "results"
    whole(root, *NAME, "--preset", "cl-gym", "--trials", "2", "--seeds", "1", "--tasks", "2")
    sql = "SELECT DISTINCT path_reduction, continue_from FROM runs WHERE method = 'mcsgd'"
    assert query(root, sql) == [("sum", "connected")]


def test_a_setting_may_name_its_method(tmp_path: Path) -> None:
    root = tmp_path / "results"
    sizes = ("batch_size=32", "mcsgd.batch_size=16", "naive-sgd.batch_size=128")
    settings = [word for size in sizes for word in ("--set", size)]
    short = ("--trials", "1", "--seeds", "1", "--tasks", "2")
    sql = "SELECT DISTINCT method, batch_size FROM runs ORDER BY method"
    whole(root, *NAME, *settings, *short, "--method", "mcsgd", "--method", "stable-sgd")
    assert query(root, sql) == [("mcsgd", 16), ("stable-sgd", 32)]
    whole(root, *NAME, *settings, *short)  # the same sweep, now with all its studies
    assert query(root, sql) == [("mcsgd", 16), ("naive-sgd", 128), ("stable-sgd", 32)]


def test_a_sweep_whose_every_cell_diverges(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ended = sweep(root, *NAME, "--set", "learning_rate=1e30", "--trials", "2", "--seeds", "2")
    assert ended.status == 0, ended.err
    assert re.fullmatch("MC-SGD: no trial came to its end .*\n", ended.err)
    assert defects(root) == []
    sql = "SELECT method, status, count(*) FROM runs WHERE purpose = 'confirm' GROUP BY ALL"
    assert sorted(query(root, sql)) == [
        ("naive-sgd", "finished", 2),
        ("stable-sgd", "diverged", 2),
    ]
    assert "2 of 2 seeds diverged" in " ".join(ended.tables.split())
    states = query(root, "SELECT DISTINCT state, value FROM trials")
    assert states == [("diverged", 0.1)]


def test_everything_stays_on_this_machine(tmp_path: Path) -> None:
    """No port of ours is open to the network: Ray runs code for whoever reaches one."""
    root = tmp_path / "results"
    with started(root, *NAME) as driver:
        wait_until(lambda: driver.workers(), "no worker came")
        mine = sockets(set(driver.processes()))
        open_ports = {address for address in listening() if address[1] in mine}
        driver.kill()
    assert open_ports
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    assert {address for address, _ in open_ports} <= set(loopback)


def listening() -> set[tuple[str, str]]:
    """(address in hex, inode) of every TCP socket that listens."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found.add((words[1].split(":")[0], words[9]))
    return found


def sockets(pids: set[int]) -> set[str]:
    """The inodes of the sockets that some processes hold."""
    found = set()
    for pid in pids:
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found |= {link[8:-1] for link in links if link.startswith("socket:[")}
    return found


# A worker whose data are not the driver's.
OTHER_DATA = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "lmc_ray.sweep.trainable":
            import lmc_ray.benchmarks
            sys.meta_path.remove(self)
            real = lmc_ray.benchmarks.load
            lmc_ray.benchmarks.load = lambda *names, **more: real("rotated-digits", tasks=9)
            lmc_ray.benchmarks.Benchmark.fingerprint = "00" * 32

if "default_worker.py" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, Watch())
"""


def test_other_data_on_a_node_are_one_clear_line(tmp_path: Path) -> None:
    root, site = tmp_path / "results", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(OTHER_DATA)
    path = f"{site}:{clean_environment()['PYTHONPATH']}"
    with started(root, *NAME, environment={"PYTHONPATH": path}) as driver:
        ended = driver.wait()
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert "differ from the driver's: give all nodes the same files" in line
    assert committed(root) == 0
