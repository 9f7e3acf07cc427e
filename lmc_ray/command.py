"""Running a command line: what a user can mend is one line on standard error and status 2."""

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from lmc_ray.errors import FailedError, UnavailableError, UserError
from lmc_ray.interrupts import INTERRUPT

FAILED = 1
MISTAKE = 2
INTERRUPTED = 130

_UNREADABLE = "reading the stream registered as"
"""DuckDB's words where a query comes upon a file of the results root that cannot be read."""


def run(
    app: typer.Typer, name: str, arguments: Sequence[str], *, unavailable: int = MISTAKE
) -> NoReturn:
    """Run a command line and exit with its status; after Ctrl-C never with 0.

    `unavailable`: the status where the same command may do later.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show '±'
    with INTERRUPT.watched():
        status = _status(app, name, arguments, unavailable)
        if INTERRUPT.raised or (INTERRUPT.seen and not status):
            status = INTERRUPTED
    sys.exit(status)


def _status(app: typer.Typer, name: str, arguments: Sequence[str], unavailable: int) -> int:
    """Run a command line; its exit status."""
    try:
        status = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return status
    except UserError as problem:
        _complain(name, str(problem))
        return unavailable if isinstance(problem, UnavailableError) else MISTAKE
    except FailedError as problem:  # as it is: it may hold a worker's traceback
        typer.echo(f"{name}: error: {problem}", err=True)
        return FAILED
    except typer.TyperException as problem:
        _complain(name, problem.format_message())
        return MISTAKE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our pipe has seen enough; what Python still has to write goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if INTERRUPT.raised:  # within DuckDB, say, which makes an error of its own of it
            return INTERRUPTED
        if _UNREADABLE in str(problem):
            _complain(name, f"{str(problem).rstrip('.')}: lmc-ray verify ROOT looks at each file")
            return unavailable
        raise


def _complain(name: str, message: str) -> None:
    typer.echo(f"{name}: error: {' '.join(message.split())}", err=True)
