"""Whole sweeps in processes of their own, and a way to be sure that nothing of them stays behind.

A driver gets a session of its own. Whatever Ray starts for it stays in that session, so its
processes can be found, and killed, without looking at anybody else's.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmc_ray.store import TABLES as SCHEMAS
from lmc_ray.store import Finding, Store

SWEEPS = Path(__file__).parent.parent / "sweeps"
PATIENCE = 900.0
"""Seconds to wait for anything; a busy machine needs many."""

# What may differ between two runs of one cell: nothing that anybody would call a result.
FREE = ("sweep", "attempt", "wall_seconds", "started_at", "finished_at", "reused_from", "version")
TABLES = ("runs", "accuracies", "paths", "barriers", "trials")

SMALL = '''"""A small search on validation data."""

from lmc_ray.sweep import Range, Study, main

SAME = {"batch_size": 64, "epochs": 1}
STUDIES = [
    Study(
        method="mcsgd",
        space={
            "learning_rate": Range(0.01, 0.5, log=True),
            "dropout": Range(0.0, 0.5),
            "connect_steps": [2, 4],
            "line_samples": 2,
            **SAME,
        },
    ),
    Study(method="stable-sgd", trials=3, space={"learning_rate": Range(0.01, 0.5), **SAME}),
    Study(method="naive-sgd", pinned=True, space=SAME),
]

if __name__ == "__main__":
    main(STUDIES, trials=14, seeds=2)
'''
SMALL_OPTIONS = ("--tasks", "4", "--network", "mlp-8-8")
NAME = ("--name", "mine")


@dataclass(frozen=True)
class Ended:
    """A driver that has come to its end."""

    status: int
    out: str
    err: str

    @property
    def tables(self) -> str:
        """What it printed from the first table on; Ray may tell of a dead worker between."""
        first = re.search(r"^[a-z]+-digits, ", self.out, re.MULTILINE)
        assert first, self.out
        printed = self.out[first.start() :].splitlines(keepends=True)
        # Such news may have further lines, which start with a tab.
        return "".join(line for line in printed if "(raylet)" not in line and line[0] != "\t")


@dataclass
class Driver:
    """A running sweep script."""

    process: subprocess.Popen[bytes]
    log: Path

    def processes(self) -> dict[int, str]:
        """What lives in the driver's session: its own process and all that Ray started for it."""
        found = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                stat = (folder / "stat").read_text()
                state, _, _, session = stat[stat.rindex(")") + 2 :].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = words[0].decode()
        return found

    def workers(self) -> list[int]:
        """The processes that train."""
        return [pid for pid, name in self.processes().items() if "Trainable" in name]

    def wait(self) -> Ended:
        """Wait for the driver, and for everything that it has started."""
        try:
            status = self.process.wait(PATIENCE)
            wait_until(lambda: not self.processes(), "Ray's processes stay behind")
        finally:
            self.kill()
        out, err = (self.log.with_suffix(end).read_text() for end in (".out", ".err"))
        return Ended(status, out, err)

    def interrupt(self) -> None:
        """Ctrl-C at a terminal: the whole foreground group is told."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for the driver; then all that is left of its Ray goes, as with a dead machine."""
        self.process.kill()
        self.process.wait()
        end = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < end, f"not killed: {left}"
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def clean_environment() -> dict[str, str]:
    """What processes with Ray need, and nothing that changes how they behave."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "LMC_"))} | {
        "LMC_CACHE": os.environ["LMC_CACHE"],
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SWEEPS.parent),  # this checkout, wherever the script lies
        "RAY_AUTH_MODE": "disabled",
        "RAY_raylet_start_wait_time_s": "60",  # then the driver starts another
    }


def in_workers(folder: Path, code: str) -> dict[str, str]:
    """The environment in which every Python process runs this code before all else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{clean_environment()['PYTHONPATH']}"}


_WATCH = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            exec({code!r}, {{}})

if "default_worker.py" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, Watch())
"""


def before_workers_import(module: str, folder: Path, code: str) -> dict[str, str]:
    """The environment in which every worker of Ray runs this code just before it imports a module.

    What that module takes from others can be made otherwise there.
    """
    return in_workers(folder, _WATCH.format(module=module, code=code))


def wait_until(condition: Callable[[], Any], problem: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(problem)
        time.sleep(0.05)


def _heed_ctrl_c() -> None:
    """A shell has its background commands ignore Ctrl-C, and what they start as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(
    root: Path,
    *arguments: str,
    script: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Driver]:
    """A sweep script at work on a results root; killed, with its Ray, when the test is done."""
    folder = root.parent
    folder.mkdir(parents=True, exist_ok=True)
    if script is None:
        script = folder / "small.py"
        script.write_text(SMALL)
        arguments = (*SMALL_OPTIONS, *arguments)
    log = folder / f"driver-{time.monotonic_ns()}"
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, script, "--results", root, *arguments],
            cwd=folder,
            env=clean_environment() | {"LMC_LOGS": str(folder / "logs")} | dict(environment or {}),
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
    driver = Driver(process, log)
    try:
        yield driver
    finally:
        driver.kill()


def sweep(root: Path, *arguments: str, script: Path | None = None) -> Ended:
    """Run a sweep script to its end."""
    with started(root, *arguments, script=script) as driver:
        return driver.wait()


def whole(root: Path, *arguments: str, script: Path | None = None) -> Ended:
    """Run a sweep script that must succeed, and look at what it leaves."""
    ended = sweep(root, *arguments, script=script)
    assert ended.status == 0, ended.err
    assert ended.err == "", ended.err
    assert defects(root) == []
    assert not (root / ".checkpoints").exists(), "checkpoints stay behind"
    return ended


def defects(root: Path) -> list[Finding]:
    """What is wrong with a root. Who is killed while writing leaves a note, which is no defect."""
    return [finding for finding in Store(str(root)).verify() if not finding.harmless]


def committed(root: Path) -> int:
    """How many blocks have ended."""
    return len(list((root / "runs").rglob("*.parquet")))


def content(root: Path, name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """All results of a sweep (of the whole root), but what may differ from run to run."""
    found: dict[str, list[dict[str, Any]]] = {}
    with Store(str(root)).database(name) as database:
        for table in TABLES:
            relation = database.sql(f"SELECT * FROM {table}")
            names = relation.columns
            rows = [
                {k: v for k, v in zip(names, values, strict=True) if k not in FREE}
                for values in relation.fetchall()
            ]
            found[table] = sorted(rows, key=repr)
    return found


def check_undisturbed(root: Path, ended: Ended, calm: tuple[Path, Ended]) -> None:
    """Whatever happened on the way: the results of a sweep that nothing disturbed.

    Every planned cell is there once, with all its rows, each once; trials and tables are the same.
    """
    assert ended.status == 0, ended.err
    assert "Traceback" not in ended.err
    with Store(str(root)).database() as database:
        for table in TABLES:
            key = ", ".join(("sweep", *SCHEMAS[table].key))
            sql = f"SELECT {key}, count(*) FROM {table} GROUP BY ALL HAVING count(*) > 1"
            assert database.sql(sql).fetchall() == [], f"rows of {table} that are there twice"
    assert content(root) == content(calm[0])
    assert ended.tables == calm[1].tables.replace(str(calm[0]), str(root))
    assert defects(root) == []


def files(root: Path) -> dict[str, bytes]:
    """Every file of a root but reports, which are drawn anew by every start."""
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".html")
    return {str(path.relative_to(root)): path.read_bytes() for path in found}
