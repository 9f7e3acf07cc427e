"""Running a command line: what a user can mend is one line on standard error and status 2."""

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from lmc_ray.errors import UserError

INTERRUPTED = 130


def run(app: typer.Typer, name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show '±'
    try:
        status = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except UserError as problem:
        status = _complain(name, str(problem))
    except typer.TyperException as problem:
        status = _complain(name, problem.format_message())
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our pipe has seen enough; what Python still has to write goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _complain(name: str, message: str) -> int:
    typer.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    return 2
