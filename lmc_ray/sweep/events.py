"""The log of a sweep: one line an event worth knowing, with the ids of its cells.

It is a file on the driver's machine, LMC_LOGS/<sweep>.log: to be followed with `tail -f`, apart
from what the terminal shows, and there when the results root is not.
"""

import logging
import os
import time
from pathlib import Path

from lmc_ray.home import expanded
from lmc_ray.sweep.cells import Block

_log = logging.getLogger(__name__)
_log.propagate = False
_log.setLevel(logging.INFO)
_log.addHandler(logging.NullHandler())


class _File(logging.FileHandler):
    """A log that cannot be written stops nothing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        pass


def open_log(sweep: str) -> Path:
    """Write the events from here on to the sweep's log, after those of earlier starts.

    Raises:
        OSError: the file cannot be opened.
    """
    folder = expanded(os.environ.get("LMC_LOGS") or "~/.local/state/lmc-ray").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for before in [each for each in _log.handlers if isinstance(each, _File)]:
        _log.removeHandler(before)  # a night opens it anew for every benchmark
        before.close()
    handler = _File(folder / f"{sweep}.log")
    formatter = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _log.addHandler(handler)
    return folder / f"{sweep}.log"


def tell(event: str, message: str) -> None:
    """Log an event of the whole sweep."""
    _log.info("%s %s", event, " ".join(message.split()))


def tell_block(event: str, block: Block, message: str = "", cells: list[str] | None = None) -> None:
    """Log an event of a block, or of some of its cells."""
    name = f"{block.study} on {block.cells[0].place.benchmark}"
    purpose = "confirm" if block.trial is None else f"trial {block.trial}"
    ids = [cell.id for cell in block.cells] if cells is None else cells
    detail = f" ({' '.join(message.split())})" if message else ""
    _log.info("%s %s %s%s: %s", event, name, purpose, detail, " ".join(ids))
