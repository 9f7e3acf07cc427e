"""Waiting for a results root that is full or out of reach."""

import os
import time
from collections.abc import Callable
from math import inf
from typing import TypeVar

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.interrupts import INTERRUPT
from lmc_ray.store.files import one_line
from lmc_ray.store.presence import check_flag

T = TypeVar("T")

FIRST, LONGEST, LOOK = 0.5, 30.0, 0.1
"""Seconds before the second try, between two tries at most, and before Ctrl-C is heeded."""
DEFAULT_PATIENCE = 600.0


def patience() -> float:
    """Seconds that a sweep waits for its results root: LMC_PATIENCE, by default ten minutes.

    Raises:
        UserError: LMC_PATIENCE is no number of seconds.
    """
    text = os.environ.get("LMC_PATIENCE") or str(DEFAULT_PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < inf:
        raise UserError(f"LMC_PATIENCE={text} is no number of seconds")
    return seconds


def out_of_reach(root: str, sweep: str, reason: str) -> UnavailableError:
    """What to say when patience is at its end."""
    return UnavailableError(
        f"the results root {root} cannot be written ({reason}): mend that and run the same command"
        f" again (--name {sweep}), it goes on; what is committed stays"
    )


class Backoff:
    """Pauses between tries, each twice as long as the one before, until patience is at its end."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._pause = FIRST
        self._end: float | None = None

    def wait(self) -> bool:
        """Pause before another try; False, at once, if it is time to give up (or Ctrl-C came)."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._patience
        if now >= self._end:
            return False
        until = min(now + self._pause, self._end)
        while not INTERRUPT.seen and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK, left))
        self._pause = min(2 * self._pause, LONGEST)
        return not INTERRUPT.seen


def reached(
    read: Callable[[], T], patience: float, hindered: Callable[[str], object] = lambda _: None
) -> T:
    """What a results root answers, asked in several tries if it must be.

    Args:
        read: asks it.
        patience: how long to try, in seconds.
        hindered: is told why there is another try.

    Raises:
        UnavailableError: it has not answered for too long, or Ctrl-C came meanwhile.
    """
    backoff = Backoff(patience)
    while True:
        try:
            return read()
        except UnavailableError as problem:
            hindered(str(problem))
            if not backoff.wait():
                raise


def until_written(write: Callable[[], object], root: str, sweep: str, patience: float) -> None:
    """Write to a results root, in several tries if it must be.

    Args:
        write: does it; a second time is as good as the first.
        root: the results root.
        sweep: the sweep's name.
        patience: how long to try, in seconds.

    Raises:
        UserError: the results root could not be written for too long.
    """
    backoff = Backoff(patience)
    while True:
        try:
            check_flag(root)
            write()
            check_flag(root)  # else it went somewhere that nobody will look at
        except (OSError, UnavailableError) as problem:
            if not backoff.wait():
                raise out_of_reach(root, sweep, one_line(problem)) from None
        else:
            return
