"""Whole sweeps with Ray: repeated, linked, interrupted, killed, in every mode."""

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray_support import (
    NAME,
    SMALL_OPTIONS,
    SWEEPS,
    TABLES,
    Ended,
    before_workers_import,
    check_undisturbed,
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

WORKER = "lmc_ray.sweep.trainable"
"""The first that a worker of Ray imports of ours."""

Undisturbed = tuple[Path, Ended]


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store(str(root)).database() as database:
        return database.execute(sql).fetchall()


def test_the_small_sweep_does_everything(undisturbed: Undisturbed) -> None:
    root, _ = undisturbed
    trials = query(root, "SELECT study, count(*) FROM trials GROUP BY ALL ORDER BY ALL")
    assert trials == [("mcsgd", 14), ("stable-sgd", 3)]
    cells = query(root, "SELECT purpose, count(*) FROM runs GROUP BY ALL ORDER BY ALL")
    assert cells == [("confirm", 6), ("search", 2 * 17 + 3 * (5 + 3))]
    states = {state for (state,) in query(root, "SELECT DISTINCT state FROM trials")}
    assert "pruned" in states, "nothing was pruned: the tests below would not notice its limits"


def test_the_same_name_again_and_another_in_the_same_root(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(undisturbed[0], tmp_path / "results"))
    first = undisturbed[1].tables.replace(str(undisturbed[0]), str(root))
    before = files(root)
    again = whole(root, *NAME)
    assert again.tables == first
    assert files(root) == before, "nothing had to run"

    other = whole(root, "--name", "yours")
    assert other.tables == first.replace("mine", "yours")
    assert content(root, "yours") == content(root, "mine")
    sql = """
        SELECT DISTINCT reused_from, status = 'pruned' FROM runs WHERE sweep = 'yours' ORDER BY ALL
    """
    # A pruned cell is no result of its specification alone; all others are linked.
    assert query(root, sql) == [("mine", False), (None, True)]


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
    """Another name, another root, and in the end one worker instead of all: the same sweep."""
    root, yours = tmp_path / "elsewhere", ("--name", "yours")
    with started(root, *yours) as driver:
        wait_until(lambda: committed(root) >= 3, "no block has ended")
        driver.interrupt()
        begin = time.monotonic()
        ended = driver.wait()
    assert ended.status == 130, ended.err
    print(f"\nCtrl-C took {time.monotonic() - begin:.1f} s")
    assert ended.err == "interrupted: the same command goes on (--name yours)\n"
    assert "Traceback" not in ended.out
    assert f"Results:     {root}" in ended.out
    assert defects(root) == []
    assert query(root, "SELECT count(*) FROM runs")[0][0] >= 3
    ended = whole(root, *yours, "--max-concurrent", "1")
    assert content(root) == content(undisturbed[0])
    mine = undisturbed[1].tables.replace(str(undisturbed[0]), str(root)).replace("mine", "yours")
    assert ended.tables == mine


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


@pytest.mark.parametrize("point", ["runner.Tuner", "script._report"])
def test_ctrl_c_that_is_swallowed(tmp_path: Path, point: str) -> None:
    """Just before and after what Tune does; test_interrupts.py has those before."""
    where, _, name = point.rpartition(".")
    script = tmp_path / "interrupted.py"
    script.write_text(AT_A_POINT.replace("POINT", where).replace("NAME", name))
    ended = sweep(tmp_path / "results", *NAME, *SMALL_OPTIONS, script=script)
    assert ended.status == 130
    assert "Traceback" not in ended.out + ended.err
    assert len(ended.err.splitlines()) <= 1
    after = point == "script._report"
    assert committed(tmp_path / "results") == after, "it went on"


MISSED = '''"""The first copy of Tune's state misses a file that was renamed meanwhile."""

from ray.train._internal import storage

from lmc_ray.sweep import Study, main


copy = storage._upload_to_fs_path


def missed(**options):
    storage._upload_to_fs_path = copy
    raise FileNotFoundError(options["local_path"])


storage._upload_to_fs_path = missed
main([Study(method="naive-sgd", pinned=True, space={"epochs": 1})], trials=0, seeds=1)
'''


def test_what_tune_loses_of_its_own_state_is_no_news(tmp_path: Path) -> None:
    """Seen once: its copies at a short sweep's start and end met."""
    script = tmp_path / "missed.py"
    script.write_text(MISSED)
    whole(tmp_path / "results", *NAME, *SMALL_OPTIONS, script=script)


SLOW = '''"""One block that takes a while, on validation data."""

from lmc_ray.sweep import Study, main

main([Study(method="stable-sgd", space={"batch_size": 16, "epochs": 20})], trials=0, seeds=2)
'''


SLOW_OPTIONS = ("--tasks", "8", "--network", "mlp-64-64")


@dataclass(frozen=True)
class Together:
    """What a slow and a short sweep of one root at a time have left."""

    root: Path
    long: Ended
    short: Ended
    checkpoints_stay: bool
    addresses: set[str]
    """Where the slow one listened, in hex."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """A slow sweep, and another of the same root that begins and ends meanwhile."""
    root = tmp_path_factory.mktemp("together") / "results"
    script = root.parent / "slow.py"
    script.write_text(SLOW)
    long = ("--name", "unhurried", *SLOW_OPTIONS, "--max-concurrent", "1")
    with started(root, *long, script=script) as driver:
        wait_until(lambda: list(root.rglob(".checkpoints/*/*.pt")), "no checkpoint was written")
        assert driver.workers()
        mine = sockets(set(driver.processes()))
        addresses = {address for address, inode in listening() if inode in mine}
        chosen = ("learning_rate=0.1", "dropout=0.1", "connect_steps=2")
        settings = [word for each in chosen for word in ("--set", each)]
        short = sweep(root, *NAME, *settings, "--seeds", "1")
        left = list(root.rglob(".checkpoints/*/*.pt"))
        stay = driver.process.poll() is not None or bool(left)
        return Together(root, driver.wait(), short, stay, addresses)


def test_two_sweeps_of_one_root_at_a_time(together: Together) -> None:
    """The one that ends first leaves the other's checkpoints alone."""
    root = together.root
    assert together.short.status == 0, together.short.err
    assert together.checkpoints_stay, "its checkpoints are gone"
    assert together.long.status == 0, together.long.err
    assert together.long.err == ""
    assert defects(root) == []
    assert query(root, "SELECT count(*) FROM runs WHERE sweep = 'unhurried'") == [(2,)]


def test_everything_stays_on_this_machine(together: Together) -> None:
    """No port of ours is open to the network: Ray runs code for whoever reaches one."""
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert together.addresses
    assert together.addresses <= loopback


def test_a_killed_worker_goes_on_from_its_checkpoint(together: Together, tmp_path: Path) -> None:
    script, options = tmp_path / "slow.py", (*NAME, *SLOW_OPTIONS)
    script.write_text(SLOW)
    root = tmp_path / "killed" / "results"
    with started(root, *options, script=script) as driver:
        wait_until(lambda: list(root.rglob(".checkpoints/*/*.pt")), "no checkpoint was written")
        when = time.time()
        workers = driver.workers()
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: set(driver.workers()) - set(workers), "no worker came instead")
        ended = driver.wait()
    assert ended.status == 0, ended.err
    assert content(root) == content(together.root, "unhurried")
    calm = together.long.tables.replace(str(together.root), str(root)).replace("unhurried", "mine")
    assert ended.tables == calm
    began = query(root, "SELECT DISTINCT epoch(started_at), epoch(finished_at) FROM runs")
    assert len(began) == 1
    assert began[0][0] < when < began[0][1], "it was started anew, not resumed"


# Modes


@pytest.mark.parametrize("script", ["continual.py", "multitask.py"])
def test_smoke(tmp_path: Path, script: str) -> None:
    """Every table of that sweep is written; multitask has no paths.

    The same of the other scripts: test_sweep.py, test_paper_soak.py and test_object_store.py.
    """
    root = tmp_path / "results"
    begin = time.monotonic()
    whole(root, "--smoke", script=SWEEPS / script)
    seconds = time.monotonic() - begin
    print(f"\n{script} --smoke took {seconds:.1f} s")
    assert seconds < 240, "30 s on a machine with nothing else to do"
    found = content(root)
    missing = {"multitask.py": {"paths", "barriers"}}
    wanted = set(TABLES) - missing.get(script, set())
    assert {table for table, rows in found.items() if rows} == wanted


def test_asynchronous(tmp_path: Path) -> None:
    """Not repeatable, but whole; under its name it goes on, and a third time test_conductor.py."""
    root = tmp_path / "results"
    with started(root, *NAME, "--async") as driver:
        wait_until(lambda: committed(root) >= 8, "no block has ended")
        driver.kill()
    before = files(root / "runs")
    whole(root, *NAME, "--async")
    assert before.items() <= files(root / "runs").items()
    assert query(root, "SELECT count(*) FROM trials WHERE study = 'mcsgd'") == [(14,)]


def test_pareto(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ended = whole(root, *NAME, "--pareto", "accuracy,memory", "--trials", "7")
    pairs = query(root, """SELECT "values" FROM trials WHERE study = 'mcsgd'""")
    assert len(pairs) == 7
    assert all(len(pair) == 2 and pair[1] in range(1, 11) for (pair,) in pairs)
    sql = """
        SELECT memory_per_class, count(*) FROM runs
        WHERE method = 'mcsgd' AND purpose = 'confirm' GROUP BY ALL ORDER BY ALL
    """
    front = query(root, sql)
    assert front
    assert {count % 2 for _, count in front} == {0}
    assert "MC-SGD" in ended.tables


def test_a_preset_and_settings_that_name_their_method(tmp_path: Path) -> None:
    """Through to the rows; test_presets.py has all presets."""
    root = tmp_path / "results"
    sizes = ("batch_size=32", "mcsgd.batch_size=16", "naive-sgd.batch_size=128")
    settings = ["--preset", "cl-gym", *(word for size in sizes for word in ("--set", size))]
    short = ("--trials", "1", "--seeds", "1", "--tasks", "2")
    sql = "SELECT DISTINCT method, batch_size FROM runs ORDER BY method"
    whole(root, *NAME, *settings, *short, "--method", "mcsgd", "--method", "stable-sgd")
    assert query(root, sql) == [("mcsgd", 16), ("stable-sgd", 32)]
    whole(root, *NAME, *settings, *short)  # the same sweep, now with all its studies
    assert query(root, sql) == [("mcsgd", 16), ("naive-sgd", 128), ("stable-sgd", 32)]
    sql = "SELECT DISTINCT path_reduction, continue_from FROM runs WHERE method = 'mcsgd'"
    assert query(root, sql) == [("sum", "connected")]


# A worker that dies as Tune gives it its next pack, the first time that it does.
DIES_BETWEEN = """
import os
from ray.tune import Trainable
reset = Trainable.reset
def dying(self, *arguments, **more):
    try:
        open("{file}", "x").close()
    except FileExistsError:
        return reset(self, *arguments, **more)
    os.kill(os.getpid(), 9)
Trainable.reset = dying
"""


def test_a_worker_lost_between_two_packs_costs_nothing(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """Tune fails the next pack at once then, without trying it again."""
    root, died = tmp_path / "results", tmp_path / "died"
    site = before_workers_import(
        WORKER, tmp_path / "site", DIES_BETWEEN.replace("{file}", str(died))
    )
    with started(root, *NAME, environment=site) as driver:
        ended = driver.wait()
    assert died.exists()
    assert ended.err == ""
    (log,) = (tmp_path / "logs").glob("*.log")
    assert re.search("run again|tried again", log.read_text())
    check_undisturbed(root, ended, undisturbed)


# Workers that write down where they look for decoded images, trial by trial.
CACHES = """
from lmc_ray.benchmarks import Benchmark, cache
examples = Benchmark.examples
def noted(self, *arguments):
    with open("{file}", "a") as file:
        print(cache.root(), file=file)
    return examples(self, *arguments)
Benchmark.examples = noted
"""


def test_a_cache_in_a_folder_named_from_here(tmp_path: Path) -> None:
    """Workers run in other folders, and a worker's next trial in another than its first."""
    seen = tmp_path / "seen"
    site = before_workers_import(WORKER, tmp_path / "site", CACHES.replace("{file}", str(seen)))
    short = ("--trials", "4", "--seeds", "2", "--method", "stable-sgd")
    environment = {**site, "LMC_CACHE": "mine/cache"}
    with started(tmp_path / "results", *NAME, *short, environment=environment) as driver:
        ended = driver.wait()
    assert (ended.status, ended.err) == (0, "")
    assert set(seen.read_text().split()) == {str(tmp_path / "mine" / "cache")}


def test_a_sweep_whose_every_cell_diverges(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ended = sweep(root, *NAME, "--set", "learning_rate=1e30", "--trials", "2", "--seeds", "2")
    assert ended.status == 1, ended.err
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
import lmc_ray.benchmarks
real = lmc_ray.benchmarks.load
lmc_ray.benchmarks.load = lambda *names, **more: real("rotated-digits", tasks=9)
lmc_ray.benchmarks.Benchmark.fingerprint = "00" * 32
"""


def test_other_data_on_a_node_are_one_clear_line(tmp_path: Path) -> None:
    root, site = tmp_path / "results", before_workers_import(WORKER, tmp_path / "site", OTHER_DATA)
    with started(root, *NAME, environment=site) as driver:
        ended = driver.wait()
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert "differ from the driver's: give all nodes the same files" in line
    assert committed(root) == 0


# A worker in which MC-SGD always fails, as for want of memory.
BROKEN = """
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
def learn(self, task):
    raise RuntimeError("broken on purpose")
ModeConnectivitySGD.learn = learn
"""


def test_what_fails_for_good_is_told_and_the_rest_reported(tmp_path: Path) -> None:
    root, site = tmp_path / "results", before_workers_import(WORKER, tmp_path / "site", BROKEN)
    with started(root, *NAME, "--trials", "2", environment=site) as driver:
        ended = driver.wait()
    assert ended.status == 1
    assert re.search("small: error: .* blocks failed .* 4 times each", ended.err)
    assert "broken on purpose" in ended.err, "the worker's traceback"
    assert "runner.py" not in ended.err, "the driver's own says nothing"
    assert "Stable SGD" in ended.tables
    assert "interrupted" not in ended.err
    assert defects(root) == []
    again = sweep(root, *NAME, "--trials", "2")
    assert again.status == 1, "its trials have failed, here and now too"
    assert re.fullmatch("MC-SGD: no trial came to its end .*\n", again.err)
