"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread is just then. DuckDB drops it while its
module loads, and later makes another error of it; Ray Tune has a handler of its own, which stays
behind when Tune has ended and then does nothing. So one handler of ours serves a whole command. It
notes what came, and where work must not be torn it raises nothing: the work looks at `seen`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """What came of Ctrl-C (SIGINT) during a command.

    Attributes:
        seen: it was pressed.
        raised: it was raised as KeyboardInterrupt, whatever was made of that.
    """

    def __init__(self) -> None:
        self.seen = self.raised = self._deferred = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note every Ctrl-C meanwhile, and raise it. One that is not ours to handle stays so."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._came)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.seen = self.raised = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first Ctrl-C meanwhile; a second one is raised.

        Raises:
            KeyboardInterrupt: one that came before this was swallowed.
        """
        self._deferred = True
        try:
            if self.seen:
                raise KeyboardInterrupt
            yield
        finally:
            self._deferred = False

    def _came(self, number: int, frame: FrameType | None) -> None:
        again, self.seen = self.seen, True
        if again or not self._deferred:
            self.raised = True
            raise KeyboardInterrupt


INTERRUPT = Interrupt()
"""Signals are the process's, and so is this."""
