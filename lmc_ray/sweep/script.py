"""The command line of a sweep script, and the sweep behind it from start to table."""

import inspect
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lmc_ray.command import FAILED, INTERRUPTED, run
from lmc_ray.errors import FailedError, UserError
from lmc_ray.home import expanded
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.learners.hyperparameters import BATCHES
from lmc_ray.report import importance_rows, write_report
from lmc_ray.store import Store, check_sweep_name
from lmc_ray.store.files import one_line
from lmc_ray.sweep.analyses import KINDS, SMOKE, Connectivity, check_paths, kinds_of, plan
from lmc_ray.sweep.analyst import run_analyses
from lmc_ray.sweep.cells import configuration
from lmc_ray.sweep.cluster import connect
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.keeping import minima_of, room, tasks_to_keep
from lmc_ray.sweep.place import (
    Opened,
    check_memory_of_workers,
    machine_for,
    noted_for,
    open_place,
    workplace_of,
)
from lmc_ray.sweep.runner import Machine, run_sweep, sweep_name
from lmc_ray.sweep.space import parse
from lmc_ray.sweep.study import Protocol, StudyRun, titles
from lmc_ray.sweep.wishes import (
    DEFAULT_BENCHMARK,
    Wishes,
    as_wished,
    batch_sizes,
    benchmarks_of,
    borrowed,
    check_floor,
    check_memory,
)
from lmc_ray.tables import (
    accuracy_sheets,
    barriers_sheets,
    contrast_sheets,
    overview_sheets,
    pending,
    render,
)

if TYPE_CHECKING:
    import duckdb

Studies = Sequence[Study] | Callable[..., Sequence[Study]]
"""Of a sweep script: the same on every benchmark, or by the benchmark's name; and by `network`, the
user's (None: the benchmark's usual one), where a function has a parameter of that name."""

Measured = Connectivity | Callable[[str], Connectivity]
"""How a script for one benchmark measures kept minima: always alike, or by the benchmark's name."""


@dataclass(frozen=True)
class _Course:
    """One benchmark of a sweep: what is run on it, and how."""

    opened: Opened
    studies: list[Study]
    protocol: Protocol

    def runs(self, stack: int) -> list[StudyRun]:
        """Its studies, checked; see `StudyRun`."""
        return [StudyRun(study, self.protocol, stack) for study in self.studies]


def main(
    studies: Studies,
    *,
    benchmarks: Sequence[str] = (),
    trials: int = 20,
    seeds: int = 5,
    rerank: int = 5,
    keep_minima: str | None = None,
    connectivity: Measured | None = None,
) -> None:
    """Run a sweep script: parse its options, run the studies, print the tables.

    The script's docstring is its help. Exit status: 0 done, 1 done but for what failed again and
    again (for want of memory, say) or for studies none of whose trials came to its end, 2 a mistake
    of the user's (one line on standard error), 130 interrupted.

    Args:
        studies: what to search and confirm; several of a method have labels.
        benchmarks: what the script is for, all in one sweep, where the user says where the images
            are and not which benchmarks; empty: one benchmark, whichever.
        trials: default of --trials.
        seeds: default of --seeds.
        rerank: how many of a study's best trials are ranked again on further seeds; below 2: none.
        keep_minima: default of --keep-minima.
        connectivity: how the kept minima are measured after the training; None: not at all.
    """
    caller = inspect.stack()[1].frame.f_globals
    script, text = Path(caller["__file__"]).stem, caller["__doc__"]
    default_trials, default_seeds, default_keep = trials, seeds, keep_minima
    hide = connectivity is None
    several = bool(benchmarks)
    declared = f"with --data {', '.join(benchmarks)}, else " if several else ""

    def command(
        name: Annotated[
            str | None,
            typer.Option(help="The sweep's name; a sweep of that name goes on where it was."),
        ] = None,
        benchmark: Annotated[
            list[str] | None,
            typer.Option(
                help=f"As `lmc-ray benchmarks` lists them{'; may be repeated' if several else ''}."
                f" [env var: LMC_BENCHMARK; default: {declared}{DEFAULT_BENCHMARK}]"
            ),
        ] = None,
        tasks: Annotated[int | None, typer.Option(help="How many tasks.")] = None,
        trials: Annotated[
            int, typer.Option(help="Search trials of each searched study.")
        ] = default_trials,
        generation: Annotated[int, typer.Option(help="Trials proposed together.")] = 5,
        seeds: Annotated[
            int,
            typer.Option(help="Fresh seeds that confirm each study's best; 0: search only."),
        ] = default_seeds,
        results: Annotated[
            str, typer.Option(envvar="LMC_RESULTS", help="Results root: a folder or a URI.")
        ] = "results",
        data: Annotated[
            str | None,
            typer.Option(envvar="LMC_DATA", help="Folder of the images; else downloaded."),
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", help="NAME=VALUE, NAME=LOW:HIGH[:log] or NAME=A,B,C; or STUDY.NAME=…"
            ),
        ] = None,
        method: Annotated[
            list[str] | None, typer.Option(help="Only this study of the script; may be repeated.")
        ] = None,
        preset: Annotated[
            str | None,
            typer.Option(help="MC-SGD as author, cl-gym, sequel-torch or sequel-jax do it."),
        ] = None,
        pareto: Annotated[
            str | None,
            typer.Option(metavar="accuracy,memory", help="Search the front of the two."),
        ] = None,
        network: Annotated[
            str | None, typer.Option(help="E.g. mlp-256-256, resnet18-20 or stable-resnet-20.")
        ] = None,
        angle: Annotated[
            float | None, typer.Option(help="Degrees from task to task (rotated).")
        ] = None,
        keep_minima: Annotated[
            str | None,
            typer.Option(
                metavar="last|1,2,5|all",
                help="Keep the confirmed seeds' weights after these tasks.",
            ),
        ] = default_keep,
        measure: Annotated[
            list[str] | None,
            typer.Option(help=f"Only this of {', '.join(KINDS)}; may be repeated.", hidden=hide),
        ] = None,
        path: Annotated[
            list[str] | None,
            typer.Option(
                metavar="'sequential:1->multitask:5@1'",
                help="One more path, measured on the tasks after the @ (or all).",
                hidden=hide,
            ),
        ] = None,
        max_concurrent: Annotated[
            int | None, typer.Option(help="Trials at a time; default: all that fit.")
        ] = None,
        gpus_per_trial: Annotated[
            float | None,
            typer.Option(
                help="GPU share of a trial; default, where there are any: 0.25, ResNets 1."
            ),
        ] = None,
        replicas: Annotated[
            int | None,
            typer.Option(
                help="Trials' seeds, or fresh seeds, a stack at most; default 2, on GPUs 32."
            ),
        ] = None,
        confirm_only: Annotated[
            bool,
            typer.Option(
                "--confirm-only",
                help="The tuned configurations that ship; no search but of what --set opens.",
            ),
        ] = False,
        no_paths: Annotated[
            bool,
            typer.Option(
                "--no-paths",
                help="Accuracies alone: MC-SGD without companions, in half the time.",
                hidden=not hide,
            ),
        ] = False,
        asynchronous: Annotated[
            bool, typer.Option("--async", help="Propose from all that is known; not repeatable.")
        ] = False,
        smoke: Annotated[
            bool, typer.Option("--smoke", help="2 tasks, 2 trials, 1 seed: does it all work?")
        ] = False,
    ) -> None:
        if results.startswith("~"):  # from a variable or in quotes: no shell has replaced it
            results = str(expanded(results))
        if pareto not in (None, "accuracy,memory"):
            raise UserError(f"--pareto {pareto}: write --pareto accuracy,memory")
        given = dict(parse(setting) for setting in settings or [])
        if no_paths and connectivity is not None:
            raise UserError(f"{script} is there for the paths: leave --no-paths out")
        wishes = Wishes(
            data=data,
            network=network,
            settings=given,
            preset=preset,
            pareto=pareto is not None,
            confirm_only=confirm_only,
            methods=method,
            paths=not no_paths,
        )
        names = benchmarks_of(benchmark, data, benchmarks)
        how = connectivity(names[0]) if callable(connectivity) else connectivity
        if how:
            how.check()
        how = SMOKE if smoke and how else how
        declared = {each: _studies_on(each, studies, network) for each in names}
        chosen = as_wished(declared, wishes)
        courses: list[_Course] = []
        for each, wished in chosen.items():
            opened = open_place(each, None if smoke else tasks, data, angle, network)
            if smoke and opened.place.tasks > 2:
                opened = open_place(each, 2, data, angle, network)
            # A smoke test has fewer tasks than those that are asked for.
            keep = "all" if smoke and keep_minima else keep_minima
            protocol = Protocol(
                place=opened.place,
                trials=2 if smoke else trials,
                seeds=min(1, seeds) if smoke else seeds,
                generation=generation,
                search_seeds=1 if smoke else 2,
                rerank=0 if smoke or not seeds else rerank,
                pareto=pareto is not None,
                asynchronous=asynchronous,
                keep_minima=tasks_to_keep(keep, opened.place.tasks),
            )
            courses.append(_Course(opened, wished, protocol))
        sources = {each.opened.place.benchmark: each.opened.source for each in courses}
        if len(sources) < len(courses):
            raise UserError(f"--benchmark {' and '.join(chosen)}: two of these have one name")
        sweep = name
        if sweep is None:
            sweep = sweep_name(script, [(each.protocol, each.studies) for each in courses])
        check_sweep_name(sweep)
        store = Store(results)
        blocks = 0
        for course in courses:  # all that can be wrong, before anything is written or started
            checked = course.runs(1 if replicas is None else replicas)
            blocks += sum(each.total_blocks for each in checked)
            for each in checked:
                _check_settled(each)
                if path and each.study.control is None:
                    images = course.opened.benchmark
                    for kept in minima_of(each, images):
                        check_paths(path, kept, images.tasks)
            for study in course.studies:
                check_memory(study, course.opened.benchmark)
                check_floor(study)
        if not blocks:
            raise UserError("nothing to run: --seeds 0 confirms nothing and nothing is searched")
        if max_concurrent is not None and max_concurrent < 1:
            raise UserError(f"--max-concurrent must be at least 1, got {max_concurrent}")
        if gpus_per_trial is not None and not 0 <= gpus_per_trial < inf:
            raise UserError(f"--gpus-per-trial must be at least 0, got {gpus_per_trial:g}")
        kinds = kinds_of(measure)
        if connectivity is None and (measure or path):
            raise UserError(f"{script} measures no kept minima: see sweeps/connectivity.py")
        if path and "path" not in kinds:
            raise UserError(f"--path {path[0]}: add --measure path, or no path is measured")
        workplace = workplace_of(sweep, results, data, sources)
        store.check_writable()

        resources = connect()
        machines: dict[str, Machine] = {}
        for course in courses:
            place, images, _ = course.opened
            noted = noted_for(resources, place.network, batch_sizes(course.studies, "batch_size"))
            machine = machines[place.benchmark] = machine_for(
                resources, place.network, gpus_per_trial, max_concurrent, replicas, noted
            )
            kept = len(course.protocol.keep_minima)
            together = max(run.together for run in course.runs(1))
            largest = batch_sizes(course.studies, *BATCHES)
            check_memory_of_workers(
                resources, place, images, machine, largest, kept=kept, together=together
            )
        console = Console(highlight=False)
        runs: list[StudyRun] = []
        rooms: list[tuple[int, int]] = []
        for course in courses:
            where = course.opened.place.benchmark
            own = course.runs(machines[where].packing.replicas)
            console.out(f"sweep {sweep} on {where}: {_intent(own)}")
            if course.protocol.keep_minima:
                rooms.append(room(own, course.opened.benchmark))
            runs += own
        for line in borrowed(declared, wishes):
            console.out(line)
        if rooms:
            number, size = map(sum, zip(*rooms, strict=True))
            of = " for each point of the front" if pareto else ""
            size_in_mb = f"{size / 1e6:,.1f} MB"
            console.out(f"minima to keep{of}: at most {number}, {size_in_mb} below {results}")
        failed: FailedError | None = None
        whole = False
        with INTERRUPT.deferred():
            try:
                whole = run_sweep(
                    runs,
                    [course.opened.benchmark for course in courses],
                    store,
                    workplace,
                    machines,
                    resources,
                    console,
                    several=several,
                )
                if whole and how is not None:
                    with store.database(sweep) as database:
                        planned = plan(database, sweep, how, kinds, path or ())
                    if not planned.weights:
                        console.out("no seed came to its end: there are no minima to measure")
                    largest = max(machines.values(), key=lambda machine: machine.gpus_per_trial)
                    whole = run_analyses(planned, store, workplace, largest, console)
            except FailedError as problem:  # what has been done is reported all the same
                failed, whole = problem, False
            _report(
                console,
                store,
                sweep,
                results,
                confirms=all(each.protocol.seeds for each in courses),
                measured=connectivity is not None,
                several=several,
            )
        with store.database(sweep) as database:
            for title, chosen in superseded(database, runs):
                console.out(
                    f"{title}: what an earlier start chose (with other --trials, say) and"
                    f" confirmed is in the tables as well; chosen now: {chosen}"
                )
        unconfirmed = _unconfirmed(runs)
        for title in unconfirmed:
            advice = "" if failed else ": change its space"
            print(
                f"{title}: no trial came to its end (see trials), so none is confirmed{advice}",
                file=sys.stderr,
            )
        if failed:
            raise failed
        if not whole:
            print(f"interrupted: the same command goes on (--name {sweep})", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
        if unconfirmed:
            raise typer.Exit(FAILED)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=text)(command)
    run(app, script, sys.argv[1:])


def _studies_on(benchmark: str, studies: Studies, network: str | None) -> Sequence[Study]:
    if not callable(studies):
        return studies
    by_network = "network" in inspect.signature(studies).parameters
    return studies(benchmark, network=network) if by_network else studies(benchmark)


def _check_settled(study: StudyRun) -> None:
    """Without a search, what is confirmed has to be told: no range says which value.

    Raises:
        UserError: the study leaves something open.
    """
    if study.space and not study.trials:
        raise UserError(
            f"{study.study.name} searches {', '.join(study.space)}, and --trials is 0: give one"
            " value each (--set), or take the tuned ones (--confirm-only)"
        )


def _intent(studies: Sequence[StudyRun]) -> str:
    parts = [
        f"{title} ({each.trials} trials)" if each.trials else title
        for title, each in zip(titles(studies), studies, strict=True)
    ]
    return f"{', '.join(parts)}; seeds: {studies[0].protocol.seeds}"


def superseded(
    database: "duckdb.DuckDBPyConnection", studies: Sequence[StudyRun]
) -> list[tuple[str, str]]:
    """Studies that have confirmed something else before, and what they have chosen now."""
    sql = "SELECT benchmark, coalesce(study, method), config FROM runs WHERE purpose = 'confirm'"
    confirmed = database.execute(sql).fetchall()
    found: list[tuple[str, str]] = []
    for title, each in zip(titles(studies), studies, strict=True):
        own = {configuration(json.loads(c)) for *key, c in confirmed if tuple(key) == each.key}
        if each.chosen and not own <= each.chosen_configurations:
            values = [", ".join(f"{n} {v}" for n, v in chosen.items()) for chosen in each.chosen]
            found.append((title, "; ".join(values)))
    return found


def _unconfirmed(studies: Sequence[StudyRun]) -> list[str]:
    """Methods that are in no table: all their trials have diverged, been pruned or failed."""
    return [
        title
        for title, each in zip(titles(studies), studies, strict=True)
        if each.stage == "done" and not each.chosen
    ]


def _report(
    console: Console,
    store: Store,
    sweep: str,
    results: str,
    *,
    confirms: bool,
    measured: bool,
    several: bool,
) -> None:
    with store.database(sweep) as database:
        sheets = accuracy_sheets(database) + overview_sheets(database)
        paths = barriers_sheets(database)
        if measured:
            sheets += paths + contrast_sheets(database)
        # `out`, not `print`: a command to copy must not be broken into lines.
        said = render(sheets, "text") or "\n".join(pending(database))
        console.out(f"\n{said}")
        importances = importance_rows(database)
    try:
        if importances:
            store.commit(sweep, uuid.uuid4().hex, {"importances": importances})
    except OSError as problem:  # the next start writes them
        console.out(f"the table importances is not written: {one_line(problem)}")
    root = quote(results)
    console.out(f"Results:     {results} (sweep {sweep})")
    page = Path("." if "://" in results else results) / f"{sweep}.html"
    try:
        write_report(store, sweep, page)
        console.out(f"Report:      {page}")
    except UserError as problem:  # the results are there all the same
        console.out(f"Report:      none ({problem})")
    if paths:
        console.out(f"Next, paths: .venv/bin/lmc-ray table {root} --what barriers --sweep {sweep}")
    sql = "SELECT study, avg(average_accuracy) FROM runs WHERE purpose = 'confirm' GROUP BY study"
    if not confirms:
        sql = "SELECT study, accuracy, params FROM best_trials WHERE place = 1"
    if several:
        sql = sql.replace("study", "benchmark, study")
    console.out(f'In SQL:      .venv/bin/lmc-ray query {root} --sweep {sweep} "{sql}"')
