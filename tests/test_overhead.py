"""What a sweep costs beside its training: time a trial, memory of the driver, and more nodes.

`LMC_TRIALS=10000 pytest tests/test_overhead.py -s` and `LMC_TRIALS=200 pytest -m soak
tests/test_overhead.py -k trials -s` print what the README tells.
"""

import gc
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from ray_support import defects, started
from simulation import CHANCES, end, protocol, study
from test_fire import cluster_of

from lmc_ray.store import Store
from lmc_ray.sweep.cells import Pack
from lmc_ray.sweep.conductor import Conductor
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.proposals import BEST, LATEST
from lmc_ray.sweep.study import SEARCH_SEEDS_FROM, StudyRun
from lmc_ray.sweep.trainable import Workplace


def trials(default: int) -> int:
    return int(os.environ.get("LMC_TRIALS", default))


# Many trials, without Ray


def memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Driver:
    """A search's conductor, with two workers that need no time."""

    def __init__(self, root: Path, trials: int) -> None:
        where = {"rotated-digits": "rotated-digits"}
        run = StudyRun(study(), protocol(trials=trials), 2)
        workplace = Workplace("sweep", str(root), None, where)
        packings = dict.fromkeys(where, Packing(2, 2))
        self.conductor = Conductor(
            [run], Store(str(root)), workplace, CHANCES, packings, self.changed
        )
        self.conductor.start()
        self.running: deque[tuple[str, Pack]] = deque()
        self.ended = 0

    def changed(self, ran: bool) -> None:
        """As the runner shows it after each block."""
        run = self.conductor.studies[0]
        assert (run.best or 0) < 1 < run.total_blocks

    def run(self, trials: int) -> float:
        """Milliseconds of processor time that one of so many trials takes."""
        start = time.process_time()
        for _ in range(trials):
            while len(self.running) < 2:
                name = str(self.ended + len(self.running))
                config = self.conductor.suggest(name)
                if not isinstance(config, dict):
                    break
                self.running.append((name, config["pack"]))
            name, pack = self.running.popleft()
            outcomes = [each for block in pack.blocks for each in end(block).items()]
            self.conductor.on_trial_complete(name, {"task": 4, "outcomes": outcomes})
            self.ended += 1
        return (time.process_time() - start) / trials * 1000


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_driver_takes_no_longer_and_little_memory_for_many_trials(tmp_path: Path) -> None:
    """What it keeps is parameters, outcomes and two ids a trial, and for the sampler the window."""
    number = trials(3 * (LATEST + BEST))
    driver = Driver(tmp_path, number)
    driver.run(LATEST + BEST)  # from here on the window of the sampler is full
    part = (number - driver.ended) // 2
    early = driver.run(part)
    before = memory()
    late = driver.run(part)
    kept = (memory() - before) / part
    print(
        f"\n{number} trials: {early:.1f} ms of the conductor a trial, {late:.1f} ms in the last"
        f" {part}; {kept / 1000:.1f} kB kept a trial"
    )
    assert late < 2 * early
    assert kept < 30_000  # in pages, over few trials: what it keeps is a third of that


# Trials that sleep, with Ray

SLEEPY = '''"""Trials that sleep instead of learning, for the rest as real as any."""

import os
import time

from lmc_ray.sweep import Range, Study, main, runner
from lmc_ray.sweep.trainable import StackTrainable
from lmc_ray.training import Training

SECONDS = float(os.environ["SLEEPY_SECONDS"])


def sleep(training: Training) -> None:
    tasks = training.setting.benchmark.tasks
    time.sleep(SECONDS / tasks)
    training.task += 1
    for record in training.active:
        record.tasks_completed = training.task
        record.accuracies += [
            {
                "minimum": training.learner.minimum,
                "after_task": training.task,
                "eval_task": task,
                "split": training.measurement.split,
                "accuracy": 0.5,
                "loss": 1.0,
                "examples": 100,
            }
            for task in range(1, training.task + 1)
        ]
        if training.task == tasks:
            record.status = "finished"


class Sleepy(StackTrainable):
    def _learn(self) -> None:
        self.training.step = lambda: sleep(self.training)
        super()._learn()


def tune(*arguments):
    start = time.process_time()
    problem = real(*arguments)
    print("driver", time.process_time() - start)
    return problem


class Watch(runner._Log):
    def on_trial_complete(self, iteration, trials, trial, **info):
        pages = int(open("/proc/self/statm").read().split()[1])
        print("after", len(trials), pages * os.sysconf("SC_PAGE_SIZE") / 1e3)


real, runner._tune, runner.StackTrainable = runner._tune, tune, Sleepy
runner._Log = Watch
SPACE = {"learning_rate": Range(0.01, 0.5, log=True), "dropout": Range(0.0, 0.5), "batch_size": 64}
main([Study(method="stable-sgd", space=SPACE)])
'''
TASKS = 2
NAME = ("--name", "sleepy", "--network", "mlp-8-8", "--tasks", str(TASKS), "--replicas", "1")


@dataclass
class Slept:
    """A block, as the ledger has it; its worker's process, as the log has it."""

    worker: str
    start: float
    end: float
    seed: int
    """Its first."""


def sleepy(
    root: Path, seconds: float, *options: str, join: Mapping[str, str] | None = None
) -> tuple[list[Slept], float, dict[int, float]]:
    """Blocks by start; processor seconds of the driver's loop; its kB by the trials so far."""
    root.parent.mkdir(exist_ok=True)
    script = root.parent / "sleepy.py"
    script.write_text(SLEEPY)
    environment = {"SLEEPY_SECONDS": str(seconds), **(join or {})}
    with started(root, *NAME, *options, script=script, environment=environment) as driver:
        ended = driver.wait()
    assert ended.status == 0, ended.err
    assert defects(root) == []
    log = (root.parent / "logs" / "sleepy.log").read_text()
    told = re.findall(r"committed .* process (\d+)\): (.*)", log)
    workers = {cell: worker for worker, cells in told for cell in cells.split()}
    sql = """
        SELECT min(cell_id), epoch(min(started_at)), epoch(max(finished_at)), min(seed) FROM runs
        GROUP BY attempt ORDER BY 2
    """
    with Store(str(root)).database() as database:
        rows = database.execute(sql).fetchall()
    (loop,) = re.findall(r"^driver ([\d.]+)$", ended.out, re.MULTILINE)
    sizes = re.findall(r"^after (\d+) ([\d.]+)$", ended.out, re.MULTILINE)
    memory = {int(number): float(size) for number, size in sizes}
    return [Slept(workers[cell], *row) for cell, *row in rows], float(loop), memory


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_trials_of_a_second_take_little_longer(tmp_path: Path) -> None:
    """Two at a time, each a Tune trial of its own, from the first start to the last commit."""
    number = trials(24)
    options = ("--trials", str(number), "--seeds", "1", "--max-concurrent", "2")
    blocks, loop, memory = sleepy(tmp_path / "results", 1.0, *options)
    search = [block for block in blocks if block.seed == SEARCH_SEEDS_FROM]
    assert len(search) == number
    after = [block.start for block in blocks if block not in search]
    wall = min(after) - search[0].start  # what comes next waits for all trials to be committed
    print(
        f"\n{number} trials of 1 s in {wall:.1f} s: {2 * wall / number:.3f} of the ideal,"
        f" {2 * wall / number - 1:.3f} s more a trial; the driver's loop took"
        f" {1000 * loop / len(blocks):.0f} ms of processor time a trial,"
        f" {1000 * loop / len(blocks) / (TASKS + 1):.0f} ms an event; the driver had"
        f" {max(memory.values()) / 1000:.0f} MB"
    )
    assert 2 * wall / number < 1.25


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_driver_keeps_little_of_a_trial(tmp_path: Path) -> None:
    """With all that Tune's trials hold it is twice as much."""
    number = trials(400)
    *_, memory = sleepy(tmp_path / "root" / "results", 0.02, "--trials", str(number))
    first, last = min(n for n in memory if n >= 100), max(memory)
    kept = (memory[last] - memory[first]) / (last - first)
    print(f"\n{kept:.0f} kB kept of a trial, from number {first} to {last}")
    assert kept < 35


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_nodes_add_up(tmp_path: Path) -> None:
    """Cells an hour of one node, of two and of three, once their workers are warm.

    Seven cells a worker: when the machine stands still for a moment, every worker of the time has
    two turns that are longer, and the median of six turns each is not one of these.
    """
    seconds, rates = 2.0, {}
    with cluster_of(1) as (cluster, join):
        for nodes in (1, 2, 3):
            if nodes > 1:
                cluster.do("add")
            settings = ("--set", "learning_rate=0.1", "--set", "dropout=0.1")
            number = ("--seeds", str(7 * nodes), "--max-concurrent", str(nodes))
            root = tmp_path / str(nodes) / "results"
            blocks, *_ = sleepy(root, seconds, *settings, *number, join=join)
            starts: dict[str, list[float]] = {}
            for block in blocks:
                starts.setdefault(block.worker, []).append(block.start)
            assert len(starts) == nodes
            turns = [b - a for each in starts.values() for a, b in pairwise(each)]
            rates[nodes] = nodes / median(turns) * 3600
            print(f"\n{nodes} nodes: {rates[nodes]:.0f} cells an hour")
    for nodes, rate in rates.items():
        assert rate == pytest.approx(nodes * rates[1], rel=0.1)
