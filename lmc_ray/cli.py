"""The command `lmc-ray`: ask a results root, and see what there is to run.

Libraries are imported inside the commands that need them, so that `--help` answers at once.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lmc_ray import __version__
from lmc_ray.command import run
from lmc_ray.errors import UserError, unknown

if TYPE_CHECKING:
    import duckdb

    from lmc_ray.store import Store

app = typer.Typer(
    name="lmc-ray",
    help="Sweeps on Ray for the study of linear mode connectivity, and SQL over their results.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_CELLS_SHOWN = 10

Root = Annotated[
    str,
    typer.Argument(
        metavar="ROOT", help="the results: a folder, or a URI such as s3://bucket/results"
    ),
]
Sweep = Annotated[str | None, typer.Option(metavar="NAME", help="only this sweep of the root")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="write to a file instead")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lmc-ray {__version__}")
        raise typer.Exit()


@app.callback()
def _lmc_ray(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    del version


@app.command()
def query(
    root: Root,
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="a query in DuckDB's SQL, in quotes")
    ] = None,
    views: Annotated[
        bool, typer.Option("--views", help="list the tables and their columns instead")
    ] = False,
    form: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="of the output")
    ] = "table",
    sweep: Sweep = None,
    output: Output = None,
) -> None:
    """Ask the results in SQL.

    The query sees the tables and views that --views lists, each cell of a sweep once, and nothing
    else; it cannot change them. For example:

    lmc-ray query results "SELECT sweep, method, avg(average_accuracy) FROM confirmed GROUP BY ALL"
    """
    import pyarrow

    from lmc_ray.store.export import encode

    if views:
        _put(_describe_tables().encode(), output)
        return
    if sql is None:
        raise UserError("no SQL given: put a query in quotes after ROOT, or ask with --views")
    import duckdb

    with _open(root, sweep) as database:
        try:
            result = database.sql(sql)
            if result is None:  # pyright: ignore[reportUnnecessaryComparison]
                raise UserError("the SQL returns no rows: begin it with SELECT")
            on_terminal = output is None and sys.stdout.isatty()
            data = encode(result, form, shutil.get_terminal_size().columns if on_terminal else None)
        except duckdb.Error as problem:
            raise _sql_problem(problem) from None
        except (pyarrow.ArrowException, OverflowError) as problem:
            raise UserError(
                f"{form} has no place for a value of this type or size ({problem}): cast it, e.g."
                " my_column::VARCHAR"
            ) from None
    if form == "parquet" and on_terminal:
        raise UserError("Parquet is no text for a terminal: add -o FILE")
    _put(data, output)


@app.command()
def table(
    root: Root,
    what: Annotated[
        Literal["accuracy", "barriers"],
        typer.Option(help="methods side by side, or every measured path"),
    ] = "accuracy",
    form: Annotated[
        Literal["text", "markdown", "latex"], typer.Option("--format", help="of the output")
    ] = "text",
    sweep: Sweep = None,
    output: Output = None,
) -> None:
    """Print the results of the confirmed seeds: mean, spread, and the paper's numbers beside ours.

    A sweep that still runs or was interrupted shows the seeds it has.
    """
    from lmc_ray.tables import (
        accuracy_sheets,
        barriers_sheets,
        contrast_sheets,
        overview_sheets,
        pending,
        render,
    )

    with _open(root, sweep) as database:
        if what == "accuracy":
            sheets = accuracy_sheets(database) + overview_sheets(database)
        else:
            sheets = barriers_sheets(database) + contrast_sheets(database)
        waiting = pending(database)
    if not sheets and not waiting:
        waiting = [f"no {what} to show: the confirmed cells have none"]
    text = render(sheets, form)
    if form == "text" or not sheets:
        text += "\n" * bool(sheets and waiting) + "".join(f"{line}\n" for line in waiting)
    _put(text.encode(), output)


@app.command()
def compare(
    root: Root,
    method: Annotated[str, typer.Option(metavar="METHOD", help="the method, or a study's label")],
    baseline: Annotated[
        list[str], typer.Option(metavar="METHOD", help="what to compare it with; may be repeated")
    ],
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="only on this benchmark")
    ] = None,
    form: Annotated[
        Literal["text", "markdown", "latex"], typer.Option("--format", help="of the output")
    ] = "text",
    sweep: Sweep = None,
    output: Output = None,
) -> None:
    """Compare confirmed methods or labelled studies seed by seed: difference, interval, test.

    Exit status 3 if the method is worse than a baseline, 2 if something could not be compared (a
    method whose seeds have all diverged, say) or the method diverged on seeds that a baseline
    finished, 0 if the method holds.
    """
    from lmc_ray.tables import compare, compare_sheets, render

    with _open(root, sweep) as database:
        compared = compare(database, method, baseline, benchmark)
    _put(render(compare_sheets(compared.comparisons), form).encode(), output)
    if compared.missing:
        typer.echo("lmc-ray: not compared: " + "; ".join(compared.missing), err=True)
    for line in compared.diverged:
        typer.echo(f"lmc-ray: {line}", err=True)
    if compared.worse or compared.missing or compared.diverged:
        raise typer.Exit(3 if compared.worse else 2)


@app.command()
def report(
    root: Root,
    sweep: Sweep = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="the HTML file to write")
    ] = Path("report.html"),
) -> None:
    """Write a report to look at in a browser: one HTML file that needs no network.

    What was run, accuracy, paths, planes, curvature, similarity, the search and the nights, each
    plot with the SQL behind it. What has no results yet has no section.
    """
    from lmc_ray.report import write_report

    write_report(_results(root), sweep, output)
    typer.echo(output)


@app.command()
def figures(
    root: Root,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="the folder to write to")
    ],
    sweep: Sweep = None,
) -> None:
    """Draw the plots of the report for a paper, each as PDF and as PNG."""
    from lmc_ray.report import write_figures

    for file in write_figures(_results(root), sweep, output):
        typer.echo(file)


@app.command()
def verify(root: Root) -> None:
    """Check every file of the results: torn or missing files, duplicates, incomplete cells.

    Exit status 1 if anything is wrong. What a stopped attempt left behind is listed as a note:
    no reader sees it, and it does no harm.
    """
    from lmc_ray.store import Store

    store = Store(root)
    findings = store.verify()
    sweeps = len(store.sweeps())
    if not (findings or sweeps):
        raise _nothing(root)
    defects = [finding for finding in findings if not finding.harmless]
    for finding in findings:
        kind = "note" if finding.harmless else "DEFECT"
        typer.echo(f"{kind}: {finding.file}{_which(finding.cells)}: {finding.message}")
    typer.echo(
        f"{root}: {sweeps} sweep{'s' * (sweeps != 1)}, {len(defects)} "
        f"defect{'s' * (len(defects) != 1)}, {len(findings) - len(defects)} note(s)"
    )
    if defects:
        raise typer.Exit(1)


@app.command()
def compact(root: Root, sweep: Sweep = None) -> None:
    """Merge the many small files of a sweep into one a table, so that reading is fast again.

    What SQL sees stays the same, row by row. Sweeps may write meanwhile, and others read. If it is
    interrupted nothing is lost: run it again.
    """
    store, problems = _results(root), list[str]()
    for name in store.sweeps() if sweep is None else [_known(store, sweep)]:
        try:
            done = store.compact(name)
        except UserError as problem:  # the others are none the worse for it
            problems.append(str(problem))
            continue
        what = "merged" if done.merged else "nothing new to merge"
        typer.echo(f"sweep {name}: {what}, {done.cells} cells; {done.before} → {done.after} files")
    if problems:
        raise UserError("; ".join(problems))


@app.command()
def benchmarks() -> None:
    """List the benchmarks: sequences of tasks that a sweep can run on."""
    from lmc_ray.benchmarks import describe
    from lmc_ray.tables import Sheet, render

    infos = describe()
    rows = [
        (
            info.name,
            str(info.tasks),
            str(info.most_tasks),
            str(info.classes),
            "×".join(map(str, info.image_shape)),
            info.network,
        )
        for info in infos
    ]
    by_source: dict[str, list[str]] = {}
    for info in infos:
        by_source.setdefault(info.source, []).append(info.name)
    notes = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
    columns = ("benchmark", "tasks", "at\nmost", "classes", "image", "network")
    typer.echo(render([Sheet("Benchmarks and their defaults", columns, rows, notes)]), nl=False)


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="files for `ray up` or KubeRay")
    ],
) -> None:
    """Check cluster files offline, before they cost or expose anything.

    Ray's schema, the cloud's own model of the machines, file mounts (from the folder that `ray up`
    is run in), open ports, authentication, and LMC_* on every node. Each finding names its line.
    """
    from lmc_ray.clusters import validate as findings_of

    wrong = False
    for file in files:
        findings = findings_of(file)
        wrong |= bool(findings)
        for finding in findings:
            typer.echo(f"{file}:{finding.line}: {finding.message}", err=True)
        if not findings:
            typer.echo(f"{file}: OK")
    if wrong:
        raise typer.Exit(2)


@app.command()
def bench(
    benchmark: Annotated[str, typer.Option(help="what to train on")] = "rotated-digits",
    method: Annotated[list[str] | None, typer.Option(help="how; may be repeated")] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="examples a step, default 64; may be repeated")
    ] = None,
    replicas: Annotated[
        list[int] | None,
        typer.Option(min=1, help="in each worker's stack; several are compared"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes at the same time; default: the cores")
    ] = None,
    network: Annotated[str | None, typer.Option(help="default: the benchmark's")] = None,
    data: Annotated[
        str | None, typer.Option(envvar="LMC_DATA", help="folder of the images; else downloaded")
    ] = None,
    results: Annotated[
        str | None, typer.Option(metavar="ROOT", help="also write the table `speeds` there")
    ] = None,
) -> None:
    """Measure how fast this machine trains, beside its peaks and beside plain loops.

    Each worker trains three tasks and is timed on the second. Where several stack sizes are
    compared, the one with which a cell of each method takes least time is noted in the cache
    folder, unless --workers is given.
    """
    from lmc_ray.bench.compare import compared, workloads
    from lmc_ray.bench.recommend import best, remember
    from lmc_ray.tables.sheet import render
    from lmc_ray.tables.speeds import speed_sheets

    stacks = list(dict.fromkeys(replicas or [1]))  # given twice: measured once
    planned = workloads(
        benchmark,
        methods=list(dict.fromkeys(method or ["stable-sgd"])),
        batch_sizes=list(dict.fromkeys(batch_size or [64])),
        replicas=stacks,
        workers=workers,
        network=network,
        data=data,
    )
    store = None
    if results is not None:
        from lmc_ray.store import Store

        store = Store(results)
        store.check_writable()
    speeds = compared(planned, lambda line: typer.echo(line, err=True))
    typer.echo(render(speed_sheets(speeds)))
    if store is not None:
        import uuid
        from datetime import UTC, datetime

        from lmc_ray.version import version

        now = {"measured_at": datetime.now(UTC), "version": version()}
        rows = [speed.row() | now for speed in speeds]
        store.commit("bench", uuid.uuid4().hex, {"speeds": rows})
        typer.echo(f"rows: table speeds of {results}, sweep bench")
    if len(stacks) > 1:
        for size in sorted({speed.workload.batch_size for speed in speeds}):
            chosen = best(speed for speed in speeds if speed.workload.batch_size == size)
            if chosen is None:
                typer.echo(f"best at batch {size}: no stack size was measured with every method")
                continue
            if workers is not None:  # a wish, and no finding about the machine
                noted = "not noted for sweeps: leave --workers out for that"
            else:
                try:
                    noted = str(remember(chosen))
                except OSError as problem:
                    noted = f"not noted for sweeps: {problem}; LMC_CACHE may name a folder for it"
            typer.echo(
                f"best at batch {size}: {chosen.workload.workers} workers with stacks of"
                f" {chosen.workload.replicas} ({noted})"
            )


def _which(cells: Sequence[str]) -> str:
    """The cells that a finding concerns, the first of many."""
    if not cells:
        return ""
    more = f" and {len(cells) - _CELLS_SHOWN} more" if len(cells) > _CELLS_SHOWN else ""
    return f" (cell{'s' * (len(cells) > 1)} {', '.join(cells[:_CELLS_SHOWN])}{more})"


def _results(root: str) -> "Store":
    """The store of a root that has results."""
    from lmc_ray.store import Store

    store = Store(root)
    if not store.sweeps():
        raise _nothing(root)
    return store


def _nothing(root: str) -> UserError:
    return UserError(
        f"no results in {root}: give the folder that a sweep printed at its end, or run one "
        "with `make sweep`"
    )


def _open(root: str, sweep: str | None) -> "duckdb.DuckDBPyConnection":
    """The tables of a root, or of one of its sweeps."""
    store = _results(root)
    return store.database(sweep if sweep is None else _known(store, sweep))


def _known(store: "Store", sweep: str) -> str:
    """The name itself, if the root has such a sweep."""
    if sweep not in (known := store.sweeps()):
        raise unknown("sweep", sweep, known)
    return sweep


def _describe_tables() -> str:
    """Every table and view, its columns and their meaning."""
    from lmc_ray.store.schemas import TABLES, description
    from lmc_ray.store.views import VIEWS, columns

    lines = []
    for name, table in TABLES.items():
        lines.append(f"{name}: {table.meaning}; one row per {', '.join(table.key)}")
        for field in table.schema:
            lines.append(f"    {field.name:24} {field.type!s:22} {description(field)}".rstrip())
        lines.append("")
    lines += ["Views: ready-made queries over these tables.", ""]
    known = columns()
    for name, view in VIEWS.items():
        lines += [f"{name}: {view.meaning}", f"    {', '.join(known[name])}", ""]
    return "\n".join(lines)


def _sql_problem(problem: "duckdb.Error") -> UserError:
    from lmc_ray.store import TABLES
    from lmc_ray.store.views import VIEWS

    # DuckDB draws the place below its message; the message names it too.
    message = " ".join(str(problem).split("\n\nLINE ")[0].split())
    if "Table with name" in message:
        known = ", ".join((*TABLES, *VIEWS))
        message = f"{message.split(' Did you mean')[0]} The tables are {known}."
    return UserError(f"the SQL does not work: {message}")


def _put(data: bytes, output: Path | None) -> None:
    if output is None:
        typer.echo(data, nl=False)
        return
    try:
        output.write_bytes(data)
    except OSError as problem:
        raise UserError(f"cannot write {output}: {problem.strerror}") from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command; mistakes that a user can mend end with one line and status 2."""
    given = sys.argv[1:] if arguments is None else arguments
    run(app, "lmc-ray", given or ["--help"])
