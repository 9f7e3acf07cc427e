"""The command line of the nightly script, and the night behind it from ledger to verdict."""

import datetime as dt
import inspect
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer
from pyarrow.fs import LocalFileSystem
from rich.console import Console

from lmc_ray.command import run
from lmc_ray.errors import FailedError, UnavailableError, UserError, unknown
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.learners.hyperparameters import batches_of
from lmc_ray.store import Store, check_sweep_name
from lmc_ray.store.files import open_root
from lmc_ray.store.presence import check_flag
from lmc_ray.sweep.backoff import until_written
from lmc_ray.sweep.cluster import connect
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.night import ANCHOR_SEEDS, History, NightRun, Rule
from lmc_ray.sweep.pinned import Pinned, confirmed_best, read_pinned
from lmc_ray.sweep.place import check_memory_of_workers, machine_for, workplace_of
from lmc_ray.sweep.runner import run_sweep
from lmc_ray.sweep.study import SEARCH_SEEDS_FROM
from lmc_ray.sweep.wishes import check_floor, check_memory
from lmc_ray.tables import night_sheet, render

REGRESSED = 3
INCOMPLETE = 4


def main(
    *,
    seeds_per_night: int = 5,
    window: int = 14,
    minimum_effect: float = 1.0,
    false_alarms: float = 0.01,
) -> None:
    """Run the nightly script: parse its options, run tonight's cells, print the verdict.

    The script's docstring is its help. Exit status: 0 fine, 2 a mistake of the user's (one line on
    standard error), 3 regressed, 4 incomplete (whatever has regressed so far) or not possible now:
    the same command goes on.

    Args:
        seeds_per_night: default of --seeds-per-night.
        window: default of --window.
        minimum_effect: default of --minimum-effect.
        false_alarms: default of --false-alarms.
    """
    caller = inspect.stack()[1].frame.f_globals
    script, text = Path(caller["__file__"]).stem, caller["__doc__"]
    default_seeds, default_window = seeds_per_night, window
    default_effect, default_alarms = minimum_effect, false_alarms

    def command(
        sweep: Annotated[
            str,
            typer.Option(help="What it has confirmed runs; the nights are sweep NAME-nightly."),
        ],
        results: Annotated[
            str, typer.Option(envvar="LMC_RESULTS", help="Results root: a folder or a URI.")
        ] = "results",
        seeds_per_night: Annotated[
            int, typer.Option(help="Fresh seeds of each configuration.")
        ] = default_seeds,
        night: Annotated[
            str | None, typer.Option(metavar="DATE", help="Default: today's UTC date.")
        ] = None,
        pinned: Annotated[
            Path | None,
            typer.Option(help="TOML or JSON file of the configurations to run instead."),
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(envvar="LMC_DATA", help="Folder of the images; else downloaded."),
        ] = None,
        window: Annotated[
            int, typer.Option(help="Earlier nights to compare with, at most.")
        ] = default_window,
        since: Annotated[
            str | None,
            typer.Option(
                metavar="DATE", help="Compare with nights from this one on: accepts what changed."
            ),
        ] = None,
        minimum_effect: Annotated[
            float, typer.Option(help="Points of accuracy; a drop of as much is none.")
        ] = default_effect,
        false_alarms: Annotated[
            float, typer.Option(help="Rate of them per night.")
        ] = default_alarms,
        max_concurrent: Annotated[
            int | None, typer.Option(help="Blocks at a time; default: all that fit.")
        ] = None,
        gpus_per_trial: Annotated[
            float | None,
            typer.Option(
                help="GPU share of a block; default, where there are any: 0.25, ResNets 1."
            ),
        ] = None,
        replicas: Annotated[
            int | None, typer.Option(help="Fresh seeds a stack; default 2, on GPUs 32.")
        ] = None,
    ) -> None:
        for option, value, least in (
            ("seeds-per-night", seeds_per_night, 1),
            ("window", window, 1),
            ("max-concurrent", max_concurrent, 1),
            ("replicas", replicas, 1),
            ("gpus-per-trial", gpus_per_trial, 0),
        ):
            if value is not None and not least <= value < inf:
                raise UserError(f"--{option} must be at least {least}, got {value:g}")
        if seeds_per_night > SEARCH_SEEDS_FROM:
            raise UserError(
                f"--seeds-per-night must be at most {SEARCH_SEEDS_FROM}, got {seeds_per_night}"
            )
        if not 0 < false_alarms < 1:
            raise UserError(f"--false-alarms must be in (0, 1), got {false_alarms:g}")
        if not 0 <= minimum_effect < 100:
            raise UserError(f"--minimum-effect must be in [0, 100), got {minimum_effect:g}")
        start = None if since is None else _date("since", since)
        rule = Rule(false_alarms, minimum_effect / 100, window, start)
        tonight = _tonight(night)
        if rule.since is not None and rule.since > tonight:
            raise UserError(
                f"--since {since} is after this night, {tonight}: nothing would be compared"
            )
        nightly = check_sweep_name(f"{sweep}-nightly")
        store = Store(results)
        chosen = _configurations(store, sweep, pinned, data)
        for each in chosen:
            values = asdict(each.hyperparameters)
            study = Study(method=each.method, space=values)
            check_memory(study, each.benchmark)
            check_floor(study)
        history = _history(store, sweep, nightly)
        _check_clock(history, nightly, tonight)
        judged = {(row["method"], row["benchmark"]): row for row in history.judged(tonight)}
        missing = [each for each in chosen if each.key not in judged]
        console = Console(highlight=False)
        problems: list[str] = []
        if missing:
            workplace = workplace_of(nightly, results, data, {})
            store.check_writable()
            resources = connect()
            machines = {
                each.key: machine_for(
                    resources, each.place.network, gpus_per_trial, max_concurrent, replicas
                )
                for each in missing
            }
            for each in missing:
                check_memory_of_workers(
                    resources,
                    each.place,
                    each.benchmark,
                    machines[each.key],
                    batches_of(each.hyperparameters),
                    together=len(ANCHOR_SEEDS),
                )
            fresh = history.fresh_seeds(tonight, seeds_per_night)
            runs = [
                NightRun(each, tonight, fresh, machines[each.key].packing.replicas)
                for each in missing
            ]
            console.out(_intent(nightly, tonight, runs))
            with INTERRUPT.deferred():
                for group in _by_benchmark(runs):
                    place = group[0].pinned
                    sources = {place.place.benchmark: place.source}
                    try:
                        whole = run_sweep(
                            group,
                            [place.benchmark],
                            store,
                            replace(workplace, sources=sources),
                            {place.place.benchmark: machines[place.key]},
                            resources,
                            console,
                        )
                    except FailedError as problem:  # the other benchmarks still have their night
                        problems.append(" ".join(str(problem).split()))
                        continue
                    if not whole:
                        problems.append("interrupted")
                        break
                history = _history(store, sweep, nightly)
                ended = [each for each in runs if history.whole(each)]
                rows = [history.row(each, rule, 2 * len(chosen)) for each in ended]
                if rows:
                    attempt = uuid.uuid4().hex
                    until_written(
                        lambda: store.commit(nightly, attempt, {"nights": rows}),
                        store.root,
                        nightly,
                        workplace.patience,
                    )
                history = _history(store, sweep, nightly)
        else:
            console.out(f"night {tonight} of {nightly}: done already")
        for each in chosen:
            if each.key in judged and judged[each.key]["configuration"] != each.configuration:
                console.out(
                    f"{' on '.join(each.key)}: with another configuration than now; this one runs"
                    " from the next night on"
                )
        rows = history.judged(tonight)
        last = {each.key: history.before(each, tonight, rule).last for each in chosen}
        if rows:
            console.out(f"\n{render([night_sheet(rows, last)], 'text')}", end="")
        for problem in problems:
            print(f"incomplete: {problem}: the same command goes on", file=sys.stderr)
        if problems:  # first: no scheduler starts a night again that has only regressed
            raise typer.Exit(INCOMPLETE)
        if any(row["verdict"] == "regressed" for row in rows):
            raise typer.Exit(REGRESSED)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=text)(command)
    run(app, script, sys.argv[1:], unavailable=INCOMPLETE)


def _tonight(night: str | None) -> str:
    """The night's name.

    Raises:
        UserError: it is no date, or has not come yet: all nights until then would be refused.
    """
    today = _today()
    if night is None:
        return today
    if _date("night", night) > today:
        raise UserError(f"--night {night} has not come yet: today is {today} (UTC)")
    return night


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def _date(option: str, text: str) -> str:
    try:
        if dt.date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise UserError(f"--{option} {text}: write a date as 2026-11-24")


def _configurations(
    store: Store, sweep: str, pinned: Path | None, data: str | None
) -> list[Pinned]:
    """What runs tonight.

    Raises:
        UserError: nothing is confirmed, or the file of pinned configurations does not fit.
        UnavailableError: a local root holds nothing at all, or images cannot be downloaded now.
    """
    if pinned is not None:
        return read_pinned(pinned, data)
    known = store.sweeps()
    if not known:
        advice = (
            "give the root of a sweep that has confirmed its best, or write down with --pinned"
            " what to run"
        )
        if _may_be_mounted_later(store.root):
            raise UnavailableError(
                f"no results in {store.root}: its file system may not be mounted yet; else {advice}"
            )
        raise UserError(f"no results in {store.root}: {advice}")
    if sweep not in known:
        raise unknown("sweep", sweep, known)
    with store.database(sweep) as database:
        return confirmed_best(database, sweep, data)


def _may_be_mounted_later(root: str) -> bool:
    """Whether a root is on this machine, and without the flag that a sweep plants there."""
    if not isinstance(open_root(root)[0], LocalFileSystem):
        return False
    try:
        check_flag(root)
    except FileNotFoundError:
        return True
    return False


def _check_clock(history: History, nightly: str, tonight: str) -> None:
    """Nights go forward only: seeds and comparisons hang on what came before.

    Nights to come, of a clock that was ahead, are left out: no night is compared with a later one.

    Raises:
        UserError: there is a later night.
    """
    rows = (*history.nights, *history.cells.values())
    nights = sorted({row["night"] for row in rows if row["night"]})
    today = _today()
    newest = max((night for night in nights if night <= today), default=tonight)
    if tonight < newest:
        raise UserError(
            f"night {tonight} is before the newest one of {nightly}, {newest}: set the clock"
            f" right, or finish that night with --night {newest}"
        )
    if ahead := [night for night in nights if night > today]:
        print(
            f"left out, for today is {today} (UTC) and a clock was ahead: {nightly} of"
            f" {', '.join(ahead)}",
            file=sys.stderr,
        )


def _history(store: Store, sweep: str, nightly: str) -> History:
    with store.database() as database:
        return History(database, sweep, nightly)


def _by_benchmark(runs: Sequence[NightRun]) -> list[list[NightRun]]:
    groups: dict[object, list[NightRun]] = {}
    for each in runs:
        groups.setdefault((each.pinned.place, each.pinned.source), []).append(each)
    return list(groups.values())


def _intent(nightly: str, night: str, runs: Sequence[NightRun]) -> str:
    seeds = [cell.seed for cell in runs[0].fresh]
    anchors = [cell.seed for cell in runs[0].anchors]
    return (
        f"night {night} of {nightly}: {len(runs)} configuration{'s' * (len(runs) != 1)};"
        f" fresh seeds {seeds[0]} to {seeds[-1]}, anchors {anchors[0]} to {anchors[-1]}"
    )
