"""Nights: what they run, what they compare with, and what they refuse.

Most of these play the training: `Laboratory` commits rows of made-up accuracies in place of Ray's
workers, so that many nights take a second. The last tests are real, in processes of their own.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray_support import files

from lmc_ray.errors import FailedError
from lmc_ray.learners import hyperparameters
from lmc_ray.store import Store
from lmc_ray.store.presence import FLAG, plant_flag
from lmc_ray.sweep.cells import PROTOCOL, Cell, Place
from lmc_ray.sweep.cluster import Resources, connect
from lmc_ray.sweep.night import ANCHOR_SEEDS, FRESH_SEEDS_FROM, NightRun, fresh_seeds
from lmc_ray.sweep.pinned import confirmed_best, read_pinned
from lmc_ray.sweep.place import open_place
from lmc_ray.sweep.study import SEARCH_SEEDS_FROM
from lmc_ray.sweep.trainable import Workplace

SCRIPT = Path(__file__).parent.parent / "sweeps" / "nightly.py"
VALUES: dict[str, dict[str, Any]] = {
    "stable-sgd": {"learning_rate": 0.1, "dropout": 0.0},
    "mcsgd": {"connect_steps": 2},
}
CHANCE = 0.1

Rows = list[dict[str, Any]]


def place(tasks: int = 2) -> Place:
    return open_place("rotated-digits", tasks, None, None, "mlp-8-8")[0]


def confirmed(method: str, seed: int, **values: Any) -> Cell:
    chosen = hyperparameters(method, VALUES[method] | values)
    return Cell(
        method=method,
        place=place(),
        hyperparameters=chosen,
        seed=seed,
        purpose="confirm",
        path_points=21,
    )


def run_row(cell: Cell, accuracy: float | None) -> dict[str, Any]:
    """The row of `runs` that a worker writes; no accuracy: diverged."""
    return {
        "cell_id": cell.id,
        "seed": cell.seed,
        "purpose": cell.purpose,
        "night": cell.night,
        "status": "diverged" if accuracy is None else "finished",
        "tasks_completed": cell.place.tasks,
        "study": cell.method,
        "method": cell.method,
        **asdict(cell.place),
        **asdict(cell.hyperparameters),
        "split": cell.split,
        "path_points": cell.path_points,
        "protocol": PROTOCOL,
        "config": cell.config,
        "average_accuracy": accuracy,
    }


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    def refused(self, says: str) -> None:
        """One line on standard error, status 2, and nothing else."""
        assert self.status == 2, self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("nightly: error: ")
        assert re.search(says, self.err), self.err
        assert self.out == ""


def made_up(cell: Cell) -> float:
    """An accuracy that hangs on configuration and seed alone, as real ones do."""
    values = asdict(cell.hyperparameters)
    return round(Random(f"{cell.method}/{values}/{cell.seed}").gauss(0.6, 0.02), 4)


@dataclass
class Laboratory:
    """A results root, the script, and training that is only played."""

    root: Path
    execute: Callable[..., Ended]
    accuracy: Callable[[Cell], float | None] = made_up
    fails: Sequence[str] = ()
    """Methods whose blocks fail."""
    blocks: int | None = None
    """Ctrl-C comes after so many; None: never."""
    loses_root: bool = False
    """Whether the results root is away when all have ended."""
    ran: list[Cell] = field(default_factory=list)
    places: list[Workplace] = field(default_factory=list)

    def night(self, night: str, *arguments: str, sweep: str = "mine") -> Ended:
        self.ran.clear()
        root = str(self.root)
        return self.execute("--results", root, "--sweep", sweep, "--night", night, *arguments)

    def confirm(self, *cells: Cell, sweep: str = "mine", **columns: Any) -> None:
        rows = [run_row(cell, self.accuracy(cell)) | columns for cell in cells]
        self.store.commit(sweep, f"c{len(list(self.root.rglob('*.parquet')))}", {"runs": rows})

    def train(
        self, studies: list[NightRun], _: Any, __: Any, workplace: Workplace, *___: Any
    ) -> bool:
        """In place of `run_sweep`."""
        self.places.append(workplace)
        plant_flag(str(self.root))
        known = self.store.committed(workplace.sweep)
        failed = []
        for study in studies:
            while (block := study.next()) is not None:
                if all(cell.id in known for cell in block.cells):
                    continue
                if study.study.method in self.fails:
                    failed.append(block)
                    continue
                if self.blocks is not None and not self.blocks:
                    return False
                self.blocks = self.blocks and self.blocks - 1
                rows = [run_row(cell, self.accuracy(cell)) for cell in block.cells]
                name = block.cells[0].id
                self.store.commit(workplace.sweep, name, {"runs": rows})
                self.ran += block.cells
        if failed:
            raise FailedError(f"{len(failed)} blocks failed")
        if self.loses_root:
            (self.root / FLAG).unlink()
        return True

    @property
    def store(self) -> Store:
        return Store(str(self.root))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.store.database() as database:
            return database.sql(sql).fetchall()

    def rows(self, night: str) -> Rows:
        with self.store.database() as database:
            found = database.sql(f"SELECT * FROM nights WHERE night = '{night}' ORDER BY method")
            return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.fixture
def laboratory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Laboratory:
    """A sweep `mine` that has confirmed two methods on five seeds each."""
    for name in ("LMC_RESULTS", "LMC_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def execute(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        return Ended(int(caught.value.code or 0), captured.out, captured.err)

    made = Laboratory(tmp_path / "results", execute)
    monkeypatch.setattr("lmc_ray.sweep.nightly.connect", lambda: Resources(2, 0.0, 1))
    monkeypatch.setattr("lmc_ray.sweep.nightly.run_sweep", made.train)
    made.confirm(*(confirmed(method, seed) for method in VALUES for seed in range(5)))
    plant_flag(str(made.root))  # as the sweep did
    return made


# Identity


def nightly(seed: int = 3, **changes: Any) -> Cell:
    same = {"purpose": "nightly", "path_points": 0, "night": "2026-11-24", "version": "1+a"}
    return replace(confirmed("mcsgd", seed), **(same | changes))


def test_night_and_code_are_part_of_a_nightly_cell() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"night": "2026-11-25"},
        {"version": "1+b"},
        {"seed": 4},
        {"purpose": "confirm"},
    ]
    assert len({nightly(**change).id for change in changes}) == len(changes)
    assert nightly().split == "test"


def test_frozen_id_of_a_nightly_cell() -> None:
    """Nights that people have stored hang on it."""
    each = nightly(place=replace(place(), fingerprint="5f" * 32))
    assert each.id == "83eb17624741e2fab3c152eb1f0af9ab"


def test_other_cells_know_nothing_of_nights() -> None:
    assert not {"night", "version"} & set(confirmed("mcsgd", 0).specification)


@given(
    nights=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=6),
    count=st.integers(1, 9),
)
def test_fresh_seeds_are_new_even_after_a_night_that_never_ended(
    nights: list[tuple[int, int]], count: int
) -> None:
    """Each night (seeds wanted, seeds that ended) takes the next ones."""
    used: list[int] = []
    for wanted, ended in nights:
        seeds = fresh_seeds(used, wanted)
        assert len(seeds) == wanted
        assert not set(seeds) & set(used)
        used += list(seeds)[:ended]
    assert min(fresh_seeds(used, count)) > max(used, default=FRESH_SEEDS_FROM - 1)


def test_seeds_of_a_half_run_night_are_left_to_it() -> None:
    assert fresh_seeds([FRESH_SEEDS_FROM], 5) == range(FRESH_SEEDS_FROM + 5, FRESH_SEEDS_FROM + 10)


def test_seeds_of_search_confirmation_anchors_and_nights_never_meet() -> None:
    assert SEARCH_SEEDS_FROM + 5 < min(ANCHOR_SEEDS) < max(ANCHOR_SEEDS) < FRESH_SEEDS_FROM


# Nights


def test_the_first_nights(laboratory: Laboratory) -> None:
    first = laboratory.night("2026-11-20")
    assert first.status == 0, first.err
    assert "the first night" in first.out
    seeds = [cell.seed for cell in laboratory.ran if cell.method == "mcsgd"]
    assert seeds == [*ANCHOR_SEEDS, *range(FRESH_SEEDS_FROM, FRESH_SEEDS_FROM + 5)]
    assert {cell.night for cell in laboratory.ran} == {"2026-11-20"}
    for row in laboratory.rows("2026-11-20"):
        assert (row["verdict"], row["seeds"], row["anchors"]) == ("fine", 5, 3)
        assert row["earlier_seeds"] == 5, "the confirmed ones"
        assert row["p"] is not None
        assert row["anchor_p"] is None
        assert row["comparisons"] == 4

    second = laboratory.night("2026-11-21")
    assert second.status == 0
    assert "first night" not in second.out
    assert second.out.count("equal") == 2
    fresh = [c.seed for c in laboratory.ran if c.method == "mcsgd" and c.seed not in ANCHOR_SEEDS]
    assert fresh == list(range(FRESH_SEEDS_FROM + 5, FRESH_SEEDS_FROM + 10))
    assert len(laboratory.ran) == 16, "anchors are run again"
    for row in laboratory.rows("2026-11-21"):
        assert row["earlier_seeds"] == 10
        assert row["anchor_difference"] == row["anchor_low"] == row["anchor_high"] == 0
        assert row["anchor_p"] == 1
    assert not [each for each in laboratory.store.verify() if "accuracies" not in each.message]


def test_a_night_that_is_whole_is_left_alone(laboratory: Laboratory) -> None:
    first = laboratory.night("2026-11-20")
    before = files(laboratory.root)
    again = laboratory.night("2026-11-20")
    assert again.status == 0
    assert not laboratory.ran
    assert files(laboratory.root) == before
    assert again.out.startswith("night 2026-11-20 of mine-nightly: done already\n")
    table = first.out[first.out.index("\nNight") :]
    assert again.out.endswith(table)


def test_an_interrupted_night_is_finished(laboratory: Laboratory) -> None:
    laboratory.blocks = 3
    ended = laboratory.night("2026-11-20")
    assert ended.status == 4
    assert ended.err == "incomplete: interrupted: the same command goes on\n"
    ran = {cell.id for cell in laboratory.ran}
    assert ran
    assert not {row["method"] for row in laboratory.rows("2026-11-20")} - {"stable-sgd"}

    laboratory.blocks = None
    ended = laboratory.night("2026-11-20")
    assert ended.status == 0
    assert not ran & {cell.id for cell in laboratory.ran}, "it ran a second time"
    assert len(ran) + len(laboratory.ran) == 16
    assert len(laboratory.rows("2026-11-20")) == 2


def test_a_night_that_never_ended_counts_for_nothing(laboratory: Laboratory) -> None:
    laboratory.night("2026-11-20")
    laboratory.blocks = 1
    assert laboratory.night("2026-11-21").status == 4
    laboratory.blocks = None
    assert laboratory.night("2026-11-22").status == 0
    assert {row["earlier_seeds"] for row in laboratory.rows("2026-11-22")} == {10}


def test_one_method_fails_and_the_other_has_its_night(laboratory: Laboratory) -> None:
    laboratory.fails = ["stable-sgd"]
    ended = laboratory.night("2026-11-20")
    assert ended.status == 4
    assert re.fullmatch(r"incomplete: .* blocks failed: the same command goes on\n", ended.err)
    assert [row["method"] for row in laboratory.rows("2026-11-20")] == ["mcsgd"]
    assert laboratory.rows("2026-11-20")[0]["comparisons"] == 4, "planned ones, not those made"
    laboratory.fails = []
    assert laboratory.night("2026-11-20").status == 0
    assert len(laboratory.rows("2026-11-20")) == 2


def worse(method: str, by: float, seeds: Sequence[int] | None = None) -> Callable[[Cell], float]:
    def accuracy(cell: Cell) -> float:
        hit = cell.method == method and (seeds is None or cell.seed in seeds)
        return made_up(cell) - by * (hit and cell.purpose == "nightly")

    return accuracy


def test_a_drop_is_found_told_and_never_becomes_the_rule(laboratory: Laboratory) -> None:
    for night in ("2026-11-18", "2026-11-19", "2026-11-20"):
        assert laboratory.night(night).status == 0
    laboratory.accuracy = worse("mcsgd", 0.2)
    for night in ("2026-11-21", "2026-11-22"):
        ended = laboratory.night(night)
        assert ended.status == 3
        assert re.search(r"MC-SGD .* regressed\n", ended.out)
        assert re.search(r"Stable SGD .* fine\n", ended.out)
        assert "the anchors are not what they were" in ended.out
        mcsgd, stable = laboratory.rows(night)
        assert (mcsgd["verdict"], stable["verdict"]) == ("regressed", "fine")
        assert mcsgd["anchor_difference"] == pytest.approx(-0.2)
        assert mcsgd["earlier_seeds"] == 20, "a regressed night does not count"
        assert laboratory.night(night).status == 3, "done already, and still regressed"
    accepted = laboratory.night("2026-11-23", "--since", "2026-11-21")
    assert accepted.status == 0
    assert laboratory.rows("2026-11-23")[0]["earlier_seeds"] == 0
    laboratory.accuracy = made_up
    assert laboratory.night("2026-11-24").status == 0


def test_the_first_night_of_an_accepted_change_counts(laboratory: Laboratory) -> None:
    for night in ("2026-11-18", "2026-11-19"):
        laboratory.night(night)
    laboratory.night("2026-11-20", "--since", "2026-11-19")
    for row in laboratory.rows("2026-11-20"):
        assert row["earlier_seeds"] == 5, "those of the 19th, neither confirmed nor older ones"
        assert row["anchor_difference"] == 0


@pytest.mark.parametrize("hindered", [{"fails": ["stable-sgd"]}, {"blocks": 4}])
def test_a_night_that_has_regressed_so_far_is_finished_first(
    laboratory: Laboratory, hindered: dict[str, Any]
) -> None:
    """Schedulers start 4 again, and 3 not; the verdict is stored, and comes at the end."""
    laboratory.night("2026-11-20")
    laboratory.accuracy = lambda cell: made_up(cell) - 0.3 * (cell.purpose == "nightly")
    for name, value in hindered.items():
        setattr(laboratory, name, value)
    ended = laboratory.night("2026-11-21")
    assert ended.status == 4
    assert "regressed\n" in ended.out
    assert ended.err.startswith("incomplete: ")
    (first,) = laboratory.rows("2026-11-21")

    laboratory.fails, laboratory.blocks, laboratory.accuracy = [], None, made_up
    ended = laboratory.night("2026-11-21")
    assert ended.status == 3
    assert {cell.method for cell in laboratory.ran} == {*VALUES} - {first["method"]}
    verdicts = {row["method"]: row["verdict"] for row in laboratory.rows("2026-11-21")}
    assert verdicts[first["method"]] == "regressed"
    assert sorted(verdicts.values()) == ["fine", "regressed"]


def test_anchors_alone_find_a_drop(laboratory: Laboratory) -> None:
    for night in ("2026-11-18", "2026-11-19"):
        laboratory.night(night)
    laboratory.accuracy = worse("mcsgd", 0.2, ANCHOR_SEEDS)
    assert laboratory.night("2026-11-20").status == 3


def test_a_drop_below_the_minimum_effect_is_fine(laboratory: Laboratory) -> None:
    laboratory.night("2026-11-19")
    laboratory.accuracy = worse("mcsgd", 0.2)
    assert laboratory.night("2026-11-20", "--minimum-effect", "30").status == 0


def test_diverged_seeds_count_as_chance(laboratory: Laboratory) -> None:
    laboratory.night("2026-11-19")
    laboratory.accuracy = lambda cell: None if cell.method == "mcsgd" else made_up(cell)
    assert laboratory.night("2026-11-20").status == 3
    assert laboratory.rows("2026-11-20")[0]["mean"] == CHANCE


def test_the_window(laboratory: Laboratory) -> None:
    for day in range(10, 15):
        laboratory.night(f"2026-11-{day}", "--window", "2", "--seeds-per-night", "3")
    assert {row["earlier_seeds"] for row in laboratory.rows("2026-11-14")} == {5 + 2 * 3}


def test_the_report_names_another_code(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("lmc_ray.sweep.night.version", lambda: "0.1.0+older")
        laboratory.night("2026-11-18")
    laboratory.night("2026-11-19")
    monkeypatch.setattr("lmc_ray.sweep.night.version", lambda: "0.1.0+new")
    laboratory.accuracy = lambda cell: made_up(cell) + 0.001 * (cell.purpose == "nightly")
    ended = laboratory.night("2026-11-20")
    assert ended.status == 0
    assert re.search(r"code 0\.1\.0\+\w{12} before, 0\.1\.0\+new now", " ".join(ended.out.split()))


def test_new_code_on_the_same_night_runs_all_again(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night is one version's; what the other had done stays, and counts for nothing."""
    laboratory.blocks = 2
    laboratory.night("2026-11-20")
    monkeypatch.setattr("lmc_ray.sweep.night.version", lambda: "0.1.0+new")
    laboratory.blocks = None
    assert laboratory.night("2026-11-20").status == 0
    assert len(laboratory.ran) == 16
    assert {row["version"] for row in laboratory.rows("2026-11-20")} == {"0.1.0+new"}


def test_another_configuration_starts_anew(laboratory: Laboratory) -> None:
    laboratory.night("2026-11-19")
    for steps, validation, test in ((2, 0.5, 0.7), (4, 0.6, 0.5), (3, 0.4, 0.9)):
        searched = replace(
            confirmed("mcsgd", SEARCH_SEEDS_FROM, connect_steps=steps),
            purpose="search",
            path_points=0,
        )
        laboratory.accuracy = lambda cell, accuracy=validation: accuracy
        laboratory.confirm(searched)
        laboratory.accuracy = lambda cell, accuracy=test: accuracy
        if steps != 2:
            laboratory.confirm(*(confirmed("mcsgd", s, connect_steps=steps) for s in range(3)))
    laboratory.accuracy = made_up
    laboratory.night("2026-11-20")
    mcsgd, stable = laboratory.rows("2026-11-20")
    steps = json.loads(mcsgd["configuration"])["connect_steps"]
    assert steps == 4, "the best of those confirmed, on validation data"
    assert (mcsgd["earlier_seeds"], stable["earlier_seeds"]) == (3, 10)
    assert mcsgd["anchor_p"] is None


def test_a_night_takes_the_study_that_has_no_label(laboratory: Laboratory) -> None:
    labelled = [confirmed("mcsgd", seed, connect_steps=4) for seed in range(3)]
    laboratory.accuracy = lambda cell: 0.9
    laboratory.confirm(*labelled, study="four-steps")
    laboratory.accuracy = made_up
    laboratory.night("2026-11-20")
    mcsgd, _ = laboratory.rows("2026-11-20")
    assert json.loads(mcsgd["configuration"])["connect_steps"] != 4


def test_the_sweep_itself_is_left_alone(laboratory: Laboratory) -> None:
    before = files(laboratory.root)
    laboratory.night("2026-11-20")
    after = files(laboratory.root)
    assert {name: after[name] for name in before} == before
    assert all("sweep=mine-nightly" in name for name in set(after) - set(before))


# Pinned configurations

TOML = """
[[configurations]]
method = "mcsgd"
benchmark = "rotated-digits"
tasks = 2
angle = 30
network = "mlp-8-8"
connect_steps = 2

[[configurations]]
method = "naive-sgd"
benchmark = "permuted-digits"
tasks = 2
"""


def test_pinned_configurations_run_without_a_sweep(laboratory: Laboratory, tmp_path: Path) -> None:
    pinned = tmp_path / "pinned.toml"
    pinned.write_text(TOML)
    for night in ("2026-11-20", "2026-11-21"):
        assert laboratory.night(night, "--pinned", str(pinned), sweep="mine").status == 0
    naive, mcsgd = sorted(laboratory.rows("2026-11-21"), key=lambda row: row["benchmark"])
    assert (naive["method"], naive["benchmark"]) == ("naive-sgd", "permuted-digits")
    assert naive["earlier_seeds"] == 5
    assert json.loads(naive["configuration"])["epochs"] == 5, "the benchmark's default"
    assert json.loads(mcsgd["configuration"])["connect_steps"] == 2
    first = laboratory.rows("2026-11-20")
    assert [row["p"] for row in first if row["method"] == "naive-sgd"] == [None]


def test_a_pinned_network_that_normalises_has_batches_of_one_task(tmp_path: Path) -> None:
    """As every sweep script has them; unless the file says otherwise."""
    entry = {"method": "mcsgd", "benchmark": "rotated-digits", "network": "resnet18-2"}
    for more, batches in (({}, "by_task"), ({"connect_batches": "mixed"}, "mixed")):
        pinned = tmp_path / "pinned.json"
        pinned.write_text(json.dumps({"configurations": [entry | more]}))
        (found,) = read_pinned(pinned, None)
        assert asdict(found.hyperparameters)["connect_batches"] == batches


def test_a_pinned_configuration_that_was_confirmed_is_the_same(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """Written down as TOML or JSON, whole numbers for floats: still compared with what it was."""
    pinned = tmp_path / "pinned.json"
    entry = {"method": "mcsgd", "benchmark": "rotated-digits", "tasks": 2, "angle": 30}
    entry |= {"network": "mlp-8-8", "connect_steps": 2, "epochs": 1}
    pinned.write_text(json.dumps({"configurations": [entry]}))
    assert laboratory.night("2026-11-20", "--pinned", str(pinned)).status == 0
    assert [row["earlier_seeds"] for row in laboratory.rows("2026-11-20")] == [5]


def test_a_search_seed_that_diverged_counts_against_its_configuration(tmp_path: Path) -> None:
    """As it does in the search: what happens to be left of its seeds is not its worth."""
    store, chosen = Store(str(tmp_path)), {}
    for memory, accuracies in ((1, (0.95, None)), (5, (0.89, 0.90))):
        confirm = confirmed("mcsgd", 0, memory_per_class=memory)
        chosen[memory] = asdict(confirm.hyperparameters)
        rows = [run_row(confirm, 0.9)]
        for seed, accuracy in enumerate(accuracies, SEARCH_SEEDS_FROM):
            searched = replace(confirm, seed=seed, purpose="search", path_points=0)
            rows.append(run_row(searched, accuracy))
        store.commit("front", f"memory-{memory}", {"runs": rows})
    with store.database("front") as database:
        (found,) = confirmed_best(database, "front", None)
    assert asdict(found.hyperparameters) == chosen[5]


ENTRY = 'method = "mcsgd"\nbenchmark = "rotated-digits"\n'
PINNED = {
    "unknown method": ('method = "mcsdg"\nbenchmark = "rotated-digits"', "did you mean 'mcsgd'"),
    "unknown benchmark": ('method = "mcsgd"\nbenchmark = "rotated-digit"', "'rotated-digits'"),
    "no method": ('benchmark = "rotated-digits"', "configuration 1: has no method"),
    "no benchmark": ('method = "mcsgd"', "configuration 1: has no benchmark"),
    "unknown key": (ENTRY + "conect_steps = 2", "did you mean 'connect_steps'"),
    "other method's": (ENTRY + 'multitask_schedule = "joint"', "unknown key"),
    "out of range": (ENTRY + "dropout = 1.5", r"dropout must be in \[0, 1\), got 1.5"),
    "no number": (ENTRY + 'learning_rate = "fast"', "learning_rate must be a number"),
    "half a task": (ENTRY + "tasks = 1.5", "tasks must be a whole number, got 1.5"),
    "many tasks": (ENTRY + "tasks = 1000", "tasks must be 1 to 12"),
    "no angle": (ENTRY + "angle = 0", "angle"),
    "large memory": (ENTRY + "memory_per_class = 1000", "memory_per_class=1000 is more than a"),
    "no text": ('method = "mcsgd"\nbenchmark = 3', "benchmark must be text, got 3"),
    "network": (ENTRY + 'network = "mlp-x"', "network"),
    "twice": (ENTRY + "[[configurations]]\n" + ENTRY, "configuration 2: .*one already"),
    "no TOML": ("method =", "is no TOML"),
}


@pytest.mark.parametrize("mistake", PINNED)
def test_mistakes_in_a_file_of_pinned_configurations(
    laboratory: Laboratory, tmp_path: Path, mistake: str
) -> None:
    text, says = PINNED[mistake]
    pinned = tmp_path / "pinned.toml"
    pinned.write_text(f"[[configurations]]\n{text}\n")
    before = files(tmp_path)
    laboratory.night("2026-11-20", "--pinned", str(pinned)).refused(says)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.json", "[1]", "no list 'configurations'"),
        ("p.json", "{", "is no JSON"),
        ("p.json", '{"configurations": [3]}', "configuration 1: is no table"),
        ("p.json", '{"configurations": []}', "no list 'configurations'"),
        ("p.toml", "", "no list 'configurations'"),
        ("p.toml", "[[configuration]]\n" + ENTRY, "did you mean 'configurations'"),
        ("p.toml", None, "cannot read"),
    ],
)
def test_files_that_hold_no_configurations(
    laboratory: Laboratory, tmp_path: Path, name: str, text: str | None, says: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    before = files(tmp_path)
    laboratory.night("2026-11-20", "--pinned", name).refused(says)
    assert files(tmp_path) == before


# Bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--night", "2026-02-30"), "--night 2026-02-30: write a date"),
        (("--night", "20261120"), "write a date"),
        (("--night", "9999-01-01"), "has not come yet"),
        (("--since", "yesterday"), "--since yesterday: write a date"),
        (("--since", ""), "--since : write a date"),
        (("--since", "2026-11-21"), "--since 2026-11-21 is after this night, 2026-11-20"),
        (("--seeds-per-night", "0"), "--seeds-per-night must be at least 1, got 0"),
        (("--window", "0"), "--window must be at least 1"),
        (("--replicas", "-1"), "--replicas must be at least 1"),
        (("--max-concurrent", "-1"), "--max-concurrent must be at least 1"),
        (("--false-alarms", "0"), r"--false-alarms must be in \(0, 1\)"),
        (("--false-alarms", "nan"), "--false-alarms must be"),
        (("--minimum-effect", "-1"), "--minimum-effect must be in"),
        (("--gpus-per-trial", "1"), "the cluster has 0 GPUs"),
        (("--gpus-per-trial", "-1"), "--gpus-per-trial must be at least 0"),
        (("--sweep", "other"), "unknown sweep 'other'"),
        (("--sweep", "../mine"), "no plain sweep name"),
        (("--results", ""), "results root is empty"),
    ],
)
def test_mistakes(laboratory: Laboratory, arguments: tuple[str, ...], says: str) -> None:
    before = files(laboratory.root)
    laboratory.night("2026-11-20", *arguments).refused(says)
    assert files(laboratory.root) == before


def test_a_night_that_does_not_fit_into_memory(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = Resources(64, 0.0, 1, memory=2e9)
    monkeypatch.setattr("lmc_ray.sweep.nightly.connect", lambda: little)
    before = files(laboratory.root)
    laboratory.night("2026-11-20").refused(
        r"64 workers with stacks of 3 replicas need about .*: lower --max-concurrent or --replicas"
    )
    assert files(laboratory.root) == before


def test_workers_are_told_whole_paths(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither systemd nor cron replaces a ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert laboratory.execute("--results", "~/results", "--sweep", "mine").status == 0
    assert [place.results for place in laboratory.places] == [str(tmp_path / "results")]


def test_a_night_whose_root_is_away_is_to_be_started_again(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store that does not answer: systemd restarts after 4, and not after 2."""
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "none"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}).items():
        monkeypatch.setenv(name, value)
    ended = laboratory.execute("--results", "s3://bucket/results", "--sweep", "mine")
    assert ended.status == 4, ended
    assert re.fullmatch("nightly: error: cannot .* bucket/results.*\n", ended.err)


@pytest.mark.parametrize("root", ["empty", "nowhere", "file://{}/empty"])
def test_a_root_that_may_not_be_mounted_yet(
    laboratory: Laboratory, tmp_path: Path, root: str
) -> None:
    """As where a machine that was off at night comes up: the empty folder is a mount point."""
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    ended = laboratory.execute("--results", root.format(tmp_path), "--sweep", "mine")
    assert ended.status == 4, ended
    assert re.fullmatch(
        "nightly: error: no results in .*: .* may not be mounted yet; .*\n", ended.err
    )
    assert files(tmp_path) == before


@pytest.mark.parametrize("options", [(), ("--pinned", "pinned.toml")])
def test_images_that_cannot_be_downloaded_now(
    laboratory: Laboratory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    monkeypatch.setenv("LMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:1/"])
    mnist = replace(place(), benchmark="rotated-mnist")
    laboratory.confirm(replace(confirmed("mcsgd", 0), place=mnist), sweep="mnist")
    (tmp_path / "pinned.toml").write_text(
        '[[configurations]]\nmethod = "mcsgd"\nbenchmark = "rotated-mnist"\n'
    )
    ended = laboratory.night("2026-11-20", *options, sweep="mnist")
    assert ended.status == 4, ended
    assert re.fullmatch(r"nightly: error: .*cannot download mnist .*\n", ended.err)


def test_links_in_the_root_stay_as_the_user_has_them(laboratory: Laboratory) -> None:
    """Other nodes may have none: they mount what the user names."""
    link = laboratory.root.with_name("link")
    link.symlink_to(laboratory.root)
    assert laboratory.execute("--results", f"{link}/.", "--sweep", "mine").status == 0
    assert [place.results for place in laboratory.places] == [str(link)]


def test_verdicts_that_cannot_be_written(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMC_PATIENCE", "0")
    laboratory.loses_root = True
    ended = laboratory.night("2026-11-20")
    assert ended.status == 4, "to be started again"
    assert re.fullmatch(r"nightly: error: the results root .* cannot be written .*\n", ended.err)
    laboratory.loses_root = False
    assert laboratory.night("2026-11-20").status == 0
    assert len(laboratory.rows("2026-11-20")) == 2


def test_a_night_may_be_asked_again_of_fewer_methods(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of its verdicts are shown, with what is known of the code before."""
    laboratory.night("2026-11-19")
    laboratory.accuracy = lambda cell: made_up(cell) + 0.001 * (cell.purpose == "nightly")
    laboratory.night("2026-11-20")
    pinned = {"method": "stable-sgd", "benchmark": "rotated-digits", "tasks": 2}
    pinned |= {"network": "mlp-8-8", **VALUES["stable-sgd"]}
    file = tmp_path / "pinned.json"
    file.write_text(json.dumps({"configurations": [pinned]}))
    again = laboratory.night("2026-11-20", "--pinned", str(file))
    assert again.status == 0
    assert "MC-SGD" in again.out


def test_a_sweep_with_no_finished_seed(laboratory: Laboratory) -> None:
    laboratory.accuracy = lambda cell: None
    laboratory.confirm(confirmed("mcsgd", 0), sweep="bad")
    laboratory.night("2026-11-20", sweep="bad").refused("'bad' has no confirmed configuration")


def test_other_images_than_the_sweep_has_seen(laboratory: Laboratory) -> None:
    other = replace(confirmed("mcsgd", 0), place=replace(place(), fingerprint="00" * 32))
    laboratory.confirm(other, sweep="other")
    laboratory.night("2026-11-20", sweep="other").refused("give their folder with --data")


# Real ones, in processes of their own


def script(folder: Path, *arguments: str) -> Ended:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "LMC_RESULTS"))},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_clock_that_jumps_back(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.night("2026-11-20")
    before = files(laboratory.root)
    night = ("--results", "results", "--sweep", "mine", "--night", "2026-11-19")
    script(tmp_path, *night).refused(
        "night 2026-11-19 is before the newest one of mine-nightly, 2026-11-20: set the clock right"
    )
    assert files(laboratory.root) == before


def test_nights_of_a_clock_that_was_ahead_are_left_out(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told every night; their seeds are theirs, for the day comes when they are earlier ones."""
    laboratory.night("2026-11-19")
    with monkeypatch.context() as ahead:
        ahead.setattr("lmc_ray.sweep.nightly._today", lambda: "2026-11-22")
        laboratory.accuracy = worse("mcsgd", 0.2)
        assert laboratory.night("2026-11-22").status == 3
    monkeypatch.setattr("lmc_ray.sweep.nightly._today", lambda: "2026-11-20")
    laboratory.accuracy = made_up
    for ran in (16, 0):
        ended = laboratory.night("2026-11-20")
        assert ended.status == 0, ended
        assert ended.err == (
            "left out, for today is 2026-11-20 (UTC) and a clock was ahead: mine-nightly of"
            " 2026-11-22\n"
        )
        assert len(laboratory.ran) == ran
    assert {row["earlier_seeds"] for row in laboratory.rows("2026-11-20")} == {10}
    seeds = laboratory.query("SELECT method, seed FROM runs WHERE purpose = 'nightly'")
    fresh = [each for each in seeds if each[1] >= FRESH_SEEDS_FROM]
    assert len(set(fresh)) == len(fresh) == 2 * 3 * 5
    laboratory.night("2026-11-19").refused("finish that night with --night 2026-11-20$")


def test_another_sweeps_nights_have_a_clock_of_their_own(laboratory: Laboratory) -> None:
    laboratory.confirm(*(confirmed("mcsgd", seed) for seed in range(5)), sweep="other")
    assert laboratory.night("2026-11-20", sweep="other").status == 0
    assert laboratory.night("2026-11-19").status == 0


def test_a_cluster_that_does_not_answer_may_later(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmc_ray.sweep.nightly.connect", connect)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    ended = laboratory.night("2026-11-20")
    assert ended.status == 4
    assert ended.err.startswith("nightly: error: no Ray cluster answers at 127.0.0.1:1")


def test_a_night_that_ran_another_configuration_says_so(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    pinned = tmp_path / "pinned.toml"
    for epochs in (1, 2):
        pinned.write_text(f"[[configurations]]\n{ENTRY}epochs = {epochs}\n")
        ended = laboratory.night("2026-11-20", "--pinned", str(pinned))
        assert ended.status == 0
        said = "mcsgd on rotated-digits: with another configuration than now" in ended.out
        assert said == (epochs == 2)
    assert not laboratory.ran


def test_a_root_without_confirmed_cells(laboratory: Laboratory, tmp_path: Path) -> None:
    search = replace(confirmed("mcsgd", SEARCH_SEEDS_FROM), purpose="search", path_points=0)
    laboratory.confirm(search, sweep="searching")
    (tmp_path / "emptied").mkdir()
    plant_flag(str(tmp_path / "emptied"))
    before = files(tmp_path)
    laboratory.execute("--results", "emptied", "--sweep", "mine").refused("no results in emptied")
    script(tmp_path, "--results", "results", "--sweep", "searching").refused(
        "sweep 'searching' has no confirmed configuration: let it finish"
    )
    assert files(tmp_path) == before


def test_images_of_ones_own_that_are_not_named_again(laboratory: Laboratory) -> None:
    flowers = replace(place(), benchmark="rotated-flowers")
    laboratory.confirm(replace(confirmed("mcsgd", 0), place=flowers), sweep="flowers")
    laboratory.night("2026-11-20", sweep="flowers").refused(
        "the images of rotated-flowers that sweep 'flowers' has seen are not found: give their"
        " folder with --data"
    )


MOMENTUM = """
[[configurations]]
method = "stable-sgd"
benchmark = "rotated-digits"
tasks = 2
network = "mlp-16-16"
learning_rate = 0.03
momentum = 0.9
dropout = 0.0
batch_size = 64
epochs = 4
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            TOML.replace("naive-sgd", "niave-sgd"),
            "pinned.toml, configuration 2: unknown method 'niave-sgd': did you mean 'naive-sgd'",
        ),
        (
            MOMENTUM.replace("0.03", "1e-4"),
            "learning_rate 0.0001 of stable-sgd is below lr_floor",
        ),
    ],
)
def test_a_pinned_configuration_that_cannot_be(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pinned.toml").write_text(text)
    before = files(tmp_path)
    script(tmp_path, "--sweep", "mine", "--pinned", "pinned.toml").refused(says)
    assert files(tmp_path) == before


def test_a_regression_planted_in_the_code_is_found(tmp_path: Path) -> None:
    """Real training by two packages: ours, and a copy in which one line ignores the momentum."""
    (tmp_path / "pinned.toml").write_text(MOMENTUM)
    planted = tmp_path / "planted"
    shutil.copytree(SCRIPT.parent.parent / "lmc_ray", planted / "lmc_ray")
    line = planted / "lmc_ray" / "learners" / "descent.py"
    good, bad = (
        "torch.addcmul(gradient, velocity, momentum[:, None], out=velocity)",
        "velocity.copy_(gradient)",
    )
    assert good in line.read_text()
    line.write_text(line.read_text().replace(good, bad))

    def night(date: str, package: Path) -> Ended:
        direct = Path(__file__).parent / "direct_night.py"
        options = ("--sweep", "mine", "--pinned", "pinned.toml", "--night", date)
        done = subprocess.run(
            [sys.executable, direct, SCRIPT, *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(package)},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    first = night("2026-11-20", SCRIPT.parent.parent)
    assert first.status == 0, first.err
    assert "nothing to compare with yet" in first.out
    ended = night("2026-11-21", planted)
    assert ended.status == 3, ended.out + ended.err
    assert "regressed\n" in ended.out
    assert " before, " in ended.out, "the report names both versions of the code"
