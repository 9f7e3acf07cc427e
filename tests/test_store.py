import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import Rows, accuracies, barrier, cells, measured, path, run, trial

from lmc_ray.errors import UserError
from lmc_ray.store import TABLES, Store, check_sweep_name
from lmc_ray.store.schemas import (
    CELL_TABLES,
    LOOSE_TABLES,
    SCHEMA_VERSION,
    VERSION_KEY,
    description,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "results"))


def ask(store: Store, sql: str, sweep: str | None = None) -> list[tuple[Any, ...]]:
    with store.database(sweep) as database:
        return database.sql(sql).fetchall()


def files(store: Store) -> list[Path]:
    return sorted(path for path in Path(store.root).rglob("*") if path.is_file())


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    pq.write_table(change(pq.ParquetFile(file).read()), file)


# Commit


def test_rows_come_back_with_sweep_and_attempt(store: Store):
    moment = dt.datetime(2026, 11, 22, 13, 30, 0, 250, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    store.commit("s", "a1", {"runs": [run("c", seed=7, shuffle=True, started_at=moment)]})
    row = store.committed("s")["c"]
    assert (row["sweep"], row["attempt"], row["seed"], row["shuffle"]) == ("s", "a1", 7, True)
    assert row["started_at"] == moment
    assert row["started_at"].utcoffset() == dt.timedelta(0)
    assert row["night"] is None


def test_layout_and_self_description(store: Store):
    store.commit("s", "a1", {**cells("c"), "trials": [trial(0)]})
    names = [str(file.relative_to(store.root)) for file in files(store)]
    assert names == [f"{t}/sweep=s/a1.parquet" for t in ("accuracies", "runs", "trials")]
    for file in files(store):
        schema = pq.read_schema(file)
        assert schema.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
    assert "cross-entropy" in description(pq.read_schema(files(store)[0]).field("loss"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"runs": [run("c", colour="red")]}, "no column colour"),
        ({"runs": [{**run("c"), "seed": "seven"}]}, "column seed"),
        ({"runs": [run("c", config={"a": 1})]}, "column config"),
        ({"runs": [run("c"), run("c")]}, "two rows"),
        ({"runs": [run("c")], "accuracies": accuracies("c") * 2}, "two rows"),
        ({"runs": [run("c")], "accuracies": accuracies("d")}, "no row in runs"),
        ({"runs": [{"seed": 1}]}, "no cell_id"),
        ({"runes": [run("c")]}, "did you mean 'runs'"),
    ],
)
def test_nonsense_is_refused(store: Store, rows: Rows, message: str):
    with pytest.raises(ValueError, match=message):
        store.commit("s", "a1", rows)
    assert "runs" not in {file.parts[-3] for file in files(store)}


def test_every_parent_table_is_checked_before_the_first_byte(store: Store):
    rows = {**cells("c"), "runs": [{**run("c"), "seed": "seven"}]}
    with pytest.raises(ValueError, match="column seed"):
        store.commit("s", "a1", rows)
    assert files(store) == []


@pytest.mark.parametrize("name", ["a", "night.1", "2026-11-22_x", "x" * 100])
def test_plain_sweep_names(name: str):
    assert check_sweep_name(name) == name


@pytest.mark.parametrize("name", ["", ".x", "-x", "a/b", "..", "a b", "ä", "x" * 101, "a\n", "a=b"])
def test_other_sweep_names(store: Store, name: str):
    with pytest.raises(UserError, match="no plain sweep name"):
        check_sweep_name(name)
    with pytest.raises(UserError, match="no plain sweep name"):
        store.commit(name, "a1", cells("c"))
    assert files(store) == []


def test_writable_root_is_left_as_it_was(store: Store):
    store.check_writable()
    assert files(store) == []
    assert store.sweeps() == []


def test_root_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write to the results root"):
        Store(str(tmp_path / "file" / "results")).check_writable()


@pytest.mark.parametrize("root", ["", "nosuch://bucket/x", "ftp://host/x"])
def test_root_that_is_none(root: str):
    with pytest.raises(UserError, match="results root"):
        Store(root)


def test_a_file_uri_is_the_folder(tmp_path: Path):
    Store(f"file://{tmp_path}/results").commit("s", "a1", cells("c"))
    Store(f"{tmp_path}/x/../results/").commit("s", "a2", cells("d"))
    assert set(Store(str(tmp_path / "results")).committed("s")) == {"c", "d"}
    assert Store(f"{tmp_path}/x/../results/").verify() == []


def test_a_file_system_without_fsync():
    store = Store("mock:///results")  # pyarrow's own, in memory
    store.check_writable()
    store.commit("s", "a1", cells("c", "d"))
    assert set(store.committed("s")) == {"c", "d"}
    assert ask(store, "SELECT count(*) FROM accuracies") == [(6,)]
    assert store.verify() == []


# Visibility


def test_an_empty_root_has_every_table(store: Store):
    for name, table in TABLES.items():
        with store.database() as database:
            rows = database.sql(f"SELECT * FROM {name}")
            assert rows.columns == table.schema.names
            assert rows.fetchall() == []


def test_smallest_attempt_wins_whichever_came_first(store: Store):
    for attempt, value in (("b", 0.2), ("c", 0.3), ("a", 0.1)):
        store.commit("s", attempt, cells("x", "y", value=value))
    assert ask(store, "SELECT DISTINCT attempt, average_accuracy FROM runs") == [("a", 0.1)]
    assert ask(store, "SELECT count(*), max(accuracy) FROM accuracies") == [(6, 0.1)]
    assert {row["attempt"] for row in store.committed("s").values()} == {"a"}


def test_an_attempt_may_win_some_of_its_cells(store: Store):
    store.commit("s", "b", cells("x", "y", "z", value=0.2))
    store.commit("s", "a", cells("y", value=0.1))
    assert ask(store, "SELECT cell_id, attempt FROM runs ORDER BY 1") == [
        ("x", "b"),
        ("y", "a"),
        ("z", "b"),
    ]
    assert ask(
        store,
        "SELECT cell_id, attempt, count(*), max(accuracy) FROM accuracies GROUP BY ALL ORDER BY 1",
    ) == [("x", "b", 3, 0.2), ("y", "a", 3, 0.1), ("z", "b", 3, 0.2)]


def test_sweeps_do_not_hide_each_others_cells(store: Store):
    store.commit("s", "a", cells("x"))
    store.commit("t", "b", cells("x"))
    store.commit("only-trials", "c", {"trials": [trial(0)]})
    assert ask(store, "SELECT sweep FROM runs ORDER BY 1") == [("s",), ("t",)]
    assert ask(store, "SELECT sweep FROM accuracies GROUP BY 1", "t") == [("t",)]
    assert store.sweeps() == ["only-trials", "s", "t"]


def test_a_trial_counts_once(store: Store):
    store.commit("s", "b", {"trials": [trial(0, value=0.2), trial(1, value=0.3)]})
    store.commit("s", "a", {"trials": [trial(0, value=0.1, cells=["c", "d"], values=[0.1, 2])]})
    assert ask(store, "SELECT number, value, cells FROM trials ORDER BY 1") == [
        (0, 0.1, ["c", "d"]),
        (1, 0.3, None),
    ]


def test_a_connection_is_a_moment(store: Store):
    store.commit("s", "b", cells("x"))
    with store.database() as database:
        store.commit("s", "a", cells("x", "y"))
        assert database.sql("SELECT attempt FROM accuracies GROUP BY 1").fetchall() == [("b",)]
        assert database.sql("SELECT count(*) FROM runs").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{root}/runs/sweep=s/a.parquet'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY runs TO '{root}/stolen.csv'",
        "ATTACH '{root}/x.duckdb'",
        "SELECT * FROM secret",
        "SET enable_external_access = true",
    ],
)
def test_sql_sees_the_tables_only(store: Store, sql: str):
    import duckdb

    store.commit("s", "a", cells("x"))
    secret = pq.ParquetFile(files(store)[0]).read()
    before = files(store)
    with store.database() as database, pytest.raises(duckdb.Error):
        database.execute(sql.format(root=store.root))
    assert len(secret) == 3
    assert files(store) == before


# Files of other versions, and damaged ones


def test_an_older_file_lacks_newer_columns(store: Store):
    store.commit("s", "a", cells("x"))
    store.commit("s", "b", cells("y"))

    def older(rows: Any) -> Any:
        schema = rows.schema
        metadata = {**schema.metadata, VERSION_KEY: b"0"}
        return rows.drop_columns(["split"]).replace_schema_metadata(metadata)

    rewrite(Path(store.root) / "runs/sweep=s/a.parquet", older)
    rewrite(Path(store.root) / "accuracies/sweep=s/a.parquet", older)
    assert ask(store, "SELECT cell_id, split FROM runs ORDER BY 1") == [("x", None), ("y", "test")]
    assert ask(store, "SELECT cell_id, split FROM accuracies GROUP BY ALL ORDER BY 1") == [
        ("x", None),
        ("y", "test"),
    ]


def test_trials_of_version_3_name_no_benchmark(store: Store):
    """The one that their sweep had is meant, which its cells name."""
    mine = [trial(0, cells=["x"]), trial(1, cells=["gone"])]
    store.commit("s", "a", {"runs": [run("x", benchmark="split-digits")], "trials": mine})
    store.commit("t", "b", {**cells("y"), "trials": [trial(0, cells=["y"])]})
    store.commit("u", "c", {"trials": [trial(0, cells=["gone"])]})

    def older(rows: Any) -> Any:
        metadata = {**rows.schema.metadata, VERSION_KEY: b"3"}
        return rows.drop_columns(["benchmark"]).replace_schema_metadata(metadata)

    for file in (Path(store.root) / "trials").rglob("*.parquet"):
        rewrite(file, older)
    # One that came later, when the sweep had another benchmark too.
    store.commit("s", "d", {**cells("z"), "trials": [trial(0, cells=["z"])]})
    of_trials = ask(store, "SELECT sweep, number, benchmark FROM trials ORDER BY ALL")
    assert of_trials == [
        ("s", 0, "rotated-digits"),
        ("s", 0, None),
        ("s", 1, None),
        ("t", 0, None),
        ("u", 0, None),
    ]
    assert ask(store, "SELECT sweep, number, benchmark FROM tried ORDER BY ALL") == [
        ("s", 0, "rotated-digits"),
        ("s", 0, "split-digits"),
        ("s", 1, "split-digits"),
        ("t", 0, "rotated-digits"),
        ("u", 0, None),
    ]
    store.compact("s")
    assert ask(store, "SELECT sweep, number, benchmark FROM trials ORDER BY ALL") == of_trials


def test_trials_of_two_benchmarks_may_have_one_number(store: Store):
    both = [trial(0, benchmark=name) for name in ("rotated-digits", "permuted-digits")]
    store.commit("s", "a", {"trials": both})
    store.commit("s", "b", {"trials": both[:1]})
    found = ask(store, "SELECT benchmark, number, attempt FROM trials ORDER BY 1")
    assert found == [("permuted-digits", 0, "a"), ("rotated-digits", 0, "a")]
    with pytest.raises(ValueError, match="two rows of trials"):
        store.commit("s", "c", {"trials": [*both, both[0]]})


@pytest.mark.parametrize("table", ["runs", "trials"])
def test_a_newer_file_asks_for_an_upgrade(store: Store, table: str):
    store.commit("s", "a", {**cells("x"), "trials": [trial(0)]})
    newer = {VERSION_KEY: str(SCHEMA_VERSION + 1).encode()}
    file = Path(store.root) / table / "sweep=s" / "a.parquet"
    rewrite(file, lambda rows: rows.replace_schema_metadata({**rows.schema.metadata, **newer}))
    with pytest.raises(UserError, match="upgrade lmc-ray"):
        store.database()
    assert any("newer lmc-ray" in finding.message for finding in store.verify())


def rows_with_paths(name: str) -> Rows:
    line = barrier(name, ("connected", 1), ("connected", 2))
    return {
        **cells(name),
        "runs": [run(name, path_points=5)],
        "paths": path(line, 5),
        "barriers": [line],
        **measured(name),
        "trials": [trial(0)],
        "importances": [{"study": "mcsgd", "trials": 9, "hyperparameter": "momentum"}],
        "nights": [{"night": "2026-11-24", "method": "mcsgd", "benchmark": "rotated-digits"}],
        "speeds": [{"device": "2 cores", "method": "mcsgd", "benchmark": "rotated-digits"}],
    }


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
@pytest.mark.parametrize("table", [table for table in TABLES if table != "minima"])
def test_a_half_written_file_breaks_nothing_else(
    store: Store, table: str, keep: float, caplog: pytest.LogCaptureFixture
):
    store.commit("s", "a", rows_with_paths("x"))
    store.commit("s", "b", rows_with_paths("x"))
    store.commit("s", "c", rows_with_paths("y"))
    file = Path(store.root) / table / "sweep=s" / "a.parquet"
    os.truncate(file, int(keep * file.stat().st_size))
    attempts = [("a",)] if table in LOOSE_TABLES else [("b",)]
    for other in set(CELL_TABLES) - {"minima"}:
        assert ask(store, f"SELECT DISTINCT attempt FROM {other} WHERE cell_id = 'x'") == attempts
    assert ask(store, "SELECT cell_id FROM runs ORDER BY 1") == [("x",), ("y",)]
    assert ask(store, "SELECT count(*) FROM trials") == [(1,)]
    for other in set(LOOSE_TABLES) - {"trials"}:
        assert ask(store, f"SELECT count(*) FROM {other}") == [(1,)]
    assert "lmc-ray verify" in caplog.text
    found = [finding for finding in store.verify() if not finding.harmless]
    assert str(file) in {finding.file for finding in found}


def test_a_missing_file_hides_its_attempt(store: Store):
    store.commit("s", "a", cells("x", "y"))
    (Path(store.root) / "accuracies/sweep=s/a.parquet").unlink()
    assert store.committed("s") == {}
    assert [f.message for f in store.verify()] == [
        "its attempt is left out: the file of accuracies is missing"
    ]


def test_files_nobody_committed_are_not_seen(store: Store):
    store.commit("s", "a", cells("x"))
    folder = Path(store.root) / "accuracies/sweep=s"
    (folder / "zzz.parquet").write_bytes((folder / "a.parquet").read_bytes())
    (folder / "torn.parquet").write_bytes(b"PAR1")
    (folder / ".b.parquet.tmp").write_bytes(b"PAR1")
    (folder.parent / "stray.parquet").write_bytes(b"")
    (folder / "notes.txt").write_text("hello")
    assert ask(store, "SELECT count(*) FROM accuracies") == [(3,)]


# Cells of other sweeps


def test_find_looks_in_every_sweep(store: Store):
    store.commit("s", "a", cells("x", "y"))
    store.commit("t", "b", cells("z"))
    found = store.find(["x", "z", "nowhere"])
    assert {cell: row["sweep"] for cell, row in found.items()} == {"x": "s", "z": "t"}


def test_find_prefers_who_ran_it_to_the_end(store: Store):
    store.commit("a", "1", {"runs": [run("x", status="pruned")]})
    store.commit("b", "2", {"runs": [run("x", reused_from="c")]})
    store.commit("c", "3", {"runs": [run("x")]})
    assert store.find(["x"])["x"]["sweep"] == "c"


def test_reuse_copies_whole_cells(store: Store):
    store.commit("s", "a", {k: v for k, v in rows_with_paths("x").items() if k != "trials"})
    store.commit("s", "b", cells("y"))
    store.reuse("t", "c", {"x": {"study": "other", "trial": 4}})
    store.reuse("u", "d", {"x": {}})
    row = store.committed("t")["x"]
    assert (row["reused_from"], row["study"], row["trial"], row["attempt"]) == (
        "s",
        "other",
        4,
        "c",
    )
    assert store.committed("u")["x"]["reused_from"] == "s"
    for table, count in (("accuracies", 3), ("paths", 5), ("barriers", 1)):
        sql = f"SELECT DISTINCT sweep, attempt, cell_id, count(*) FROM {table} GROUP BY ALL"
        assert ask(store, sql, "t") == [("t", "c", "x", count)]
    assert store.verify() == []


def test_reuse_of_what_is_not_there(store: Store):
    store.commit("s", "a", cells("x"))
    with pytest.raises(KeyError):
        store.reuse("t", "b", {"x": {}, "nowhere": {}})
    assert store.committed("t") == {}


# Verify


def test_verify_is_silent_on_a_sound_root(store: Store):
    store.commit("s", "a", rows_with_paths("x"))
    store.commit("s", "b", rows_with_paths("x"))
    assert store.verify() == []


def test_verify_notes_what_a_stopped_attempt_left(store: Store):
    store.commit("s", "a", cells("x"))
    (Path(store.root) / "runs/sweep=s/a.parquet").unlink()
    (Path(store.root) / "runs/sweep=s/.a.parquet.tmp").write_bytes(b"PAR")
    findings = store.verify()
    assert all(finding.harmless for finding in findings)
    assert [finding.message.split(":")[0] for finding in findings] == [
        "a write that was never finished; delete it when no sweep is running",
        "no commit mark",
    ]


def test_verify_finds_duplicates_and_the_cell(store: Store):
    store.commit("s", "a", cells("x"))
    for table in ("runs", "accuracies"):
        file = Path(store.root) / table / "sweep=s" / "a.parquet"
        rewrite(file, lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]))
    found = {(f.cells, f.message.split(" (")[0]) for f in store.verify()}
    assert (("x",), "2 rows with one key") in found


def test_verify_finds_partial_row_sets(store: Store):
    store.commit("s", "a", cells("x"))
    file = Path(store.root) / "accuracies/sweep=s/a.parquet"
    rewrite(file, lambda rows: rows.slice(0, 2))
    (finding,) = store.verify()
    assert finding.file == str(file)
    assert "2 rows, its commit mark says 3" in finding.message


def test_verify_finds_a_changed_file(store: Store):
    store.commit("s", "a", cells("x"))
    file = Path(store.root) / "accuracies/sweep=s/a.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    assert str(file) in {f.file for f in store.verify() if not f.harmless}


def test_verify_finds_a_moved_file(store: Store):
    store.commit("s", "a", cells("x"))
    for table in ("runs", "accuracies"):
        (Path(store.root) / table / "sweep=s").rename(Path(store.root) / table / "sweep=t")
    assert store.committed("t") == {}
    assert len(store.verify()) == 2
    assert all("holds rows of sweep s" in f.message for f in store.verify())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracies": accuracies("x")[:-1]}, "accuracies do not cover every task"),
        ({"paths": []}, "a row of barriers has no path"),
        ({"barriers": []}, "a path has no row in barriers"),
        ({"runs": [run("x", path_points=21)]}, "another number of points"),
    ],
)
def test_verify_finds_incomplete_cells(store: Store, change: Rows, message: str):
    store.commit("s", "a", {**rows_with_paths("x"), **change})
    (finding,) = store.verify()
    assert message in finding.message
    assert finding.cells == ("x",)
    assert not finding.harmless


# Exactly once, whoever dies when: attempts run as threads that stop before every file operation.


class Killed(BaseException):
    """What a power cut looks like from inside."""


class Attempt(threading.Thread):
    def __init__(self, store: Store, name: str, rows: Rows) -> None:
        super().__init__(daemon=True)
        self.store, self.attempt, self.rows = store, name, rows
        self.ended = self.committed = self.dead = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._stopped.acquire()

    def run(self) -> None:
        try:
            self.gate()
            self.store.commit("s", self.attempt, self.rows)
            self.committed = True
        except Killed:
            pass
        finally:
            self.ended = True
            self._stopped.release()

    def gate(self) -> None:
        """Called in the thread before each operation: wait to be let on."""
        self._stopped.release()
        self._go.acquire()
        if self.dead:
            raise Killed

    def step(self) -> None:
        """Called by the test: one more operation."""
        if not self.ended:
            self._go.release()
            self._stopped.acquire()

    def finish(self) -> None:
        while not self.ended:
            self.step()

    def kill(self) -> None:
        self.dead = True
        self.step()


class HalfAtATime:
    """A file whose writes can be cut in the middle."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "HalfAtATime":
        return self

    def __exit__(
        self, kind: type | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        _gate()
        self.file.write(data[len(data) // 2 :])

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def _gate() -> None:
    thread = threading.current_thread()
    if isinstance(thread, Attempt):
        thread.gate()


@pytest.fixture(scope="module")
def gated() -> Iterator[None]:
    """Every file operation of the store waits at a gate first; then it really happens."""

    def gate_before(call: Callable[..., Any]) -> Callable[..., Any]:
        def gated_call(*arguments: Any, **named: Any) -> Any:
            _gate()
            return call(*arguments, **named)

        return gated_call

    really_open = Path.open

    def halving_open(self: Path, *arguments: Any, **named: Any) -> Any:
        if not isinstance(threading.current_thread(), Attempt):
            return really_open(self, *arguments, **named)
        _gate()
        return HalfAtATime(really_open(self, *arguments, **named))

    with (
        mock.patch.object(Path, "open", halving_open),
        mock.patch.object(Path, "replace", gate_before(Path.replace)),
        mock.patch.object(Path, "mkdir", gate_before(Path.mkdir)),
        mock.patch.object(os, "fsync", gate_before(os.fsync)),
    ):
        yield


COUNTS = {"runs": 1, "accuracies": 3, "paths": 5, "barriers": 1}


def visible(store: Store) -> dict[str, str]:
    """Cell → attempt; every visible cell has all its rows, of that one attempt, and once."""
    with store.database() as database:
        rows = database.sql("SELECT cell_id, attempt FROM runs").fetchall()
        winners = dict(rows)
        assert len(rows) == len(winners)
        for table, count in COUNTS.items():
            sql = f"SELECT cell_id, attempt, count(*) FROM {table} GROUP BY ALL"
            found = database.sql(sql).fetchall()
            assert set(found) == {(cell, attempt, count) for cell, attempt in winners.items()}
            assert len(found) == len(winners)
    return winners


def full_rows(names: list[str]) -> Rows:
    rows: Rows = {table: [] for table in COUNTS}
    for name in names:
        for table, some in rows_with_paths(name).items():
            if table in rows:
                rows[table] += some
    return rows


@settings(deadline=None, max_examples=15)
@given(
    shares=st.lists(st.sets(st.sampled_from("xyz"), min_size=1), min_size=2, max_size=4),
    schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60), st.booleans()), max_size=8),
    finishing=st.sets(st.integers(0, 3)),
)
def test_exactly_once_whoever_dies_when(
    gated: None,
    tmp_path_factory: pytest.TempPathFactory,
    shares: list[set[str]],
    schedule: list[tuple[int, int, bool]],
    finishing: set[int],
):
    store = Store(str(tmp_path_factory.mktemp("root")))
    attempts = [
        Attempt(store, f"attempt-{index}", full_rows(sorted(share)))
        for index, share in enumerate(shares)
    ]
    before: dict[str, str] = {}
    for index, steps, look in schedule:
        for _ in range(steps):
            attempts[index % len(attempts)].step()
        if look:
            now = visible(store)
            assert before.keys() <= now.keys()
            before = now
    for index, attempt in enumerate(attempts):
        if index in finishing:
            attempt.finish()
        else:
            attempt.kill()
        attempt.join()
    now = visible(store)
    assert before.keys() <= now.keys()
    for share, attempt in zip(shares, attempts, strict=True):
        if attempt.committed:
            assert share <= now.keys()
            assert all(now[cell] <= attempt.attempt for cell in share)
    assert [finding for finding in store.verify() if not finding.harmless] == []


def test_an_attempt_is_invisible_until_its_last_rename(gated: None, store: Store):
    attempt = Attempt(store, "a", full_rows(["x"]))
    steps = 0
    while not attempt.ended:
        seen = visible(store)
        assert seen == {} or (Path(store.root) / "runs/sweep=s/a.parquet").exists()
        attempt.step()
        steps += 1
    assert visible(store) == {"x": "a"}
    assert steps > 4 * len(COUNTS)


@settings(deadline=None, max_examples=15)
@given(
    which=st.integers(0, 7),
    share=st.floats(0, 1, exclude_max=True),
    then=st.sampled_from(["truncate", "empty", "zeros", "remove"]),
)
def test_no_damage_shows_part_of_a_cell(
    tmp_path_factory: pytest.TempPathFactory, which: int, share: float, then: str
):
    store = Store(str(tmp_path_factory.mktemp("root")))
    store.commit("s", "a", full_rows(["x", "y"]))
    store.commit("s", "b", full_rows(["y", "z"]))
    file = files(store)[which]
    size = file.stat().st_size
    if then == "remove":
        file.unlink()
    else:
        os.truncate(file, 0 if then == "empty" else int(share * size))
        if then == "zeros":
            os.truncate(file, size + 1)
    winners = visible(store)
    damaged = file.stem
    kept = {"a": ["x", "y"], "b": ["y", "z"]}["b" if damaged == "a" else "a"]
    assert set(winners) == set(kept)
