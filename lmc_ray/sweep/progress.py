"""How far a sweep is: a live line on a terminal, plain lines now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Trials done, the best so far, and the time left."""

    def __init__(self, console: Console, unit: str = "trials") -> None:
        self._console, self._unit = console, unit
        self._live = Live("", console=console, transient=True) if console.is_terminal else None
        self._start = self._printed = time.monotonic()
        self._ran = 0
        self._reason = ""

    def __enter__(self) -> "Progress":
        """Start showing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop showing; nothing of the live line stays."""
        if self._live:
            self._live.stop()

    def ran(self) -> None:
        """A block has run, not been found in the ledger: time left is reckoned by these."""
        self._ran += 1

    def hindered(self, reason: str) -> None:
        """Say what keeps the sweep from going on as planned; the same reason once."""
        if reason != self._reason:
            self._reason = reason
            self._console.print(reason, highlight=False, soft_wrap=True)

    def show(self, done: int, total: int, best: dict[str, float]) -> None:
        """Say how far the sweep is.

        Args:
            done: blocks ended, those of earlier starts included.
            total: blocks planned, as far as known.
            best: validation accuracy of the best trial so far, by method's title.
        """
        now = time.monotonic()
        line = f"{done} of {total} {self._unit}"
        line += "".join(f" · {title} {value:.1%}" for title, value in best.items())
        line += f" · {_clock(now - self._start)}"
        if self._ran and done < total:
            left = (now - self._start) / self._ran * (total - done)
            line += f", about {_clock(left)} left"
        if self._live:
            self._live.update(Text(line))
        elif now - self._printed >= PLAIN_EVERY or done == total:
            self._printed = now
            self._console.out(line, highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
