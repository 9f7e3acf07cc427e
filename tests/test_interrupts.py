"""Ctrl-C counts wherever it comes, whatever becomes of the KeyboardInterrupt."""

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import typer
from rich.console import Console

from lmc_ray.command import INTERRUPTED, run
from lmc_ray.errors import UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store import Store
from lmc_ray.sweep import Study, runner
from lmc_ray.sweep.analyses import Plan
from lmc_ray.sweep.analyst import run_analyses
from lmc_ray.sweep.backoff import Backoff
from lmc_ray.sweep.cluster import Resources
from lmc_ray.sweep.conductor import Conductor
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.place import open_place
from lmc_ray.sweep.runner import Machine, run_sweep
from lmc_ray.sweep.study import Protocol, StudyRun
from lmc_ray.sweep.trainable import Workplace


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """A shell has its background commands ignore Ctrl-C, and this test run may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def swallowed() -> None:
    """As DuckDB does while it loads: the sweep ran whole and ended with status 0."""
    with suppress(KeyboardInterrupt):
        ctrl_c()


def deferred() -> None:
    with INTERRUPT.deferred():
        ctrl_c()


def deferred_after_one_was_swallowed() -> None:
    swallowed()
    with INTERRUPT.deferred():
        pytest.fail("it goes on")


def deferred_twice() -> None:
    with INTERRUPT.deferred():
        ctrl_c()
        ctrl_c()
        pytest.fail("the second one is not raised")


class Interrupted(ds.InMemoryDataset):
    def scanner(self, *words: Any, **options: Any) -> ds.Scanner:
        ctrl_c()
        return super().scanner(*words, **options)


def in_a_query() -> None:
    """DuckDB makes an error of its own of it."""
    with duckdb.connect() as database:
        database.register("rows", Interrupted(pa.table({"a": [1]})))
        with pytest.raises(duckdb.Error) as problem:
            database.execute("SELECT * FROM rows")
    raise problem.value


def made_a_mistake_of_the_user() -> None:
    with suppress(KeyboardInterrupt):
        ctrl_c()
    raise UserError("a file cannot be read")


def status(work: Callable[[], Any]) -> int:
    app = typer.Typer()
    app.command()(work)
    with pytest.raises(SystemExit) as ended:
        run(app, "test", [])
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    "work",
    [
        ctrl_c,
        swallowed,
        deferred,
        deferred_after_one_was_swallowed,
        deferred_twice,
        in_a_query,
        made_a_mistake_of_the_user,
    ],
)
def test_every_ctrl_c_is_in_the_status(
    work: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert status(work) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_an_error_of_its_own_is_not_hidden_by_a_deferred_one() -> None:
    def defect() -> None:
        deferred()
        raise ValueError("ours")

    app = typer.Typer()
    app.command()(defect)
    with pytest.raises(ValueError, match="ours"):
        run(app, "test", [])


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    """As what a shell without job control starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert status(ctrl_c) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_during_the_start_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune never gets to run."""
    monkeypatch.setenv("LMC_LOGS", str(tmp_path / "logs"))
    start = Conductor.start

    def interrupted_start(self: Conductor) -> None:
        ctrl_c()
        start(self)

    monkeypatch.setattr(Conductor, "start", interrupted_start)
    monkeypatch.setattr(runner, "_tune", lambda *_: pytest.fail("it goes on"))
    place, benchmark, _ = open_place("rotated-digits", 2, None, None, "mlp-8-8")
    study = Study(method="naive-sgd", pinned=True, space={"batch_size": 64, "epochs": 1})
    studies = [StudyRun(study, Protocol(place=place, trials=0, seeds=1), 1)]
    store = Store(str(tmp_path / "results"))
    where = Workplace("mine", store.root, None, {"rotated-digits": "rotated-digits"})
    with INTERRUPT.watched(), INTERRUPT.deferred():
        whole = run_sweep(
            studies,
            [benchmark],
            store,
            where,
            {"rotated-digits": Machine(0.0, 1, Packing(1))},
            Resources(1, 0.0, 1),
            Console(quiet=True),
        )
    assert not whole
    assert "mine interrupted" in (tmp_path / "logs" / "mine.log").read_text()


def test_one_between_the_sweep_and_its_analyses(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "results"))
    where = Workplace("mine", store.root, None, {"rotated-digits": "rotated-digits"})
    analysis: Any = type("Waiting", (), {"id": "a1"})
    with INTERRUPT.watched(), INTERRUPT.deferred():
        ctrl_c()
        planned = Plan([analysis], {})
        assert not run_analyses(
            planned, store, where, Machine(0.0, 1, Packing(1)), Console(quiet=True)
        )


def test_one_while_the_results_root_is_away() -> None:
    with INTERRUPT.watched(), INTERRUPT.deferred():
        ctrl_c()
        assert not Backoff(600.0).wait()
