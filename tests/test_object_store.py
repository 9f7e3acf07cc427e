"""The results root on S3, against a server in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_store import BUCKET, ObjectStore, object_store
from ray_support import SWEEPS, started, wait_until
from results import accuracies, barrier, measured, path, run, trial
from test_sweep_soak import SLOW

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.store import TABLES, Store

SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("server")) as started_server:
        yield started_server


@pytest.fixture
def here(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server, for this process too."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def commit(store: Store, attempt: str, cell: str) -> None:
    line = barrier(cell, ("connected", 1), ("connected", 2))
    rows = {
        "runs": [run(cell, average_accuracy=0.5, path_points=3)],
        "accuracies": accuracies(cell),
        "paths": path(line, 3),
        "barriers": [line],
        **measured(cell),
        "trials": [trial(int(attempt, 36))],
    }
    store.commit("s", attempt, rows)


def content(store: Store) -> dict[str, list[str]]:
    with store.database() as database:
        return {
            table: sorted(map(repr, database.sql(f"SELECT * FROM {table}").fetchall()))
            for table in TABLES
        }


def lmc_ray(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from lmc_ray.cli import main; main()", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# The store


def test_commit_query_compact_verify(here: ObjectStore):
    store = Store(f"s3://{BUCKET}/whole")
    store.check_writable()
    for attempt, cell in (("b", "x"), ("a", "x"), ("c", "y")):
        commit(store, attempt, cell)
    before = content(store)
    assert {row["attempt"] for row in store.committed("s").values()} == {"a", "c"}
    assert store.verify() == []
    with store.database() as early:
        assert store.compact("s").merged
        assert content(store) == before
        for table in TABLES:
            rows = early.sql(f"SELECT * FROM {table}").fetchall()
            assert sorted(map(repr, rows)) == before[table]
    assert store.verify() == []
    left = [name for name, size in here.objects("whole").items() if size]
    filled = sum(bool(rows) for rows in before.values())
    assert len(left) == filled + 1, "a file a table with rows, and the manifest"
    store.reuse("t", "r", {"y": {}})
    assert set(store.committed("t")) == {"y"}


def test_an_object_takes_one_request(here: ObjectStore):
    """Not the three of a multipart upload, which also leaves parts behind when killed."""
    Store(f"s3://{BUCKET}/single").commit("s", "a", {"trials": [trial(0)]})
    assert here.requests("PUT /lmc-results/single/trials/sweep=s/a.parquet") == 1
    assert here.requests("/lmc-results/single/trials/sweep=s/a.parquet?uploads") == 0


def test_the_server_may_be_named_in_the_uri(here: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    address = here.environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = Store(f"s3://{BUCKET}/named?scheme=http&endpoint_override={address}")
    commit(store, "a", "x")
    assert set(store.committed("s")) == {"x"}
    assert here.objects("named")


@pytest.mark.soak
def test_more_objects_than_one_listing_shows(here: ObjectStore):
    """The rows come after more than a thousand others, which readers pass over."""
    store, folder = Store(f"s3://{BUCKET}/many"), f"{BUCKET}/many/trials/sweep=s"
    filesystem = here.filesystem()

    def put(number: int) -> None:
        with filesystem.open_output_stream(f"{folder}/.{number}.parquet.tmp") as file:
            file.write(b"PAR1")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(1010)))
    for number in range(2):
        store.commit("s", f"a{number}", {"trials": [trial(number)]})
    assert here.requests("continuation-token") == 0
    assert len(content(store)["trials"]) == 2
    assert here.requests("continuation-token") > 0
    assert store.compact("s").before == 2
    assert len(content(store)["trials"]) == 2
    assert (
        len([finding for finding in store.verify() if "never finished" in finding.message]) == 1010
    )


# Commands


def test_every_command(here: ObjectStore):
    root = f"s3://{BUCKET}/commands"
    store = Store(root)
    for attempt, cell in (("a", "x"), ("b", "y")):
        commit(store, attempt, cell)
    before = lmc_ray(here.environment, "table", root)
    assert before.returncode == 0, before.stderr
    assert "MC-SGD" in before.stdout
    compacted = lmc_ray(here.environment, "compact", root, "--sweep", "s")
    assert (compacted.returncode, compacted.stderr) == (0, "")
    assert "merged, 2 cells; 16 → 8 files" in compacted.stdout
    assert lmc_ray(here.environment, "table", root).stdout == before.stdout
    sql = "SELECT count(*) AS n FROM accuracies"
    assert lmc_ray(here.environment, "query", root, sql, "--format", "csv").stdout == "n\n6\n"
    assert "0 defects, 0 note(s)" in lmc_ray(here.environment, "verify", root).stdout


# What cannot be written or reached: one line, status 2, before anything runs


@pytest.mark.parametrize(
    ("change", "bucket", "reason"),
    [
        ({}, "no-such-bucket", "NO_SUCH_BUCKET"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, BUCKET, "SIGNATURE_DOES_NOT_MATCH"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, BUCKET, "INVALID_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, BUCKET, "Could not connect"),
    ],
)
def test_a_root_out_of_reach(
    here: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    bucket: str,
    reason: str,
):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    store = Store(f"s3://{bucket}/nowhere")
    with pytest.raises(UserError, match="cannot write to the results root") as failure:
        store.check_writable()
    message = str(failure.value)
    assert reason in message
    # What may pass by itself: a night is started again then, and not else.
    assert isinstance(failure.value, UnavailableError) == ("connect" in reason)
    assert SECRET not in message
    assert here.secrets[1] not in message
    if bucket == BUCKET:
        with pytest.raises(UserError, match="cannot list"):
            store.sweeps()
    assert not here.objects("nowhere")


def test_a_sweep_fails_before_it_trains(here: ObjectStore, tmp_path: Path):
    root = f"s3://{BUCKET}/untouched"
    wrong = {**here.environment, "AWS_SECRET_ACCESS_KEY": SECRET}
    done = subprocess.run(
        [sys.executable, SWEEPS / "mcsgd.py", "--smoke", "--results", root],
        env={**os.environ, **wrong},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mcsgd: error: cannot write to the results root")
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr
    assert not here.objects("untouched")


# Secrets


@pytest.mark.parametrize(
    "root",
    [
        f"s3://AKIA:{SECRET}@bucket/results",
        f"s3://AKIA:{SECRET.replace('/', '%2F')}@bucket/results",
        f"s3://{SECRET}@bucket/results",
        f"s3://bucket/results?access_key=AKIA&secret_key={SECRET}",
        f"s3://bucket/results?session_token={SECRET}",
        f"abfs://account:{SECRET}@container/results",
        f"gs://user:{SECRET}@bucket/results",
    ],
)
def test_a_root_with_a_secret_in_it_is_refused(root: str):
    with pytest.raises(UserError, match="in the environment instead") as failure:
        Store(root)
    for part in (SECRET, *SECRET.split("/"), "AKIA"):
        assert part not in str(failure.value)


def test_the_command_line_does_not_repeat_a_secret():
    done = lmc_ray({}, "table", f"s3://AKIA:{SECRET}@bucket/results")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "MDENG" not in done.stderr


# Sweeps


def check_no_secret(server: ObjectStore, place: str, folder: Path, *pids: int) -> None:
    """Neither key nor secret in any object, table, log or message, Ray's own included."""
    texts = {name: server.read(name) for name in server.objects(place)}
    with Store(f"s3://{BUCKET}/{place}").database() as database:
        for table in TABLES:
            rows = database.sql(f"SELECT * FROM {table}").fetchall()
            texts[table] = repr(rows).encode()
    sessions = [each for pid in pids for each in Path("/tmp/ray").glob(f"session_*_{pid}")]
    assert len(sessions) >= len(pids)
    for where in (folder, *sessions):
        for file in where.rglob("*"):
            if file.is_file() and not file.is_symlink():
                texts[str(file)] = file.read_bytes()
    assert len(texts) > 20
    for name, text in texts.items():
        for secret in server.secrets:
            assert secret.encode() not in text, f"in {name}"


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_sweeps_to_an_object_store(here: ObjectStore, tmp_path: Path):
    """A search, then minima and all that is measured between them, in one root."""
    root, local = f"s3://{BUCKET}/sweeps", tmp_path / "results"
    sweeps = {"mcsgd": ("--method", "stable-sgd"), "connectivity": ()}
    ends, pids = {}, []
    for script, more in sweeps.items():
        file, options = SWEEPS / f"{script}.py", ("--smoke", "--results", root, "--name", script)
        with started(local, *options, *more, script=file, environment=here.environment) as driver:
            ends[script] = ended = driver.wait()
        assert (ended.status, ended.err) == (0, "")
        assert not local.exists()
        pids.append(driver.process.pid)
    assert "Report:      connectivity" in ends["connectivity"].out
    assert not [name for name, size in here.objects("sweeps/.checkpoints").items() if size]
    before = content(Store(root))
    assert {table for table, rows in before.items() if not rows} == {
        "importances",
        "nights",
        "speeds",
    }
    for command in ("verify", "compact", "verify"):
        done = lmc_ray(here.environment, command, root)
        assert (done.returncode, done.stderr) == (0, "")
    assert content(Store(root)) == before
    for script, ended in ends.items():
        table = lmc_ray(here.environment, "table", root, "--sweep", script)
        assert table.returncode == 0
        assert table.stdout in ended.out
    check_no_secret(here, "sweeps", tmp_path, *pids)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_killed_worker_goes_on_from_its_checkpoint_there(here: ObjectStore, tmp_path: Path):
    root, script = f"s3://{BUCKET}/killed", tmp_path / "slow.py"
    script.write_text(SLOW)
    options = ("--name", "mine", "--tasks", "8", "--network", "mlp-64-64", "--results", root)
    with started(
        tmp_path / "results", *options, script=script, environment=here.environment
    ) as driver:
        wait_until(
            lambda: any(here.objects("killed/.checkpoints").values()), "no checkpoint was written"
        )
        when = time.time()
        workers = driver.workers()
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: set(driver.workers()) - set(workers), "no worker came instead")
        ended = driver.wait()
    assert (ended.status, ended.err) == (0, "")
    with Store(root).database() as database:
        sql = "SELECT DISTINCT epoch(started_at), epoch(finished_at) FROM runs"
        ((began, finished),) = database.sql(sql).fetchall()
        assert began < when < finished, "it was started anew, not resumed"
    assert not [found for found in Store(root).verify() if not found.harmless]
    assert not [name for name, size in here.objects("killed/.checkpoints").items() if size]
