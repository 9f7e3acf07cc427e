"""Colours, dashes and marks: the same in the report and in figures, fit for the colour-blind.

The colours are those of Okabe and Ito (2008) that stand out on white and on black; what shares a
colour differs in dash and mark, so that nothing is told by colour alone.
"""

from typing import NamedTuple

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
_KINDS = 4
DASHES = ("solid", "dash", "dot", "dashdot")  # plotly's words, in the order of matplotlib's below
LINE_STYLES = ("-", "--", ":", "-.")
SYMBOLS = ("circle", "square", "diamond", "cross")
MARKERS = ("o", "s", "D", "P")
MANY = _KINDS + 2 * len(COLOURS)
"""How many configurations of a method have styles of their own."""
SCALE = "Viridis"
"""Of heat maps: even in lightness, and the same to every eye."""


class Style(NamedTuple):
    """A place in the palette."""

    colour: int
    kind: int = 0
    """Of its dash and its mark."""


_METHODS = {
    "mcsgd": Style(0),
    "er-mcsgd": Style(0, 1),
    "stable-sgd": Style(1),
    "er": Style(2),
    "ewc": Style(3),
    "agem": Style(4),
    "weight-averaging": Style(5),
    "ema": Style(5, 1),
    "naive-sgd": Style(6),
    "multitask": Style(6, 1),
}


def of_method(method: str, number: int = 1) -> Style:
    """The style that a method has in every plot.

    Args:
        method: as the store names it.
        number: which of its configurations, from 1.
    """
    colour, kind = _METHODS.get(method, Style(4, 2))
    if number <= _KINDS:
        return Style(colour, (kind + number - 1) % _KINDS)
    # The other colours, with the two kinds that no method's first configuration has.
    turns, more = divmod(number - _KINDS - 1, 2)
    return Style((colour + 1 + turns) % len(COLOURS), 2 + more)


# Of minima, and of paths by the minimum they lead to; the connected one is MC-SGD's own, and so on.
_MINIMA = {
    "connected": Style(0),
    "sequential": Style(1),
    "multitask": Style(2),
    "other-init": Style(3),
    "inner": Style(4),
    "averaged": Style(5),
}


def of_minimum(minimum: str, kind: int = 0) -> Style:
    """The colour that a minimum has in every plot.

    Args:
        minimum: its kind as the store names it; `other-init` for one of another initialisation.
        kind: of the dash and the mark.
    """
    return Style(_MINIMA.get(minimum, Style(6)).colour, kind)


def nth(index: int) -> Style:
    """The styles of things without one of their own, in order."""
    return Style(index % len(COLOURS), index // len(COLOURS) % _KINDS)
