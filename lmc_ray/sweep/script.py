"""The command line of a sweep script, and the sweep behind it from start to table."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console

from lmc_ray.benchmarks import Benchmark, defaults, load
from lmc_ray.command import INTERRUPTED, run
from lmc_ray.errors import UserError, unknown
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.learners import METHODS
from lmc_ray.learners.presets import preset as preset_values
from lmc_ray.models import build
from lmc_ray.report import write_report
from lmc_ray.store import Store, check_sweep_name
from lmc_ray.sweep.analyses import KINDS, SMOKE, Connectivity, check_paths, kinds_of, plan
from lmc_ray.sweep.analyst import run_analyses
from lmc_ray.sweep.cells import Place
from lmc_ray.sweep.cluster import Resources, connect
from lmc_ray.sweep.keeping import room, tasks_to_keep
from lmc_ray.sweep.runner import Machine, run_sweep, sweep_name
from lmc_ray.sweep.space import Range, parse
from lmc_ray.sweep.study import Protocol, Study, StudyRun, check_methods
from lmc_ray.sweep.trainable import Workplace
from lmc_ray.sweep.tuned import tuned
from lmc_ray.tables import accuracy_sheets, barriers_sheets, contrast_sheets, render

DEFAULT_BENCHMARK = "rotated-digits"
PARETO_MEMORY = Range(1, 10)
"""What a Pareto search tries for memory_per_class, unless the script or --set gives a range."""


@dataclass(frozen=True)
class _Wishes:
    """What the command line says about the studies."""

    benchmark: str
    data: str | None
    settings: dict[str, Any]
    preset: str | None
    pareto: bool
    confirm_only: bool


def main(
    studies: Sequence[Study],
    *,
    trials: int = 20,
    seeds: int = 5,
    keep_minima: str | None = None,
    connectivity: Connectivity | None = None,
) -> None:
    """Run a sweep script: parse its options, run the studies, print the tables.

    The script's docstring is its help. Exit status: 0 done, 2 a mistake of the user's (one line on
    standard error), 130 interrupted.

    Args:
        studies: what to search and confirm, one a method.
        trials: default of --trials.
        seeds: default of --seeds.
        keep_minima: default of --keep-minima.
        connectivity: how the kept minima are measured after the training; None: not at all.
    """
    caller = inspect.stack()[1].frame.f_globals
    script, text = Path(caller["__file__"]).stem, caller["__doc__"]
    default_trials, default_seeds, default_keep = trials, seeds, keep_minima
    hide = connectivity is None

    def command(
        name: Annotated[
            str | None,
            typer.Option(help="The sweep's name; a sweep of that name goes on where it was."),
        ] = None,
        benchmark: Annotated[
            str, typer.Option(envvar="LMC_BENCHMARK", help="As `lmc-ray benchmarks` lists them.")
        ] = DEFAULT_BENCHMARK,
        tasks: Annotated[int | None, typer.Option(help="How many tasks.")] = None,
        trials: Annotated[
            int, typer.Option(help="Search trials for each searched method.")
        ] = default_trials,
        seeds: Annotated[
            int, typer.Option(help="Fresh seeds that confirm each method's best.")
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
                "--set", help="NAME=VALUE, NAME=LOW:HIGH[:log] or NAME=A,B,C; or METHOD.NAME=…"
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
            str | None, typer.Option(help="E.g. mlp-256-256 or resnet18-20.")
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
                help="GPU share of a trial; default, where there are any: 0.25, resnet18 1."
            ),
        ] = None,
        replicas: Annotated[
            int | None, typer.Option(help="Confirmation seeds a stack; default 2, on GPUs 32.")
        ] = None,
        confirm_only: Annotated[
            bool,
            typer.Option("--confirm-only", help="No search: the tuned configurations that ship."),
        ] = False,
        asynchronous: Annotated[
            bool, typer.Option("--async", help="Propose from all that is known; not repeatable.")
        ] = False,
        smoke: Annotated[
            bool, typer.Option("--smoke", help="2 tasks, 2 trials, 1 seed: does it all work?")
        ] = False,
    ) -> None:
        if results.startswith("~"):  # from a variable or in quotes: no shell has replaced it
            results = str(Path(results).expanduser())
        if pareto not in (None, "accuracy,memory"):
            raise UserError(f"--pareto {pareto}: write --pareto accuracy,memory")
        given = dict(parse(setting) for setting in settings or [])
        wishes = _Wishes(benchmark, data, given, preset, pareto is not None, confirm_only)
        chosen = _only(_adjusted(studies, wishes), method)
        place, opened = open_place(benchmark, 2 if smoke else tasks, data, angle, network)
        protocol = Protocol(
            place=place,
            trials=2 if smoke else trials,
            seeds=1 if smoke else seeds,
            search_seeds=1 if smoke else 2,
            rerank=0 if smoke else 5,
            pareto=pareto is not None,
            asynchronous=asynchronous,
            # A smoke test has fewer tasks than those that are asked for.
            keep_minima=tasks_to_keep("all" if smoke and keep_minima else keep_minima, place.tasks),
        )
        if connectivity is not None:
            check_paths(path or (), protocol.keep_minima, place.tasks)
        sweep = name
        if sweep is None:
            sweep = sweep_name(script, place.benchmark, chosen, protocol)
        check_sweep_name(sweep)
        store = Store(results)
        for study in chosen:  # all that can be wrong, before anything is written or started
            StudyRun(study, protocol, 1 if replicas is None else replicas)
            _check_memory(study, opened)
        if max_concurrent is not None and max_concurrent < 1:
            raise UserError(f"--max-concurrent must be at least 1, got {max_concurrent}")
        if gpus_per_trial is not None and not 0 <= gpus_per_trial < inf:
            raise UserError(f"--gpus-per-trial must be at least 0, got {gpus_per_trial:g}")
        kinds = kinds_of(measure)
        if connectivity is None and (measure or path):
            raise UserError(f"{script} measures no kept minima: see sweeps/connectivity.py")
        store.check_writable()

        resources = connect()
        machine = machine_for(resources, place.network, gpus_per_trial, max_concurrent)
        stack = replicas or (32 if machine.gpus_per_trial else 2)
        runs = [StudyRun(study, protocol, stack) for study in chosen]
        console = Console(highlight=False)
        console.out(f"sweep {sweep} on {place.benchmark}: {_intent(runs)}")
        if protocol.keep_minima:
            number, size = room(runs, opened)
            console.out(f"minima to keep: at most {number}, {size / 1e6:,.1f} MB below {results}")
        workplace = Workplace(
            sweep=sweep,
            results=results if "://" in results else str(Path(results).resolve()),
            data=str(Path(data).expanduser().resolve()) if data else None,
            source=from_anywhere(benchmark),
        )
        with INTERRUPT.deferred():
            whole = run_sweep(runs, opened, store, workplace, machine, resources, console)
            if whole and connectivity is not None:
                how = SMOKE if smoke else connectivity
                with store.database(sweep) as database:
                    planned = plan(database, sweep, how, kinds, path or ())
                whole = run_analyses(planned, store, workplace, machine, console)
            _report(console, store, sweep, results, measured=connectivity is not None)
        for title in _unconfirmed(runs):
            print(
                f"{title}: no trial came to its end (see trials), so none is confirmed: "
                "change its space",
                file=sys.stderr,
            )
        if not whole:
            print(f"interrupted: the same command goes on (--name {sweep})", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=text)(command)
    run(app, script, sys.argv[1:])


def _only(studies: Sequence[Study], methods: list[str] | None) -> list[Study]:
    """The studies of these methods; None for all."""
    names = [study.method for study in studies]
    for method in methods or ():
        if method not in names:
            raise unknown("study", method, names)
    return [study for study in studies if methods is None or study.method in methods]


def _adjusted(studies: Sequence[Study], wishes: _Wishes) -> list[Study]:
    """The script's studies as the command line wants them; a setting goes where its name fits."""
    check_methods(studies)
    if wishes.preset:  # refused by name even where the script has no MC-SGD to set
        preset_values(wishes.preset, "rotated")
    epochs = defaults(wishes.benchmark, data=wishes.data).epochs
    family = wishes.benchmark.partition("-")[0]
    fields = {s.method: METHODS[s.method].hyperparameters.__dataclass_fields__ for s in studies}
    known = {name for each in fields.values() for name in each}
    for setting in wishes.settings:
        method, dot, name = setting.rpartition(".")
        if dot and method not in fields:
            raise unknown("study", method, fields)
        if name not in (fields[method] if dot else known):
            raise unknown("hyperparameter", name, fields[method] if dot else known)
    adjusted: list[Study] = []
    for study in sorted(studies, key=lambda study: study.control is not None):
        space: dict[str, Any] = {"epochs": epochs, **_space(study, wishes, adjusted)}
        if not study.pinned:
            if wishes.preset and study.method == "mcsgd":
                given = wishes.settings
                often = given.get("mcsgd.epochs", given.get("epochs", epochs))
                values = preset_values(wishes.preset, family)
                if "first_task_epochs" in values and isinstance(often, int):
                    values["first_task_epochs"] *= often  # the authors' two stand beside one a task
                space |= values
            if wishes.pareto and study.method == "mcsgd":
                space["memory_per_class"] = _searched(space.get("memory_per_class"), PARETO_MEMORY)
            own = fields[study.method]
            space |= {name: value for name, value in wishes.settings.items() if name in own}
        space |= {  # what names the method outweighs what does not
            name.removeprefix(f"{study.method}."): value
            for name, value in wishes.settings.items()
            if name.startswith(f"{study.method}.")
        }
        adjusted.append(replace(study, space=space))
    return sorted(adjusted, key=lambda each: list(fields).index(each.method))


def _space(study: Study, wishes: _Wishes, others: Sequence[Study]) -> dict[str, Any]:
    """A study's space before the command line's settings.

    Raises:
        UserError: --confirm-only where the package ships no configuration.
    """
    if study.control is not None:
        like = next(other for other in others if other.method == study.control)
        own = METHODS[study.method].hyperparameters.__dataclass_fields__
        return {name: value for name, value in like.space.items() if name in own} | {**study.space}
    if (study.tuned or wishes.confirm_only) and not study.pinned:
        found = tuned(wishes.benchmark, study.method)
        if found is not None:
            return found
        if wishes.confirm_only:
            raise UserError(
                f"no tuned configuration of {study.method} on {wishes.benchmark} ships with"
                " lmc-ray: leave --confirm-only out, or choose with --method"
            )
    return dict(study.space)


def from_anywhere(benchmark: str) -> str:
    """The benchmark's name for workers, which run in other folders: a path in it made absolute."""
    family, dash, word = benchmark.partition("-")
    return f"{family}{dash}{Path(word).expanduser().resolve()}" if "/" in word else benchmark


def _searched(value: Any, default: Range) -> Any:
    return value if isinstance(value, Range | list) else default


def open_place(
    name: str, tasks: int | None, data: str | None, angle: float | None, network: str | None
) -> tuple[Place, Benchmark]:
    """A benchmark as the user asks for it, and what all cells on it share.

    Raises:
        UserError: an option that does not fit.
    """
    benchmark = load(name, tasks=tasks, data=data, angle=angle)
    chosen = network or defaults(name, data=data).network
    built = build(chosen, benchmark.image_shape, benchmark.classes)
    place = Place(
        benchmark=benchmark.name,
        tasks=benchmark.tasks,
        angle=benchmark.angle,
        classes_per_task=benchmark.classes_per_task,
        fingerprint=benchmark.fingerprint,
        network=built.name,
    )
    return place, benchmark


def _check_memory(study: Study, benchmark: Benchmark) -> None:
    """A memory that some class cannot fill; each trial would find out for itself, after training.

    Raises:
        UserError: the largest memory that the study may try is more than a class has.
    """
    wanted = study.space.get("memory_per_class", 0)
    most = wanted.high if isinstance(wanted, Range) else wanted
    most = max(most) if isinstance(most, list) else most
    with_replacement = study.space.get("memory_draw") == "random"
    if most > (least := benchmark.smallest_class) and not with_replacement:
        raise UserError(
            f"memory_per_class={most} is more than a class of {benchmark.name} has: {least}"
            " training images; choose a smaller memory"
        )


def machine_for(
    resources: Resources, network: str, gpus_per_trial: float | None, max_concurrent: int | None
) -> Machine:
    """How much of the cluster one block takes.

    Raises:
        UserError: more GPUs than the cluster has.
    """
    share = gpus_per_trial
    if share is None:
        # A stack of MLPs waits for its worker's core; one of convolutional networks fills a GPU.
        share = (0.25 if network.startswith("mlp") else 1.0) if resources.gpus else 0.0
    if share > resources.gpus:
        raise UserError(f"--gpus-per-trial {share}: the cluster has {resources.gpus:g} GPUs")
    fit = int(resources.gpus / share) if share else resources.cpus
    return Machine(share, max_concurrent or max(1, min(fit, resources.cpus)))


def _intent(studies: Sequence[StudyRun]) -> str:
    parts = []
    for each in studies:
        title = METHODS[each.study.method].title
        parts.append(f"{title} ({each.trials} trials)" if each.trials else title)
    return f"{', '.join(parts)}; seeds: {studies[0].protocol.seeds}"


def _unconfirmed(studies: Sequence[StudyRun]) -> list[str]:
    """Methods that are in no table: all their trials have diverged, been pruned or failed."""
    ended = [each for each in studies if each.stage == "done" and not each.chosen]
    return [METHODS[each.study.method].title for each in ended]


def _report(console: Console, store: Store, sweep: str, results: str, *, measured: bool) -> None:
    with store.database(sweep) as database:
        sheets = accuracy_sheets(database)
        if measured:
            sheets += barriers_sheets(database) + contrast_sheets(database)
    root = quote(results)
    # `out`, not `print`: a command to copy must not be broken into lines.
    console.out(f"\n{render(sheets, 'text')}")
    console.out(f"Results:     {results} (sweep {sweep})")
    page = Path("." if "://" in results else results) / f"{sweep}.html"
    try:
        write_report(store, sweep, page)
        console.out(f"Report:      {page}")
    except UserError as problem:  # the results are there all the same
        console.out(f"Report:      none ({problem})")
    console.out(f"Next, paths: .venv/bin/lmc-ray table {root} --what barriers --sweep {sweep}")
    sql = "SELECT method, avg(average_accuracy) FROM runs WHERE purpose = 'confirm' GROUP BY method"
    console.out(f'or in SQL:   .venv/bin/lmc-ray query {root} "{sql}"')
