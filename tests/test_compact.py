"""Compaction: the same rows before, during and after, whoever reads, writes or dies meanwhile."""

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from results import Rows, accuracies, barrier, cells, measured, path, run, trial

from lmc_ray.cli import main
from lmc_ray.errors import UserError
from lmc_ray.store import TABLES, Finding, Store, snapshot
from lmc_ray.store.schemas import VERSION_KEY

Content = dict[str, list[str]]


def rows_of(*names: str, value: float = 0.5) -> Rows:
    """Whole cells with paths."""
    lines = [barrier(name, ("connected", 1), ("connected", 2)) for name in names]
    return {
        "runs": [run(name, average_accuracy=value, path_points=3) for name in names],
        "accuracies": [row for name in names for row in accuracies(name, value=value)],
        "paths": [row for line in lines for row in path(line, 3)],
        "barriers": lines,
        **{
            table: [row for name in names for row in measured(name)[table]]
            for table in ("similarities", "planes", "spectra")
        },
    }


def content(store: Store, sweep: str | None = None) -> Content:
    """Every visible row, to the bit."""
    with store.database(sweep) as database:
        return {
            table: sorted(map(repr, database.sql(f"SELECT * FROM {table}").fetchall()))
            for table in TABLES
        }


def files(store: Store) -> list[str]:
    root = Path(store.root)
    return sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())


def defects(store: Store) -> list[Finding]:
    return [finding for finding in store.verify() if not finding.harmless]


def filled(root: Path) -> Store:
    """Winners, losers, one attempt of each kind, and trials."""
    store = Store(str(root))
    store.commit("s", "c", {**rows_of("x", "y", value=0.3), "trials": [trial(0, value=0.3)]})
    store.commit("s", "b", {**rows_of("y", "z", value=0.2), "trials": [trial(0, value=0.2)]})
    store.commit("s", "d", rows_of("z", value=0.4))
    store.commit("s", "e", {"trials": [trial(1, values=[0.5, float("nan")], cells=["x"])]})
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "results")


# What it does


def test_the_same_rows_in_few_files(store: Store):
    before = content(store)
    done = store.compact("s")
    assert content(store) == before
    assert (done.merged, done.cells, done.before, done.after) == (True, 3, 24, 8)
    kinds = [name.split("/")[0] for name in files(store)]
    assert kinds == sorted({*TABLES, "compactions"} - {"importances", "minima", "nights", "speeds"})
    with store.database() as database:
        attempts = database.sql("SELECT cell_id, attempt FROM runs ORDER BY 1").fetchall()
        assert attempts == [("x", "c"), ("y", "b"), ("z", "b")]
    assert store.verify() == []
    assert store.sweeps() == ["s"]


def test_again_and_again_with_what_is_new(store: Store):
    store.compact("s")
    names = files(store)
    assert not store.compact("s").merged
    assert files(store) == names
    for attempt, cell in (("f", "new"), ("a", "y"), ("z", "x")):
        store.commit("s", attempt, rows_of(cell, value=0.7))
        before = content(store)
        assert store.compact("s").merged
        assert content(store) == before
        assert len(files(store)) == 9
    assert store.committed("s")["y"]["attempt"] == "a"
    assert store.committed("s")["x"]["attempt"] == "c"
    assert store.verify() == []


def test_a_smaller_attempt_comes_after_compaction(store: Store):
    """Then some cells of the large files are no longer visible, and the rest is."""
    store.compact("s")
    store.commit("s", "a", rows_of("y", value=0.9))
    with store.database() as database:
        sql = "SELECT cell_id, attempt, count(*), max(accuracy) FROM accuracies GROUP BY ALL"
        assert sorted(database.sql(sql).fetchall()) == [
            ("x", "c", 3, 0.3),
            ("y", "a", 3, 0.9),
            ("z", "b", 3, 0.2),
        ]
        sql = "SELECT cell_id FROM accuracies WHERE accuracy > 0.25 GROUP BY ALL ORDER BY ALL"
        assert database.sql(sql).fetchall() == [("x",), ("y",)]
        assert database.sql("SELECT count(*) FROM paths").fetchall() == [(9,)]


def test_only_the_sweep_that_is_named(store: Store):
    store.commit("t", "a", rows_of("x"))
    before = content(store)
    others = [name for name in files(store) if "sweep=t" in name]
    store.compact("s")
    assert [name for name in files(store) if "sweep=t" in name] == others
    store.commit("only-trials", "q", {"trials": [trial(5)]})
    store.compact("only-trials")
    assert store.sweeps() == ["only-trials", "s", "t"]
    assert content(store, "s")["runs"] + content(store, "t")["runs"] == before["runs"]
    assert len(content(store)["trials"]) == 3
    assert store.verify() == []


def test_cells_are_found_and_taken_over_from_compacted_sweeps(store: Store):
    store.compact("s")
    assert store.find(["y"])["y"]["attempt"] == "b"
    store.reuse("t", "r", {"y": {"trial": 4}})
    assert store.committed("t")["y"]["reused_from"] == "s"
    assert len(content(store, "t")["accuracies"]) == 3
    assert store.verify() == []


def test_attempts_without_a_mark_and_torn_ones_stay(store: Store):
    store.commit("s", "running", rows_of("w"))
    store.commit("s", "torn", rows_of("v"))
    root = Path(store.root)
    mark = (root / "runs/sweep=s/running.parquet").read_bytes()
    (root / "runs/sweep=s/running.parquet").unlink()
    os.truncate(root / "accuracies/sweep=s/torn.parquet", 50)
    before = content(store)
    store.compact("s")
    assert content(store) == before
    assert {"accuracies/sweep=s/running.parquet", "runs/sweep=s/torn.parquet"} < set(files(store))
    (root / "runs/sweep=s/running.parquet").write_bytes(mark)
    assert "w" in store.committed("s")
    assert ("v",) in {finding.cells for finding in defects(store)}


def test_a_changed_file_is_not_covered_up(store: Store):
    file = Path(store.root) / "accuracies/sweep=s/c.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    store.compact("s")
    assert str(file) in {finding.file for finding in defects(store)}


def test_trials_that_come_after_their_attempt_was_merged(store: Store):
    """A commit writes them last: compaction may come just before."""
    root = Path(store.root)
    data = (root / "trials/sweep=s/c.parquet").read_bytes()
    (root / "trials/sweep=s/c.parquet").unlink()
    (root / "trials/sweep=s/b.parquet").unlink()
    store.compact("s")
    (root / "trials/sweep=s/c.parquet").write_bytes(data)
    assert len(content(store)["trials"]) == 2


def test_an_older_lmc_ray_refuses_rather_than_see_nothing(store: Store):
    """It looks at every file of `runs`, finds one of a newer version there, and says so."""
    store.compact("s")
    (file,) = (Path(store.root) / "runs/sweep=s").iterdir()
    assert int(pq.read_schema(file).metadata[VERSION_KEY]) > 1


def test_a_newer_manifest_asks_for_an_upgrade(store: Store):
    store.compact("s")
    (manifest,) = (Path(store.root) / "compactions/sweep=s").iterdir()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 99}))
    with pytest.raises(UserError, match="upgrade lmc-ray"):
        store.database()
    with pytest.raises(UserError, match="upgrade lmc-ray"):
        store.compact("s")
    assert "newer lmc-ray" in defects(store)[0].message


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return (end.value.code or 0, *capfd.readouterr())


def test_the_command(store: Store, capfd: pytest.CaptureFixture[str]):
    store.commit("t", "a", rows_of("x"))
    assert command(capfd, "compact", store.root, "--sweep", "t") == (
        0,
        "sweep t: merged, 1 cells; 7 → 7 files\n",
        "",
    )
    assert command(capfd, "compact", store.root) == (
        0,
        "sweep s: merged, 3 cells; 24 → 8 files\n"
        "sweep t: nothing new to merge, 1 cells; 7 → 7 files\n",
        "",
    )


def test_the_command_with_mistakes(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    names = files(store)
    for arguments in ((store.root, "--sweep", "ss"), (str(tmp_path / "nothing"),)):
        status, out, err = command(capfd, "compact", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
    assert "did you mean 's'" in command(capfd, "compact", store.root, "--sweep", "ss")[2]
    assert files(store) == names


# Readers that hold on to what is removed


def test_a_connection_from_before(store: Store):
    before = content(store)
    with store.database() as early, store.database() as late:
        assert early.sql("SELECT count(*) FROM accuracies").fetchall() == [(9,)]
        store.compact("s")
        store.commit("s", "new", rows_of("w"))
        store.compact("s")
        for database in (early, late):
            for table in TABLES:
                rows = database.sql(f"SELECT * FROM {table}").fetchall()
                assert sorted(map(repr, rows)) == before[table]


def test_a_connection_from_before_whose_cell_has_a_new_winner(store: Store):
    """Not the rows of that moment, which are gone; but every cell, whole and once."""
    with store.database() as database:
        store.commit("s", "a", rows_of("y", "w", value=0.9))
        store.compact("s")
        sql = "SELECT cell_id, count(DISTINCT attempt), count(*) FROM accuracies GROUP BY 1"
        rows = [("x", 1, 3), ("y", 1, 3), ("z", 1, 3)]
        assert sorted(database.sql(sql).fetchall()) == rows


# Every moment: a local folder behind a file system that stops before each operation


class Killed(BaseException):
    """What a power cut looks like from inside."""


class Watched(fs.FileSystemHandler):
    """A local file system that calls `before` ahead of every operation on it.

    Args:
        upload: files appear when they are closed, as in an object store.
    """

    def __init__(self, before: Callable[[], None], upload: bool) -> None:
        self.local = fs.LocalFileSystem()
        self.before, self.upload = before, upload

    def get_type_name(self) -> str:
        return "object-store" if self.upload else "disk"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        self.before()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        self.before()
        return self.local.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.before()
        self.local.create_dir(path, recursive=recursive)

    def delete_file(self, path: str) -> None:
        self.before()
        self.local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self.before()
        self.local.move(src, dest)

    def open_input_file(self, path: str) -> Any:
        self.before()
        return self.local.open_input_file(path)

    def open_input_stream(self, path: str) -> Any:
        self.before()
        return self.local.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self.before()
        if not self.upload:
            return self.local.open_output_stream(path)
        return pa.PythonFile(Upload(path, self.before), mode="w")

    def _never(self, *arguments: Any) -> Any:
        raise NotImplementedError

    delete_dir = delete_dir_contents = delete_root_dir_contents = _never
    copy_file = open_append_stream = _never


class Upload(io.BytesIO):
    def __init__(self, path: str, before: Callable[[], None]) -> None:
        super().__init__()
        self.path, self.before = Path(path), before

    def close(self) -> None:
        if not self.closed:
            self.before()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(self.getvalue())
            super().close()


class Steps:
    """Counts operations; at one of them it calls `at`, once."""

    def __init__(self, number: int, at: Callable[[], None]) -> None:
        self.number, self.at = number, at
        self.count = 0
        self.lock = threading.Lock()

    def __call__(self) -> None:
        with self.lock:
            now = self.count == self.number
            self.count += 1
        if now:
            self.at()


class KilledAt(Steps):
    """From one operation on, nothing more happens."""

    def __init__(self, number: int) -> None:
        super().__init__(number, lambda: None)

    def __call__(self) -> None:
        super().__call__()
        if self.count > self.number:
            raise Killed


def watched(store: Store, before: Callable[[], None], upload: bool) -> Store:
    """The same root behind a `Watched`."""
    same = Store(store.root)
    same._filesystem = fs.PyFileSystem(Watched(before, upload))
    return same


@pytest.fixture(params=[False, True], ids=["disk", "object store"])
def upload(request: pytest.FixtureRequest) -> Iterator[bool]:
    with mock.patch("lmc_ray.store.files._OBJECT_STORES", ("py::object-store",)):
        yield request.param


def small(root: Path) -> Store:
    """Three attempts and a trial."""
    store = Store(str(root))
    store.commit("s", "b", {**cells("x", "y", value=0.3), "trials": [trial(0)]})
    store.commit("s", "a", cells("y", value=0.2))
    store.commit("s", "c", cells("z", value=0.4))
    return store


def seen(store: Store) -> Content:
    """As `content`, without DuckDB, which takes its time to start."""
    place = (store._filesystem, store._base)
    visible = snapshot.cells(*place, None)
    tables = {name: rows.to_table() for name, rows in visible.tables.items()}
    tables |= {"runs": visible.runs, "trials": snapshot.loose(*place, "trials", None)}
    return {name: sorted(map(repr, rows.to_pylist())) for name, rows in tables.items()}


def moments(tmp_path: Path, act: Callable[[Store, int], int], stride: int = 1) -> None:
    """Do something at the first, the second, … operation, each time on a fresh root.

    Args:
        tmp_path: for the roots.
        act: does it, and returns how many operations there are.
        stride: only every so many operations, to save time.
    """
    number, operations = 0, 1
    while number < operations:
        operations = act(small(tmp_path / str(number)), number)
        number += stride
    assert number > 10, "most operations were not looked at"


def test_readers_at_every_moment_of_a_compaction(tmp_path: Path, upload: bool):
    def act(store: Store, number: int) -> int:
        before = seen(store)

        steps = Steps(number, lambda: _check(seen(store) == before))
        watched(store, steps, upload).compact("s")
        assert seen(store) == before
        return steps.count

    moments(tmp_path, act)


def test_a_compaction_at_every_moment_of_a_reader(tmp_path: Path, upload: bool):
    def act(store: Store, number: int) -> int:
        before = seen(store)
        steps = Steps(number, lambda: _check(store.compact("s").merged))
        assert seen(watched(store, steps, upload)) == before
        return steps.count

    moments(tmp_path, act)


def test_killed_at_every_moment_and_run_again(tmp_path: Path, upload: bool):
    def act(store: Store, number: int) -> int:
        before = seen(store)
        steps = KilledAt(number)
        with suppress(Killed):
            watched(store, steps, upload).compact("s")
        assert seen(store) == before
        store.compact("s")
        assert seen(store) == before
        assert len([name for name in files(store) if not name.endswith(".tmp")]) == 4
        return number + 2 if steps.count > number else number  # until nothing was killed

    moments(tmp_path, act)


def test_commits_at_every_moment_of_a_compaction(tmp_path: Path, upload: bool):
    """A new cell, and a smaller attempt of one that is being merged."""

    def act(store: Store, number: int) -> int:
        steps = Steps(number, lambda: store.commit("s", "a0", cells("new", "x", value=0.1)))
        watched(store, steps, upload).compact("s")
        winners = {cell: row["attempt"] for cell, row in store.committed("s").items()}
        assert winners == {"new": "a0", "x": "a0", "y": "a", "z": "c"}
        assert len(seen(store)["accuracies"]) == 12
        return steps.count

    moments(tmp_path, act, stride=2)


@pytest.mark.parametrize(
    ("killed_at", "stride"),
    [
        (None, 4),
        pytest.param(None, 2, marks=pytest.mark.soak),
        pytest.param(12, 5, marks=pytest.mark.soak),
        pytest.param(25, 5, marks=pytest.mark.soak),
        pytest.param(35, 5, marks=pytest.mark.soak),
    ],
)
def test_a_second_compaction_at_many_moments_of_the_first(
    tmp_path: Path, upload: bool, killed_at: int | None, stride: int
):
    """The second comes to its end, or is killed; whichever way, the rows stay and all is tidy."""

    def act(store: Store, number: int) -> int:
        before, came = seen(store), []

        def second() -> None:
            came.append(True)
            store.commit("s", "late", cells("late"))
            before.update(seen(store))
            if killed_at is None:
                store.compact("s")
            else:
                with suppress(Killed):
                    watched(store, KilledAt(killed_at), upload).compact("s")

        steps = Steps(number, second)
        watched(store, steps, upload).compact("s")
        assert seen(store) == before
        if (
            not came
        ):  # where the second is in time, the first takes more operations: no more moments
            return number
        store.compact("s")
        store.commit("s", "later", cells("later"))
        store.compact("s")
        assert set(store.committed("s")) == {"x", "y", "z", "late", "later"}
        assert len([name for name in files(store) if not name.endswith(".tmp")]) == 4
        assert all(f.file.endswith(".tmp") for f in store.verify())
        return steps.count

    moments(tmp_path, act, stride)


def _check(truth: bool) -> None:
    assert truth


# Verify


@pytest.mark.parametrize(
    "table", sorted(TABLES.keys() - {"importances", "minima", "nights", "speeds"})
)
@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_verify_finds_a_truncated_compacted_file(store: Store, table: str, keep: float):
    store.compact("s")
    (file,) = (Path(store.root) / table / "sweep=s").iterdir()
    os.truncate(file, int(keep * file.stat().st_size))
    content(store)
    found = [finding for finding in defects(store) if finding.file == str(file)]
    assert found
    assert table == "trials" or {"x", "y", "z"} == {c for f in found for c in f.cells}
    with pytest.raises(UserError, match="damaged compaction, so nothing of it was changed"):
        store.compact("s")


def test_verify_finds_a_missing_compacted_file(store: Store):
    store.compact("s")
    (file,) = (Path(store.root) / "paths/sweep=s").iterdir()
    file.unlink()
    assert any("is missing" in f.message and f.cells for f in defects(store))
    assert content(store)["runs"] == [], "a cell shows whole or not at all"


def test_verify_finds_a_changed_compacted_file(store: Store):
    store.compact("s")
    (file,) = (Path(store.root) / "accuracies/sweep=s").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    assert any(f.file == str(file) and f.cells for f in defects(store))
    store.commit("s", "new", rows_of("w"))
    with pytest.raises(UserError, match="was changed"):
        store.compact("s")


def test_verify_finds_a_damaged_manifest(store: Store):
    store.compact("s")
    (manifest,) = (Path(store.root) / "compactions/sweep=s").iterdir()
    manifest.write_text("{")
    assert str(manifest) in {finding.file for finding in defects(store)}
    with pytest.raises(UserError, match="no manifest"):
        store.compact("s")


def test_verify_calls_what_a_stopped_compaction_left_harmless(store: Store):
    with pytest.raises(Killed):
        watched(store, KilledAt(60), upload=False).compact("s")
    assert defects(store) == []
    assert any("lmc-ray compact" in finding.message for finding in store.verify())


def test_what_has_lost_its_manifest_is_no_leftover(store: Store):
    """As in a copy of the Parquet files alone: what a compaction holds is nowhere else."""
    before = content(store)
    store.compact("s")
    folder = Path(store.root) / "compactions"
    folder.rename(folder.with_name("elsewhere"))
    assert content(store)["runs"] == []
    store.commit("s", "new", rows_of("w"))
    (found,) = defects(store)
    assert found.cells == ("x", "y", "z")
    for _ in range(2):
        with pytest.raises(UserError, match=r"nothing of it was changed: .* bring the folder"):
            store.compact("s")
    folder.with_name("elsewhere").rename(folder)
    assert defects(store) == []
    store.compact("s")
    after = content(store)
    assert all(set(before[table]) < set(after[table]) for table in ("runs", "accuracies", "paths"))


def test_a_damaged_sweep_keeps_no_other_from_being_compacted(
    store: Store, capfd: pytest.CaptureFixture[str]
):
    store.compact("s")
    (manifest,) = (Path(store.root) / "compactions/sweep=s").iterdir()
    manifest.write_text("{")
    store.commit("t", "a", rows_of("x"))
    status, out, err = command(capfd, "compact", store.root)
    assert (status, out) == (2, "sweep t: merged, 1 cells; 7 → 7 files\n")
    assert "sweep s has a damaged compaction" in err


def test_a_bit_that_flips_in_a_mark(store: Store):
    """No manifest has its digest; the cell counts as not run, and not with another accuracy."""
    file = Path(store.root) / "runs/sweep=s/d.parquet"
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 4] ^= 1
    file.write_bytes(data)
    assert str(file) in {finding.file for finding in defects(store)}


def test_verify_where_the_marks_are_gone(store: Store, capfd: pytest.CaptureFixture[str]):
    for file in (Path(store.root) / "runs/sweep=s").iterdir():
        file.unlink()
    for file in (Path(store.root) / "trials/sweep=s").iterdir():
        file.unlink()
    status, out, _ = command(capfd, "verify", store.root)
    assert (status, "no commit mark" in out) == (0, True)


def test_verify_names_the_cells(store: Store):
    """Of a truncated file, a missing mark, a duplicate, a schema from the future."""
    root = Path(store.root)
    os.truncate(root / "accuracies/sweep=s/c.parquet", 50)
    os.truncate(root / "runs/sweep=s/b.parquet", 50)
    (root / "runs/sweep=s/d.parquet").unlink()
    found = {Path(f.file).parts[-3:]: f for f in store.verify()}
    assert found["accuracies", "sweep=s", "c.parquet"].cells == ("x", "y")
    assert found["runs", "sweep=s", "b.parquet"].cells == ("y", "z")
    stopped = found["accuracies", "sweep=s", "d.parquet"]
    assert (stopped.cells, stopped.harmless) == (("z",), True)


def test_verify_names_the_cells_of_a_newer_file(store: Store):
    file = Path(store.root) / "accuracies/sweep=s/c.parquet"
    rows = pq.ParquetFile(file).read()
    newer = {**rows.schema.metadata, VERSION_KEY: b"99"}
    pq.write_table(rows.replace_schema_metadata(newer), file)
    found = next(finding for finding in defects(store) if finding.file == str(file))
    assert found.cells == ("x", "y")
    assert "newer lmc-ray" in found.message


# Scale


@pytest.mark.soak
def test_reading_many_cells_is_fast_again(tmp_path: Path):
    """The work of reading, in processor time of this process: waiting for others does not count."""
    store = Store(str(tmp_path / "results"))
    for number in range(200):
        store.commit("s", f"a{number}", rows_of(f"c{number}"))
    before = content(store)
    slow = _work(store)
    store.compact("s")
    assert content(store) == before
    fast = _work(store)
    print(f"\nreading 200 cells: {slow:.2f} s before, {fast:.2f} s after")
    assert 4 * fast < slow


def _work(store: Store) -> float:
    begin = time.process_time()
    with store.database() as database:
        database.sql("SELECT avg(loss_rise), count(*) FROM barriers JOIN runs USING (cell_id)")
        database.sql("SELECT max(accuracy) FROM accuracies").fetchall()
    return time.process_time() - begin
