import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from results import barrier, cells, path, run, trial

from lmc_ray.benchmarks import describe
from lmc_ray.store import TABLES, Store


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = str(tmp_path / "results")
    store = Store(root)
    line = barrier("c1", ("connected", 1), ("connected", 2), loss_rise=0.25, connected=True)
    store.commit(
        "first",
        "a",
        {
            **cells("c1", "c2"),
            "runs": [
                run("c1", 1, average_accuracy=0.1, path_points=3),
                run("c2", 2, average_accuracy=0.3, path_points=3),
            ],
            "paths": path(line, 3),
            "barriers": [line],
            "trials": [trial(0, values=[0.5, float("nan")], cells=["x", "y"])],
        },
    )
    store.commit("second", "b", {"trials": [trial(0)]})
    return root


def in_a_pipe(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "from lmc_ray.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


# Help


def test_no_argument_and_help_are_the_same(lmc):
    bare, asked = lmc(), lmc("--help")
    assert bare.out == asked.out
    assert (bare.status, asked.status) == (0, 0)
    for command in ("query", "table", "verify", "benchmarks"):
        assert command in bare.out
        assert lmc(command, "--help").status == 0


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from lmc_ray.cli import main\n"
        "try: main(['table', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'optuna', 'duckdb', 'pyarrow', 'numpy', 'scipy', 'sklearn'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(lmc):
    assert lmc("--version").out.startswith("lmc-ray 0")


# Query


def test_query_as_a_table(root: str, lmc):
    done = lmc("query", root, "SELECT cell_id, average_accuracy FROM runs ORDER BY 1")
    assert done.status == 0
    rows = [line.split("│")[1:3] for line in done.out.splitlines() if "c1" in line or "c2" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["c1", "0.1"], ["c2", "0.3"]]


def test_a_pipe_gets_every_row_and_column_unshortened(root: str):
    done = in_a_pipe("query", root, f"SELECT *, range, repeat('x', 300) FROM runs, range({500})")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.count("x" * 300) == 1000
    assert "…" not in text
    assert b"\x1b" not in done.stdout


def test_differences_of_times_are_seconds(root: str, lmc):
    sql = "SELECT INTERVAL 90 SECOND + INTERVAL 1 DAY AS took, INTERVAL 3 MONTH AS long"
    seconds, months = lmc("query", root, sql, "--format", "csv").out.splitlines()[1].split(",", 1)
    assert float(seconds) == 86_490
    assert "months=3" in months
    (row,) = json.loads(lmc("query", root, sql, "--format", "json").out)
    assert row["took"] == 86_490


@pytest.mark.parametrize(
    "ask",
    [("table",), ("table", "--what", "barriers"), ("report",), ("figures", "-o", "figures")],
)
def test_a_file_that_is_torn_ends_a_table_with_one_line(
    ask: tuple[str, ...], root: str, tmp_path: Path, lmc, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torn = [*Path(root).glob("barriers/*/*.parquet"), *Path(root).glob("accuracies/*/*.parquet")]
    assert torn
    for file in torn:
        file.write_bytes(b"x" * file.stat().st_size)
    command, *options = ask
    status, _, err = lmc(command, root, *options)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "lmc-ray verify ROOT looks at each file" in err


def test_query_as_csv(root: str, lmc):
    sql = "SELECT cell_id, seed, average_accuracy, night, status = 'finished' AS ok FROM runs"
    rows = list(
        csv.reader(lmc("query", root, sql + " ORDER BY 1", "--format", "csv").out.split("\n"))
    )
    assert rows[0] == ["cell_id", "seed", "average_accuracy", "night", "ok"]
    assert rows[1:3] == [["c1", "1", "0.1", "", "true"], ["c2", "2", "0.3", "", "true"]]


def test_query_as_json(root: str, lmc):
    sql = 'SELECT t.number, "values", cells, finished_at, 1.5 AS x FROM trials t, runs LIMIT 1'
    (row,) = json.loads(lmc("query", root, sql, "--format", "json").out)
    assert row == {
        "number": 0,
        "values": [0.5, None],
        "cells": ["x", "y"],
        "finished_at": "2026-11-22T12:00:00+00:00",
        "x": 1.5,
    }


def test_sums_stay_whole_in_json(root: str, lmc):
    """DuckDB adds whole numbers up to 128 bits, which Arrow hands over as decimals."""
    sql = "SELECT sum(9007199254740993::BIGINT) AS whole, 1.50::DECIMAL(3, 2) AS half"
    out = lmc("query", root, sql, "--format", "json").out
    assert out == '[{"whole": 9007199254740993, "half": 1.5}]\n'


def test_query_as_parquet(root: str, tmp_path: Path, lmc):
    file = tmp_path / "out.parquet"
    sql = "SELECT * FROM runs ORDER BY cell_id"
    assert lmc("query", root, sql, "--format", "parquet", "-o", str(file)).out == ""
    rows = pq.read_table(file)
    assert rows.schema.names == TABLES["runs"].schema.names
    assert rows["average_accuracy"].to_pylist() == [0.1, 0.3]
    piped = in_a_pipe("query", root, sql, "--format", "parquet")
    assert piped.stdout == file.read_bytes()


def test_no_rows_in_every_format(root: str, tmp_path: Path, lmc):
    sql = "SELECT cell_id, seed FROM runs WHERE seed = 99"
    assert lmc("query", root, sql, "--format", "csv").out == "cell_id,seed\n"
    assert json.loads(lmc("query", root, sql, "--format", "json").out) == []
    assert lmc("query", root, sql, "--format", "table").status == 0
    file = tmp_path / "out.parquet"
    lmc("query", root, sql, "--format", "parquet", "-o", str(file))
    assert pq.read_table(file).num_rows == 0


def test_two_columns_of_one_name_keep_apart(root: str, lmc):
    sql = "SELECT a.seed, b.seed FROM runs a, runs b WHERE a.seed = 1 AND b.seed = 2"
    assert json.loads(lmc("query", root, sql, "--format", "json").out) == [{"seed": 1, "seed_1": 2}]


def test_query_into_a_file(root: str, tmp_path: Path, lmc):
    file = tmp_path / "out.csv"
    lmc("query", root, "SELECT 1 AS one", "--format", "csv", "-o", str(file))
    assert file.read_text() == "one\n1\n"
    done = lmc("query", root, "SELECT 1", "-o", str(tmp_path / "no" / "folder"))
    assert (done.status, done.err.count("\n")) == (2, 1)


def test_one_sweep_of_several(root: str, lmc):
    sql = "SELECT count(*) AS n FROM trials"
    assert lmc("query", root, sql, "--format", "csv").out == "n\n2\n"
    assert lmc("query", root, sql, "--format", "csv", "--sweep", "second").out == "n\n1\n"


def test_views(root: str, lmc):
    text = lmc("query", root, "--views").out
    for name, table in TABLES.items():
        assert f"{name}: {table.meaning}" in text
        for column in table.schema.names:
            assert f"    {column} " in text


# Table


def test_table(root: str, lmc):
    done = lmc("table", root)
    assert done.status == 0
    assert "MC-SGD" in done.out
    assert "20.0 ± 14.14" in done.out
    assert "sweep second: no confirmed seed yet" in done.out
    assert "second" not in lmc("table", root, "--sweep", "first").out


def test_table_of_barriers(root: str, lmc):
    done = lmc("table", root, "--what", "barriers")
    assert "connected 1 → connected 2" in done.out
    assert "0.25" in done.out


def test_table_for_documents(root: str, tmp_path: Path, lmc):
    assert lmc("table", root, "--format", "markdown").out.startswith("**rotated-digits, 2 tasks")
    file = tmp_path / "table.tex"
    lmc("table", root, "--format", "latex", "-o", str(file))
    assert "\\end{tabular}" in file.read_text()


def test_table_without_anything_confirmed(root: str, lmc):
    done = lmc("table", root, "--sweep", "second")
    assert (done.status, done.out) == (
        0,
        "sweep second: no confirmed seed yet (cells 0, trials 1)\n",
    )


def test_a_terminal_that_knows_ascii_only(root: str):
    done = in_a_pipe("table", root, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"MC-SGD" in done.stdout


def test_a_reader_that_has_seen_enough(root: str):
    code = "from lmc_ray.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "query", root, "SELECT * FROM range(200000)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""


# Verify


def test_verify_of_a_sound_root(root: str, lmc):
    done = lmc("verify", root)
    assert done.status == 0
    assert "0 defects" in done.out


def test_verify_names_file_and_cell(root: str, lmc):
    file = Path(root) / "accuracies" / "sweep=first" / "a.parquet"
    os.truncate(file, 100)
    done = lmc("verify", root)
    assert done.status == 1
    assert f"DEFECT: {file} (cells c1, c2): " in done.out
    assert "left out: the file of accuracies" in done.out


def test_verify_calls_a_stopped_attempt_harmless(root: str, lmc):
    (Path(root) / "runs" / "sweep=first" / "a.parquet").unlink()
    done = lmc("verify", root)
    assert done.status == 0
    assert "note: " in done.out
    assert "0 defects, 3 note(s)" in done.out


# Benchmarks


def test_benchmarks(lmc):
    done = lmc("benchmarks")
    assert done.status == 0
    for info in describe():
        assert info.name in done.out
    assert max(map(len, done.out.splitlines())) <= 100


# Bad input: one line, status 2, no traceback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "ROOT", "SELCT 1"), 'syntax error at or near "SELCT"'),
        (("query", "ROOT", "SELECT * FROM run"), "The tables are runs, accuracies"),
        (("query", "ROOT", "SELECT acuracy FROM accuracies"), "accuracy"),
        (("query", "ROOT", "SELECT 'a'::INT"), "Could not convert"),
        (("query", "ROOT", "COPY runs TO 'x.csv'"), "the SQL does not work"),
        (("query", "ROOT", "SELECT * FROM 'x.csv'"), "the SQL does not work"),
        (("query", "ROOT", ""), "returns no rows"),
        (("query", "ROOT", "DELETE FROM runs"), "the SQL does not work"),
        (("query", "ROOT"), "no SQL given"),
        (("query", "ROOT", "SELECT 'infinity'::DATE", "--format", "csv"), "csv has no place"),
        (("query", "ROOT", "SELECT INTERVAL 1 DAY", "--format", "parquet"), "my_column::VARCHAR"),
        (("query", "ROOT", "SELECT 1", "--format", "jsn"), "'jsn' is not one of 'table', 'csv'"),
        (("query", "ROOT", "SELECT 1", "--sweep", "frist"), "did you mean 'first'"),
        (("query",), "Missing argument 'ROOT'"),
        (("table", "ROOT", "--what", "speed"), "'speed' is not one of 'accuracy', 'barriers'"),
        (("table", "ROOT", "--colour", "red"), "No such option: --colour"),
        (("table", "EMPTY"), "no results in"),
        (("table", "~results"), "nobody's home is ~results"),
        (("table", "s3://"), "names no bucket"),
        (("query", "EMPTY", "SELECT 1"), "no results in"),
        (("verify", "EMPTY"), "no results in"),
        (("table", "FILE"), "FILE: give the folder that a sweep printed"),
        (("table", "nosuch://place"), "cannot open the results root"),
        (("tabel", "ROOT"), "Did you mean 'table'?"),
    ],
)
def test_bad_input(root: str, tmp_path: Path, lmc, arguments: tuple[str, ...], message: str):
    (tmp_path / "FILE").write_text("not a folder")
    places = {"ROOT": root, "EMPTY": str(tmp_path / "nothing"), "FILE": str(tmp_path / "FILE")}
    done = lmc(*(places.get(argument, argument) for argument in arguments))
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("lmc-ray: error: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert not Path(places["EMPTY"]).exists()


def test_results_of_a_newer_version(root: str, lmc):
    file = Path(root) / "runs" / "sweep=first" / "a.parquet"
    rows = pq.ParquetFile(file).read()
    newer = {**rows.schema.metadata, b"lmc_ray.schema_version": b"99"}
    pq.write_table(rows.replace_schema_metadata(newer), file)
    for command in (("table", root), ("query", root, "SELECT 1")):
        done = lmc(*command)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "upgrade lmc-ray" in done.err
    assert lmc("verify", root).status == 1


# Compare


def test_compare_exits_with_3_where_the_method_is_worse(lmc, tmp_path: Path) -> None:
    store, root = Store(str(tmp_path / "results")), str(tmp_path / "results")
    for method, better in (("mcsgd", 0.1), ("er", 0.0)):
        rows = [
            run(f"{method}{seed}", seed, method=method, average_accuracy=0.5 + seed / 100 + better)
            for seed in range(6)
        ]
        store.commit("first", method, {"runs": rows})
    holds = lmc("compare", root, "--method", "mcsgd", "--baseline", "er")
    assert (holds.status, holds.err) == (0, "")
    assert "better" in holds.out
    worse = lmc("compare", root, "--method", "er", "--baseline", "mcsgd", "--format", "markdown")
    assert worse.status == 3
    assert "| worse |" in worse.out
    unknown = lmc("compare", root, "--method", "err", "--baseline", "mcsgd")
    assert (unknown.status, unknown.out) == (2, "")
    assert "did you mean 'er'" in unknown.err
