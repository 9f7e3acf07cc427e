"""The command line of the sweep scripts: help, and one clear line for whatever is wrong.

Nothing here starts Ray: every mistake is found before. Most cases run the script in this process,
which is what `python sweeps/mcsgd.py` does, short of a new interpreter.
"""

import hashlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from image_sources import random_split, real_data, write_tree
from test_readme import blocks

from lmc_ray.bench.measure import device_name
from lmc_ray.benchmarks import load
from lmc_ray.command import INTERRUPTED
from lmc_ray.sweep.cells import Outcome
from lmc_ray.sweep.cluster import Resources
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import Workplace

SWEEPS = Path(__file__).parent.parent / "sweeps"
# nightly.py searches nothing and has a command line of its own: tests/test_nightly.py.
SCRIPTS = sorted(path.name for path in SWEEPS.glob("*.py") if path.name != "nightly.py")


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


def no_ray() -> Resources:
    raise AssertionError("Ray was started")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a script in this process, in a folder of its own, where Ray must not start."""
    for name in ("LMC_BENCHMARK", "LMC_RESULTS", "LMC_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lmc_ray.sweep.script.connect", no_ray)
    monkeypatch.chdir(tmp_path)

    def execute(*arguments: str, script: Path = SWEEPS / "mcsgd.py") -> Ended:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(script), run_name="__main__")
        captured = capsys.readouterr()
        code = caught.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, captured.out, captured.err)

    return execute


def check_refused(ended: Ended, says: str, script: str = "mcsgd") -> None:
    """One line on standard error, status 2, and nothing else."""
    assert ended.status == 2, ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith(f"{script}: error: ")
    assert re.search(says, lines[0]), lines[0]
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(run: Run, script: str, tmp_path: Path) -> None:
    ended = run("--help", script=SWEEPS / script)
    assert ended.status == 0
    assert ended.err == ""
    words = " ".join(ended.out.split())
    purpose = "without a search" if script == "connectivity.py" else "on validation data"
    assert purpose in words, "the script's docstring is its help"
    for option in (
        "--name",
        "--benchmark",
        "--tasks",
        "--trials",
        "--generation",
        "--seeds",
        "--results",
        "--data",
        "--set",
        "--method",
        "--preset",
        "--pareto",
        "--network",
        "--angle",
        "--max-concurrent",
        "--gpus-per-trial",
        "--replicas",
        "--async",
        "--smoke",
    ):
        assert option in words, option
    for variable in ("LMC_RESULTS", "LMC_DATA", "LMC_BENCHMARK"):
        assert variable in words, variable
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stand_alone(script: str) -> None:
    """`ray submit` copies the script only: it imports lmc_ray and nothing beside it."""
    imports = re.findall(r"^\s*(?:from|import) (\S+)", (SWEEPS / script).read_text(), re.MULTILINE)
    learner = ["", ".batches", ".descent", ".hyperparameters", ".sgd"]
    beyond = ["dataclasses", *(f"lmc_ray.learners{name}" for name in learner)]
    assert imports == [*(beyond if script == "own.py" else ()), "lmc_ray.sweep"]


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "benchmark": (("--benchmark", "rotated-mnits"), "unknown benchmark.*'rotated-mnist'"),
    "two benchmarks": (("--benchmark", "a", "--benchmark", "b"), "a and b: give one"),
    "family": (("--benchmark", "rotaded-digits"), "did you mean 'rotated-digits'"),
    "no family": (("--benchmark", "digits"), "unknown benchmark 'digits'"),
    "empty benchmark": (("--benchmark", ""), "unknown benchmark"),
    "own data": (("--benchmark", "split-/nowhere/flowers"), "no folder /nowhere/flowers"),
    "nobody's home": (("--results", "~results"), r"nobody's home is ~results; .*: ~/results"),
    "data in nobody's home": (("--data", "~data/x"), "nobody's home is ~data; .*: ~/data/x"),
    "no tasks": (("--tasks", "0"), "tasks must be 1 to"),
    "minus a task": (("--tasks", "-2"), "tasks must be 1 to"),
    "too many tasks": (("--tasks", "1000"), "tasks must be 1 to 12, got 1000"),
    "too many classes": (("--benchmark", "split-digits", "--tasks", "6"), "tasks must be 1 to 5"),
    "half a task": (("--tasks", "1.5"), "--tasks"),
    "nothing to run": (("--seeds", "0", "--method", "naive-sgd"), "nothing to run: --seeds 0"),
    "no search of what is open": (
        ("--trials", "0"),
        "mcsgd searches learning_rate, .*--confirm",
    ),
    "below the floor": (
        ("--set", "learning_rate=1e-5:1e-2:log"),
        "1e-05 of mcsgd is below lr_floor",
    ),
    "a front of one memory": (
        ("--pareto", "accuracy,memory", "--set", "memory_per_class=2"),
        "--pareto searches memory_per_class: give a range",
    ),
    "a front without a search": (("--pareto", "accuracy,memory", "--confirm-only"), "one of them"),
    "seeds of the search": (("--seeds", "10001"), "--seeds must be at most 10000"),
    "minus a seed": (("--seeds", "-1"), "--seeds must be at least"),
    "minus a trial": (("--trials", "-1"), "--trials must be at least 0, got -1"),
    "many trials": (("--trials", "many"), "--trials"),
    "no generation": (("--generation", "0"), "--generation must be at least 1, got 0"),
    "no replicas": (("--replicas", "0"), "--replicas must be at least 1, got 0"),
    "no concurrent trials": (("--max-concurrent", "0"), "--max-concurrent"),
    "less than no trial at a time": (("--max-concurrent", "-1"), "--max-concurrent"),
    "minus a GPU": (("--gpus-per-trial", "-1"), "--gpus-per-trial"),
    "upside down": (("--set", "learning_rate=0.2:0.1"), "learning_rate from 0.2 to 0.1.*swap"),
    "empty range": (("--set", "learning_rate=0.1:0.1"), "learning_rate is empty"),
    "empty choice": (("--set", "batch_size=,"), "no choices for batch_size"),
    "log from zero": (("--set", "dropout=0:0.5:log"), "dropout.*log range needs low > 0"),
    "no value": (("--set", "learning_rate="), "--set learning_rate=: write NAME=VALUE"),
    "no name": (("--set", "0.1"), "--set 0.1: write NAME=VALUE"),
    "half a range": (("--set", "learning_rate=0.1:"), "a range is LOW:HIGH"),
    "unknown name": (("--set", "lerning_rate=0.1"), "did you mean 'learning_rate'"),
    "unknown name of a method": (
        ("--set", "stable-sgd.lerning_rate=0.1"),
        "unknown hyperparameter 'lerning_rate': did you mean 'learning_rate'",
    ),
    "study": (("--method", "mcsdg"), "unknown study 'mcsdg': did you mean 'mcsgd'"),
    "another method's name": (("--set", "stable-sgd.line_samples=3"), "'line_samples'"),
    "method not in the sweep": (("--set", "stable.dropout=0.1"), "did you mean 'stable-sgd'"),
    "out of range": (("--set", "dropout=1.5"), r"dropout must be in \[0, 1\), got 1.5"),
    "range out of range": (("--set", "dropout=0.1:1.5"), "dropout must be in"),
    "no number": (("--set", "learning_rate=fast"), "learning_rate must be a number"),
    "infinite": (("--set", "learning_rate=inf"), "learning_rate"),
    "not a number": (("--set", "learning_rate=nan"), "learning_rate"),
    "a batch of all the world": (("--set", f"batch_size={10**23}"), r"batch_size must be in \[1,"),
    "a batch beyond floats": (("--set", f"batch_size={'9' * 400}"), "batch_size must be a whole"),
    "a rate beyond floats": (("--set", f"learning_rate=0.1:{'9' * 400}"), "learning_rate"),
    "much memory": (("--set", "memory_per_class=200"), "memory_per_class=200 is more than a cla"),
    "memory up to much": (("--set", "memory_per_class=1:200"), "memory_per_class=200 is more"),
    "half a batch": (("--set", "batch_size=1.5"), "batch_size must be a whole number"),
    "choice": (("--set", "path_weight=exakt"), "path_weight 'exakt': did you mean 'exact'"),
    "preset": (("--preset", "autor"), "unknown preset 'autor': did you mean 'author'"),
    "pareto": (("--pareto", "foo"), "--pareto foo: write --pareto accuracy,memory"),
    "network": (("--network", "mlp-256-x"), "network"),
    "another network": (("--network", "resnet19"), "network"),
    "no angle": (("--angle", "0"), "angle must be more than 0"),
    "angle of nothing": (("--benchmark", "split-digits", "--angle", "3"), "has no angle"),
    "name with a slash": (("--name", "a/b"), "'a/b' is no plain sweep name"),
    "hidden name": (("--name", ".hidden"), "no plain sweep name"),
    "name with a space": (("--name", "my sweep"), "no plain sweep name"),
    "long name": (("--name", "x" * 101), "no plain sweep name"),
    "empty name": (("--name", ""), "no plain sweep name"),
    "empty root": (("--results", ""), "results root is empty"),
    "root of no kind": (("--results", "ftp://nowhere/results"), "results root"),
    "no data": (("--benchmark", "rotated-mnist", "--data", "/nowhere"), "no data folder /nowhere"),
    "other data": (("--benchmark", "split-cifar100", "--data", "."), "no cifar100 in"),
    "unknown option": (("--sedes", "3"), "--sedes.*--seeds"),
    "an argument": (("now",), "now"),
    "no argument": (("--name",), "--name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, mistake: str, tmp_path: Path) -> None:
    arguments, says = MISTAKES[mistake]
    check_refused(run(*arguments), says)
    assert list(tmp_path.iterdir()) == [], "something was written"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--keep-minima", "1,9"), "there is no task 9, only 1 to 2"),
        (("--keep-minima", "2", "--path", "sequential:1->sequential:2@1"), "no minimum is kept"),
        (("--keep-minima", "2", "--path", "joint:2->sequential:2@1"), "unknown minimum 'joint'"),
        (("--path", "sequential:1->sequential:2@7"), "there is no task 7"),
        (("--path", "1->2"), "write it as in"),
        (("--measure", "plane", "--path", "sequential:1->sequential:2@1"), "add --measure path"),
        (
            (
                *("--set", "mcsgd.continue_from=connected,sequential", "--method", "mcsgd"),
                *("--path", "inner:1->inner:2@1"),
            ),
            "no inner minimum after task 1, but connected, ",
        ),
        (("--path", "averaged:1->sequential:2@1"), "no averaged minimum after task 1, but conn"),
        (("--measure", "planes"), "did you mean 'plane'"),
        (("--method", "multitask"), "multitask is there to be measured against mcsgd: choose both"),
        (("--set", "initialisation=1"), "other initial weights than mcsgd: not both from init"),
        (("--set", "multitask.initialisation=0"), "not both from initialisation 0"),
        (("--seeds", "0"), "--seeds 0 keeps no minima"),
        (("--no-paths",), "connectivity is there for the paths"),
    ],
)
def test_mistakes_in_what_is_kept_and_measured(
    run: Run, options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    ended = run("--tasks", "2", *options, script=SWEEPS / "connectivity.py")
    check_refused(ended, says, "connectivity")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mistake", ["benchmark", "preset", "pareto", "seeds", "upside down"])
def test_every_script_finds_them(run: Run, mistake: str, script: str, tmp_path: Path) -> None:
    key = "minus a seed" if mistake == "seeds" else mistake
    arguments, says = MISTAKES[key]
    check_refused(run(*arguments, script=SWEEPS / script), says, script.removesuffix(".py"))
    assert list(tmp_path.iterdir()) == []


def test_a_setting_of_another_method_is_unknown(run: Run) -> None:
    ended = run("--set", "line_samples=3", script=SWEEPS / "continual.py")
    check_refused(ended, "unknown hyperparameter 'line_samples'", "continual")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("LMC_BENCHMARK", "rotated-digit", "did you mean 'rotated-digits'"),
        ("LMC_DATA", "/nowhere", "no data folder /nowhere"),
        ("LMC_RESULTS", "ftp://nowhere", "results root"),
    ],
)
def test_the_environment_gives_the_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    arguments = ("--benchmark", "rotated-mnist") if variable == "LMC_DATA" else ()
    check_refused(run(*arguments), says)


@pytest.mark.parametrize("root", ["file/results", "file"])
def test_a_root_below_a_file_is_found_out_before_training(
    run: Run, tmp_path: Path, root: str
) -> None:
    (tmp_path / "file").write_text("mine\n")
    ended = run("--results", str(tmp_path / root))
    check_refused(ended, "cannot write to the results root .*: give another with --results")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_that_may_not_be_written(run: Run, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    check_refused(run("--results", str(locked / "results")), "cannot write to the results root")


def test_results_that_are_there_stay_as_they_are(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "results" / "runs" / "sweep=old"
    kept.mkdir(parents=True)
    (kept / "a.parquet").write_bytes(b"whatever")
    for mistake in ("minus a seed", "upside down", "hidden name"):
        arguments, says = MISTAKES[mistake]
        check_refused(run(*arguments), says)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [kept / "a.parquet"]
    assert found[0].read_bytes() == b"whatever"


@pytest.mark.parametrize(
    ("arguments", "gpus", "says"),
    [
        (("--gpus-per-trial", "1"), 0.0, "--gpus-per-trial 1.*has 0 GPUs"),
        (("--gpus-per-trial", "2"), 2.0, "--gpus-per-trial 2: a trial trains on one GPU"),
        (("--gpus-per-trial", "nan"), 2.0, "--gpus-per-trial"),
    ],
)
def test_more_gpus_than_there_are(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    gpus: float,
    says: str,
) -> None:
    """Only the cluster knows its GPUs; nothing runs and no row is written."""
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, gpus, 1))
    check_refused(run(*arguments), says)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_memory_that_the_classes_hold_or_that_is_drawn_with_replacement(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is then refused for want of a GPU, so the memory was not."""
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, 0.0, 1))
    least = load("rotated-digits").smallest_class
    for settings in (
        (f"memory_per_class=1:{least}",),
        ("memory_per_class=2,500", "memory_draw=random"),
    ):
        given = [word for setting in settings for word in ("--set", setting)]
        check_refused(run("--gpus-per-trial", "1", *given), "has 0 GPUs")
    check_refused(run("--set", f"memory_per_class=1,{least + 1}"), f"{least} training images")


def test_workers_find_the_same_folders(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They run in other folders, and nothing replaces a ~ for them."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, 0.0, 1))
    places = []

    def look(runs, opened, store, workplace, *rest, **more) -> bool:
        places.append((store.root, workplace.results, workplace.data))
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    for folder, seen in (("~/mine", tmp_path / "home" / "mine"), ("here", tmp_path / "here")):
        assert run("--smoke", "--results", folder, "--data", folder).status == 0
        root, results, data = places.pop()
        assert (Path(root).absolute(), results, data) == (seen, str(seen), str(seen))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "home"]


@pytest.mark.parametrize(
    ("settings", "first"),
    [((), 10), (("epochs=1",), 2), (("mcsgd.epochs=3",), 6), (("first_task_epochs=4",), 4)],
)
def test_the_authors_learn_the_first_task_twice_as_long(
    run: Run, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], first: int
) -> None:
    """Two epochs beside one; the digits have five a task."""
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, 0.0, 1))
    seen = []

    def look(runs: list[StudyRun], *rest, **more) -> bool:
        seen.extend(study.fixed["first_task_epochs"] for study in runs[:1])
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    run("--preset", "author", *(word for each in settings for word in ("--set", each)))
    assert seen == [first]


@pytest.mark.parametrize(
    ("options", "gpus", "generation", "packing"),
    [
        ((), 0.0, 5, Packing(2, 2)),
        (("--replicas", "6"), 0.0, 5, Packing(6, 2)),
        (("--replicas", "6", "--max-concurrent", "1"), 0.0, 5, Packing(6, 1)),
        (("--generation", "20", "--replicas", "64"), 1.0, 20, Packing(64, 1)),
    ],
)
def test_how_stacks_are_filled(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    gpus: float,
    generation: int,
    packing: Packing,
) -> None:
    """Replicas are the machine's affair, a generation the sweep's: another one, another name."""
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, gpus, 1))
    seen = []

    def look(runs, opened, store, workplace, machines, *rest, **more) -> bool:
        (machine,) = machines.values()
        seen.append((workplace.sweep, runs[0].protocol.generation, runs[0].stack, machine.packing))
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    run()
    run(*options)
    (usual, *_), (name, *found) = seen
    assert found == [generation, packing.replicas, packing]
    assert (name == usual) == (generation == 5)


def full_runs(folder: Path) -> list[list[str]]:
    """The sweeps of the README's `sh` blocks, as a shell hands them over."""
    record = folder / "recorded"
    for name in (".venv/bin/python", "ray"):
        program = folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {record}\n')
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    for _, block in blocks("sh"):
        subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, check=True)
    lines = record.read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith("sweeps/")]


@pytest.mark.soak
def test_the_readmes_full_runs_begin(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They take hours or a GPU: run on the real images, up to where the first cell would train."""
    data = real_data("MNIST", "cifar100")
    reached = []

    def look(runs: list[StudyRun], *rest, **more) -> bool:
        reached.append(len(runs))
        return False

    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(16, 1.0, 1))
    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    (tmp_path / "data").symlink_to(data)
    runs = full_runs(tmp_path / "shell")
    assert runs
    for number, (script, *arguments) in enumerate(runs, start=1):
        ended = run(*arguments, script=SWEEPS.parent / script)
        assert (ended.status, len(reached)) == (INTERRUPTED, number), ended.err


def test_stacks_are_as_bench_found_them_best(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On this machine and for this network, unless the user says otherwise; no other sweep."""
    seen = []

    def look(runs, opened, store, workplace, machines, *rest, **more) -> bool:
        (machine,) = machines.values()
        seen.append((workplace.sweep, machine.packing.replicas, machine.max_concurrent))
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(4, 0.0, 1))
    monkeypatch.setenv("LMC_CACHE", str(tmp_path / "cache"))
    run()
    noted = {device_name(): {"mlp-64-64": {"8": [5, 3], "256": [1, 4]}, "mlp-8": {"8": [9, 9]}}}
    (tmp_path / "cache" / "speeds.json").write_text(json.dumps(noted))
    run("--network", "mlp-64-64")
    run("--network", "mlp-64-64", "--replicas", "7")
    run("--network", "mlp-64-64", "--max-concurrent", "2")
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(4, 0.0, 1, joined=True))
    run("--network", "mlp-64-64")
    (_, *default), *others = seen
    assert default == [2, 4]
    assert [found for _, *found in others] == [[5, 3], [7, 3], [5, 2], [2, 4]]
    assert len({name for name, *_ in others}) == 1


def test_workers_that_do_not_fit_into_memory_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ranked again, the best have three seeds each, whatever --replicas."""
    little = Resources(64, 0.0, 1, memory=2e9)
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: little)
    ended = run("--results", str(tmp_path / "results"), "--replicas", "1")
    assert ended.status == 2
    assert re.search(
        r"64 workers with stacks of 3 replicas need about \d+\.\d GB, 0\.\d GB each;"
        r" there are 2\.0 GB: lower --max-concurrent or --replicas\n$",
        ended.err,
    )
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_a_sweep_says_at_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands that can be pasted; and a method that is in no table is named."""
    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, 0.0, 1))

    def all_diverge(runs: list[StudyRun], *rest, **more) -> bool:
        for study in runs:
            while (block := study.next()) is not None:
                study.tell(block, {cell.id: Outcome("diverged", 0.1, ()) for cell in block.cells})
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", all_diverge)
    ended = run("--results", "my results", "--trials", "2", script=SWEEPS / "continual.py")
    assert ended.status == 1
    assert "--what barriers" not in ended.out  # there are none
    assert re.search(r"query 'my results' --sweep continual-\S+ \"SELECT", ended.out)
    assert ended.err.startswith("Stable SGD: no trial came to its end")
    assert len(ended.err.splitlines()) == 1  # naive SGD searches nothing, and is confirmed


# Several benchmarks in one sweep

PAPER = SWEEPS / "paper.py"
BOTH = ("--benchmark", "permuted-digits", "--benchmark", "rotated-digits")


@dataclass
class Planned:
    """What a sweep would have run."""

    runs: list[StudyRun] = field(default_factory=list)
    benchmarks: list[str] = field(default_factory=list)
    workplace: Workplace | None = None
    several: bool | None = None


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Filled in place of running."""
    seen = Planned()

    def look(runs, opened, store, workplace, *rest, several: bool) -> bool:
        seen.runs, seen.workplace, seen.several = runs, workplace, several
        seen.benchmarks = [each.name for each in opened]
        return True

    monkeypatch.setattr("lmc_ray.sweep.script.connect", lambda: Resources(2, 0.0, 1))
    monkeypatch.setattr("lmc_ray.sweep.script.run_sweep", look)
    return seen


def test_one_sweep_over_several_benchmarks(run: Run, planned: Planned) -> None:
    ended = run(*BOTH, "--smoke", "--method", "mcsgd", "--method", "er", script=PAPER)
    assert ended.status == 0, ended.err
    assert [study.key for study in planned.runs] == [
        ("permuted-digits", "er"),
        ("permuted-digits", "mcsgd"),
        ("rotated-digits", "er"),
        ("rotated-digits", "mcsgd"),
    ]
    assert {study.protocol.place.tasks for study in planned.runs} == {2}
    assert planned.benchmarks == ["permuted-digits", "rotated-digits"]
    assert planned.workplace is not None
    assert planned.workplace.sources == {name: name for name in planned.benchmarks}
    name = planned.workplace.sweep
    assert re.fullmatch("paper-permuted-digits-rotated-digits-[0-9a-f]{6}", name)
    assert f"sweep {name} on permuted-digits: ER (2 trials), MC-SGD (2 trials)" in ended.out
    assert "SELECT benchmark, study, avg" in ended.out
    assert planned.several


def test_the_name_of_one_benchmark_is_as_it_always_was(run: Run, planned: Planned) -> None:
    """Or the same command would not go on where it was before there were several, or labels."""
    run("--trials", "1")
    assert planned.workplace is not None
    said = [asdict(each.study) for each in planned.runs]
    for study in said:
        del study["label"], study["preset"]
    spec = said, asdict(planned.runs[0].protocol)
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()
    assert planned.workplace.sweep == f"mcsgd-rotated-digits-{digest[:6]}"
    assert not planned.several


def test_the_papers_script_runs_anywhere(
    run: Run, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(script=PAPER)
    assert planned.benchmarks == ["rotated-digits"]
    assert len(planned.runs) == 7
    monkeypatch.setenv("LMC_BENCHMARK", "split-digits")
    run(script=PAPER)
    assert planned.benchmarks == ["split-digits"]
    run(*BOTH, script=PAPER)
    assert planned.benchmarks == ["permuted-digits", "rotated-digits"]
    assert len(planned.runs) == 14


def test_with_data_the_papers_script_wants_all_three(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(run("--data", "empty", script=PAPER), "no mnist in empty", "paper")


def test_fifty_permuted_tasks(run: Run, planned: Planned) -> None:
    run("--benchmark", "permuted-digits", "--tasks", "50", script=PAPER)
    assert {study.protocol.place.tasks for study in planned.runs} == {50}


@pytest.mark.parametrize("option", [("--pareto", "accuracy,memory"), ("--preset", "author")])
def test_what_no_study_of_a_script_takes(run: Run, option: tuple[str, str]) -> None:
    ended = run(*option, script=SWEEPS / "continual.py")
    check_refused(ended, f"{option[0]}.*: the script has no M?m?", "continual")


def test_a_front_of_every_method_with_a_memory(run: Run, planned: Planned) -> None:
    run("--pareto", "accuracy,memory", script=PAPER)
    fronts = [each.study.name for each in planned.runs if each.pareto]
    assert fronts == ["agem", "er", "mcsgd"]


def test_a_search_only(run: Run, planned: Planned) -> None:
    """Nothing is ranked again or confirmed, and the last line asks for the best trials."""
    search = ("--trials", "3", "--method", "er", "--method", "naive-sgd", "--seeds")
    run(*search, "2", script=PAPER)
    assert [each.total_blocks for each in planned.runs] == [1, 3 + 3 + 1]
    ended = run(*search, "0", script=PAPER)
    assert [each.total_blocks for each in planned.runs] == [0, 3]
    assert "FROM best_trials" in ended.out.splitlines()[-1]
    ended = run(*search, "0", "--smoke", script=PAPER)
    assert [each.total_blocks for each in planned.runs] == [0, 2]
    assert "FROM best_trials" in ended.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--benchmark", "rotated-digits", "--benchmark", "rotaded-mnist"), "'rotated-mnist'"),
        ((*BOTH, "--benchmark", "split-digits", "--tasks", "6"), "tasks must be 1 to 5"),
        ((*BOTH, "--angle", "10"), "permuted-digits has no angle"),
        ((*BOTH, "--method", "mcsdg"), "unknown study 'mcsdg'"),
        (
            (*BOTH, "--confirm-only"),
            "stable-sgd ewc agem er mcsgd multitask on permuted-digits, st",
        ),
        (
            (*BOTH[:2], "--method", "er", "--confirm-only"),
            "ships with lmc-ray of er on permuted-digits: le",
        ),
    ],
)
def test_mistakes_with_several_benchmarks(
    run: Run, arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    check_refused(run(*arguments, script=PAPER), says, "paper")
    assert list(tmp_path.iterdir()) == []


def test_two_folders_of_one_name(run: Run, tmp_path: Path) -> None:
    """Cells and tables tell benchmarks apart by name."""
    split = random_split(0, 12, classes=2)
    for folder in ("one", "two"):
        write_tree(tmp_path / folder / "flowers", split, split, ["rose", "tulip"])
    paths = [f"rotated-{tmp_path}/{folder}/flowers" for folder in ("one", "two")]
    ended = run("--benchmark", paths[0], "--benchmark", paths[1], script=PAPER)
    check_refused(ended, "two of these have one name", "paper")


# Scripts that users write

OWN = """'''My sweep, on validation data.'''
from lmc_ray.sweep import Range, Study, main

main([{studies}])
"""


@pytest.mark.parametrize(
    ("studies", "says"),
    [
        ("Study(method='mcgsd')", "unknown method 'mcgsd': did you mean 'mcsgd'"),
        (
            "Study(method='stable-sgd', space={'line_samples': 3})",
            "unknown hyperparameter of stable-sgd 'line_samples'",
        ),
        ("Study(method='mcsgd', space={'dropout': Range(0.5, 0.1)})", "dropout from 0.5 to 0.1"),
        ("Study(method='mcsgd', space={'dropout': []})", "no choices for dropout"),
        ("Study(method='mcsgd', trials=-1, space={'dropout': [0, 0.1]})", "trials"),
        (
            "Study(method='mcsgd', space={'dropout': [0, 0.1]}, first=[{'dropuot': 0.1}])",
            "did you mean 'dropout'",
        ),
        ("Study(method='mcsgd'), Study(method='mcsgd', space={'epochs': 2})", "two studies of"),
        ("", "no stud"),
    ],
)
def test_mistakes_in_a_script_of_ones_own(
    run: Run, tmp_path: Path, studies: str, says: str
) -> None:
    script = tmp_path / "own.py"
    script.write_text(OWN.format(studies=studies))
    check_refused(run(script=script), says, "own")
    assert list(tmp_path.iterdir()) == [script]


def test_help_is_the_docstring_of_the_script(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(OWN.format(studies="Study(method='naive-sgd')"))
    assert "My sweep, on validation data." in run("--help", script=script).out


# The real thing, with an interpreter of its own


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, SWEEPS / "mcsgd.py", "--set", "learning_rate=0.2:0.1", "--name", "x"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    check_refused(Ended(ended.returncode, ended.stdout, ended.stderr), "swap its ends")
    assert list(tmp_path.iterdir()) == []
