"""What a sweep tells of itself where there is no terminal."""

import io

from rich.console import Console

from lmc_ray.sweep.progress import Progress


def test_a_plain_line_stays_one_line() -> None:
    """Whoever reads it in a log, or with grep, finds all of it in one place."""
    out = io.StringIO()
    best = {"MC-SGD": 0.9333, "Stable SGD": 0.7444, "multitask": 0.925}
    with Progress(Console(file=out, width=40)) as progress:
        progress.ran()
        progress.show(10, 10, best)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("10 of 10 trials · MC-SGD 93.3% · Stable SGD 74.4% · multitask 92.5% · ")


def test_a_terminal_has_a_live_line_that_goes_in_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, highlight=False)
    with Progress(console) as progress:
        progress.ran()
        progress.show(3, 10, {"MC-SGD": 0.9333})
    shown = out.getvalue()
    assert "3 of 10 trials · MC-SGD 93.3% · 0:00, about 0:00 left" in shown
    assert shown.rpartition("left")[2].strip("\r\n").endswith("\x1b[2K"), "the line is not cleared"
