"""Sweeps under fire: drivers, workers, nodes and disks that go away, and two drivers at a time.

Each test ends with the same assertion, `check_undisturbed`: nothing is lost, nothing counted twice.
"""

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_support import (
    NAME,
    Driver,
    Ended,
    check_undisturbed,
    clean_environment,
    committed,
    in_workers,
    started,
    wait_until,
    whole,
)
from test_commit_faults import fill, small_disk

from lmc_ray.store import Store
from lmc_ray.sweep.cluster import STARTS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

Calm = tuple[Path, Ended]


@pytest.fixture
def calm(undisturbed: Calm) -> Calm:
    """The sweep of most tests here, undisturbed."""
    return undisturbed


def log(root: Path, name: str = "mine") -> list[str]:
    """The lines of a sweep's log, without their times; none before it has begun."""
    path = root.parent / "logs" / f"{name}.log"
    lines = path.read_text().splitlines() if path.exists() else []
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    return [line.partition(" ")[2] for line in lines]


def printed(driver: Driver) -> str:
    return driver.log.with_suffix(".out").read_text()


# Drivers and workers


def test_drivers_killed_at_random_moments(calm: Calm, tmp_path: Path) -> None:
    """Two while they start, three while they train or commit; test_conductor.py has many more."""
    root, chance = tmp_path / "killed" / "results", random.Random(7)
    for kill in range(5):
        before = committed(root)
        with started(root, *NAME) as driver:
            if kill % 3:
                wait_until(
                    lambda before=before, driver=driver: (
                        committed(root) > before or driver.process.poll() is not None
                    ),
                    "no block has ended",
                )
            time.sleep(chance.random() * (0.5 if kill % 3 else 4))
            assert driver.process.poll() is None, "the sweep is too short for five kills"
            driver.kill()
    check_undisturbed(root, whole(root, *NAME), calm)
    # What was committed has not run again, and every cell has told how it ended.
    ended = [line for line in log(root) if line.startswith(("committed", "pruned", "diverged"))]
    cells = [cell for line in ended for cell in line.split(": ")[1].split()]
    assert len(cells) == len(set(cells))


# A worker takes a number from a folder at a commit that is not its first, and dies at that many
# operations of the store later: each number once, for a block that dies with its worker is run by
# another one. No block is taken down twice, however the workers share them out: at the fourth time
# it would count as failed. Its checkpoints, written after its tasks, tell which block it is.
DYING = """
import os, re, signal, sys
from pathlib import Path

orders, state = Path(os.environ["FIRE_ORDERS"]), {"marks": 0, "left": None, "block": None}

def watch(event, arguments):
    if event not in ("open", "os.rename", "os.mkdir"):
        return
    if found := re.search(r"/.checkpoints/.+/.\\w{32}-(\\w{32})", str(arguments[0])):
        state["block"] = found[1]
    if "/sweep=" not in str(arguments[0]):
        return
    if state["left"] is None:
        if event == "os.rename" and "/runs/" in str(arguments[0]):
            state["marks"], state["block"] = state["marks"] + 1, None
        elif state["marks"] and state["block"] and not orders.joinpath(state["block"]).exists():
            for order in sorted(orders.glob("[0-9]")):
                try:
                    order.rename(orders / f"done-{order.name}")
                except FileNotFoundError:
                    continue
                orders.joinpath(state["block"]).touch()
                state["left"] = int(order.name)
                break
    if state["left"] is not None:
        state["left"] -= 1
        if state["left"] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

if "default_worker.py" in " ".join(sys.orig_argv):
    sys.addaudithook(watch)
"""
OPERATIONS = 7
"""Of a commit of two tables after another: three each, and the end is the next one's first."""


def test_workers_killed_at_every_operation_of_a_commit(calm: Calm, tmp_path: Path) -> None:
    root, orders = tmp_path / "results", tmp_path / "orders"
    orders.mkdir()
    for number in range(1, OPERATIONS + 1):
        (orders / str(number)).touch()
    dying = in_workers(tmp_path / "site", DYING) | {"FIRE_ORDERS": str(orders)}
    with started(root, *NAME, environment=dying) as driver:
        ended = driver.wait()
    left = list(orders.glob("[0-9]"))
    assert not left, "not every order to die was taken"
    check_undisturbed(root, ended, calm)
    again = [line for line in log(root) if line.startswith("tried again")]
    assert len(again) >= OPERATIONS
    assert all("(failure 1 of 4 at most: The actor " in line for line in again[:1])
    assert all(re.search(r": [0-9a-f]{32}( [0-9a-f]{32})*$", line) for line in again)


# Disks


def test_a_root_that_goes_away_and_comes_back(calm: Calm, tmp_path: Path) -> None:
    root, away = tmp_path / "results", tmp_path / "away"
    with started(root, *NAME) as driver:
        for blocks in (2, 6):
            wait_until(lambda blocks=blocks: committed(root) >= blocks, "no block has ended")
            lines = len(waiting(root))
            root.rename(away)
            wait_until(lambda lines=lines: len(waiting(root)) > lines + 1, "nobody waits for it")
            assert not root.exists(), "it was made anew"
            away.rename(root)
        ended = driver.wait()
    assert ended.out.count("waiting for the results root: ") >= 1
    check_undisturbed(root, ended, calm)


def waiting(root: Path) -> list[str]:
    """The commits that had to be tried again."""
    return [line for line in log(root) if line.startswith("commit retried")]


def test_a_disk_that_fills_up_or_is_not_mounted(calm: Calm, tmp_path: Path) -> None:
    """Waited for, then one clear line; what is committed stays, and the sweep goes on later."""
    disk, root = tmp_path / "disk", tmp_path / "results"
    root.mkdir()
    with small_disk(disk, 16384):
        subprocess.run(["mount", "--bind", disk, root], check=True)
        try:
            with started(root, *NAME, environment={"LMC_PATIENCE": "20"}) as driver:
                wait_until(lambda: committed(root) >= 2, "no block has ended")
                subprocess.run(["umount", "-l", root], check=True)
                wait_until(lambda: len(waiting(root)) > 1, "nobody waits for the mount")
                # A commit that was under way may have gone there: it is made again. No later one.
                stray, tried = set(root.rglob("*")), len(waiting(root))
                wait_until(lambda: len(waiting(root)) > tried + 1, "nobody tries again")
                assert set(root.rglob("*")) == stray, "results went where no one will see them"
                subprocess.run(["mount", "--bind", disk, root], check=True)
                before = committed(root)
                wait_until(lambda: committed(root) > before, "it does not go on")

                filler = fill(root)
                wait_until(lambda: "No space left" in printed(driver), "the disk is not full")
                filler.unlink()
                before = committed(root)
                wait_until(lambda: committed(root) > before, "it does not go on")

                filler = fill(root)
                ended = driver.wait()
            assert ended.status == 2, ended.out
            assert re.fullmatch(
                rf"small: error: the results root {root} cannot be written \(.*No space left.*\):"
                r" .* same command again \(--name mine\).*\n",
                ended.err,
            )
            assert not list(root.rglob("*.parquet.*.tmp"))
            filler.unlink()
            assert not [f for f in Store(str(root)).verify() if not f.harmless]
            check_undisturbed(root, whole(root, *NAME), calm)
        finally:
            subprocess.run(["umount", "-l", root], check=False)


# Nodes

# Nodes with one core each, a head among them; a line on standard input takes one away, or adds one.
NODES = """
import sys
from ray.cluster_utils import Cluster

small = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
nodes = [cluster.add_node(**small) for _ in range(int(sys.argv[1]) - 1)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        cluster.add_node(**small)
    print("done", flush=True)
"""
LONG = '''"""Blocks that take a while."""

from lmc_ray.sweep import Study, main

main([Study(method="stable-sgd", space={"batch_size": 16, "epochs": 150})], trials=0, seeds=3)
'''
LONG_OPTIONS = ("--name", "long", "--tasks", "6", "--network", "mlp-64-64", "--replicas", "1")


@dataclass
class Nodes:
    """A cluster on loopback, in a session of its own."""

    process: subprocess.Popen[str]

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def do(self, what: str) -> None:
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        assert self.read() == "done"


# Where the machine has a network, Ray would take that address instead and listen on it.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def cluster_of(number: int) -> Iterator[tuple[Nodes, dict[str, str]]]:
    """The cluster, and what makes a driver join it."""
    for _ in range(STARTS):  # on a busy machine one of them may fail to come up
        process = subprocess.Popen(
            [sys.executable, "-c", NODES, str(number)],
            env=clean_environment() | LOOPBACK,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        nodes = Nodes(process)
        try:
            if address := nodes.read():
                assert address.startswith("127.0.0.1:"), "open to the network"
                yield nodes, LOOPBACK | {"RAY_ADDRESS": address}
                return
        finally:
            Driver(process, Path()).kill()  # type: ignore[arg-type]
    pytest.fail("no cluster has come up")


def test_two_drivers_of_one_sweep_on_two_rays(calm: Calm, tmp_path: Path) -> None:
    """No lock reaches from one cluster to another; both sweeps are done all the same."""
    root = tmp_path / "results"
    # Both Rays are up before either begins, or one might be done before the other's is.
    with (
        cluster_of(2) as (_, here),
        cluster_of(2) as (_, there),
        started(root, *NAME, environment=here) as one,
        started(root, *NAME, environment=there) as other,
    ):
        both = one.wait(), other.wait()
    for ended in both:
        check_undisturbed(root, ended, calm)
    assert committed(root) > committed(calm[0]), "the two did not meet: nothing was run twice"


def test_a_cluster_that_loses_nodes_and_its_driver(tmp_path: Path) -> None:
    """A second driver is refused meanwhile, and a restart after `kill -9` is not."""
    script = tmp_path / "long.py"
    script.write_text(LONG)
    calm_root, root = tmp_path / "calm" / "results", tmp_path / "fire" / "results"
    calm = calm_root, whole(calm_root, *LONG_OPTIONS, script=script)
    with cluster_of(3) as (nodes, join):
        with started(root, *LONG_OPTIONS, script=script, environment=join) as driver:
            wait_until(lambda: checkpoints(root), "no block has a checkpoint")
            with started(root, *LONG_OPTIONS, script=script, environment=join) as second:
                wait_until(lambda: len(checkpoints(root)) == 3, "a block has no checkpoint")
                nodes.do("lose")
                nodes.do("lose")
                wait_until(lambda: lines(root, "resumed"), "no block was resumed")
                refused = second.wait()
            assert refused.status == 2
            wanted = r"long: error: sweep 'long' is at work already \(process (\d+) on .*\): .*\n"
            found = re.fullmatch(wanted, refused.err)
            assert found
            assert int(found[1]) == driver.process.pid
            driver.process.kill()  # the driver alone: the cluster lives on
            driver.process.wait()
        before = len(lines(root, "resumed"))
        nodes.do("add")
        with started(root, *LONG_OPTIONS, script=script, environment=join) as driver:
            ended = driver.wait()
    check_undisturbed(root, ended, calm)
    resumed = lines(root, "resumed")
    assert all(re.search(r"after task \d on .*: [0-9a-f]{32}$", line) for line in resumed)
    assert len(resumed) > before, "the second driver did not take up what the first had left"


def checkpoints(root: Path) -> list[Path]:
    return list(root.rglob(".checkpoints/*/*.pt"))


def lines(root: Path, event: str) -> list[str]:
    return [line for line in log(root, "long") if line.startswith(event)]
