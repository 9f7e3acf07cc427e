"""A commit that dies, stalls or fails at any of its file operations shows all of a cell or nothing.

Every operation is met: opening a file, half of a write, fsync, rename, making a folder. The
processes here are real and die by SIGKILL; the full disk is a real one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from results import Rows
from test_store import (
    Attempt,
    full_rows,
    gated,  # noqa: F401 (a fixture)
    visible,
)

from lmc_ray.store import Store

TESTS = Path(__file__).parent

# Forks once for every operation: the child commits and kills itself there. Prints how many it met.
KILLED = '''
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import full_rows
from lmc_ray.store import Store

def moments(stop):
    """Die when as many moments have passed: there is one before each operation, and the end."""
    passed = 0

    def moment():
        nonlocal passed
        passed += 1
        if passed == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(call):
        def watched(*arguments, **named):
            moment()
            return call(*arguments, **named)
        return watched

    class Halves:
        def __init__(self, file):
            self.file = file
        def __enter__(self):
            return self
        def __exit__(self, *problem):
            moment()
            self.file.close()
        def write(self, data):
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                moment()
                self.file.write(half)
                self.file.flush()
        def __getattr__(self, name):
            return getattr(self.file, name)

    opened = before(Path.open)
    Path.open = lambda *arguments, **named: Halves(opened(*arguments, **named))
    for owner, name in ((Path, "replace"), (Path, "mkdir"), (os, "fsync"), (os, "open")):
        setattr(owner, name, before(getattr(owner, name)))
    return moment

rows = full_rows(["x", "y"])
status, stop = 1, 0
while status:
    stop += 1
    if not (child := os.fork()):
        end = moments(stop)
        Store(f"{sys.argv[1]}/{stop}").commit("s", "a", rows)
        end()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
print(stop)
'''


def committed_once(store: Store, *cells: str) -> None:
    """Each of these cells is seen once, with all its rows, and nothing else is wrong."""
    assert visible(store).keys() == set(cells)
    assert [finding for finding in store.verify() if not finding.harmless] == []


def test_a_worker_killed_at_any_operation_of_its_commit(tmp_path: Path):
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(TESTS)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=TESTS.parent, check=True)
    last = int(done.stdout)
    assert last > 40, "the commit of four tables has more moments than that"
    seen = []
    for moment in range(1, last + 1):
        store = Store(str(tmp_path / str(moment)))
        winners = visible(store)
        assert winners in ({}, {"x": "a", "y": "a"}), f"part of a commit at moment {moment}"
        seen.append(bool(winners))
        store.commit("s", "b", full_rows(["x", "y"]))
        committed_once(store, "x", "y")
    assert seen == sorted(seen), "visible, and then not any more"
    assert not seen[0]
    assert seen.count(True) > 2, "no kill came after the rename of the commit mark"


@pytest.mark.usefixtures("gated")
def test_two_attempts_of_a_cell_in_every_state_of_both(tmp_path: Path):
    """A worker thought dead and its replacement: each at every operation, a reader at each pair."""
    rows: Rows = {table: full_rows(["x"])[table] for table in ("runs", "accuracies")}
    whole = {("x", "a", 3), ("x", "b", 3)}
    first = steps = 0
    ended = False
    while not ended:
        store = Store(str(tmp_path / str(first)))
        old, new = (Attempt(store, name, rows) for name in "ba")
        for _ in range(first):
            old.step()
        ended = old.ended
        before: set[tuple[str, str, int]] = set()
        while True:
            now = seen(store)
            steps += 1
            assert len(now) <= 1, "seen twice"
            assert now <= whole, "seen in part"
            assert now or not before, "seen, and then not any more"
            before = now
            if new.ended:
                break
            new.step()
        assert before == {("x", "a", 3)}
        old.finish()
        assert seen(store) == {("x", "a", 3)}, "not the smallest attempt"
        first += 1
    print(f"\n{steps} states of two attempts")
    assert steps > 200


def seen(store: Store) -> set[tuple[str, str, int]]:
    """(cell, attempt, rows of accuracies) as a reader has it."""
    sql = """
        SELECT r.cell_id, r.attempt, count(a.cell_id) FROM runs r
        LEFT JOIN accuracies a USING (cell_id, attempt) GROUP BY ALL
    """
    with store.database() as database:
        found = database.execute(sql).fetchall()
        assert database.execute("SELECT count(DISTINCT cell_id) FROM accuracies").fetchall() == [
            (len(found),)
        ]
    return set(found)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size on a folder; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"no small disk can be mounted here: {problem}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all the room of a disk but some bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
        os.truncate(filler, max(0, file.tell() - leave))
    return filler


def failure(store: Store, name: str) -> str:
    """Why a cell of that name cannot be committed; empty if it is."""
    try:
        store.commit("s", name, full_rows([name]))
    except OSError as problem:
        return str(problem)
    return ""


def test_a_disk_that_is_full_at_any_point_of_a_commit(tmp_path: Path):
    disk = tmp_path / "disk"
    with small_disk(disk, 512):
        store = Store(str(disk / "results"))
        store.commit("s", "0", full_rows(["old"]))
        failed = 0
        for pages in range(20):
            filler = fill(disk, leave=4096 * pages)
            name = f"new-{pages}"
            problem = failure(store, name)
            short = "No space left" in problem
            assert short or not problem
            failed += short
            filler.unlink()
            committed_once(store, "old", *([] if short else [name]))
            assert not list(disk.rglob("*.tmp")), "it takes the room that is missing"
            if short:
                store.commit("s", name, full_rows([name]))  # the same attempt once more
                committed_once(store, "old", name)
            for file in disk.rglob(f"{name}.parquet"):
                file.unlink()
        assert 4 < failed < 20, "the disk was never, or always, full"
