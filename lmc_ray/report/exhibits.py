"""What a report shows, before any library draws it: exhibits of panels, and where they come from.

`interactive` draws them for the browser and `figures` for paper, so that both show the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lmc_ray.report.palette import Style
from lmc_ray.statistics import Summary
from lmc_ray.tables import Sheet

Reals = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """Values over a number, with or without intervals.

    Attributes:
        name: in the legend.
        style: its place in the palette.
        x: places on the axis.
        y: what was found there; one of many seeds is their mean.
        shape: joined by lines, points alone, points joined, or a staircase.
        words: what to say of each point beside its numbers.
    """

    name: str
    style: Style
    x: Sequence[float] | Sequence[str]
    y: Sequence[Summary]
    shape: Literal["line", "points", "both", "steps"] = "line"
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Lines:
    """A panel of curves.

    Attributes:
        title: above it.
        x_label: of the places.
        y_label: of the values.
        curves: what is drawn.
        positive: whether no value can be below 0, whatever an interval says.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    positive: bool = False


@dataclass(frozen=True)
class Intervals:
    """A panel of means with their intervals, one below the other.

    Attributes:
        title: above it.
        x_label: of the values.
        names: of the rows, from the top.
        styles: of the rows.
        values: of the rows.
        reference: other numbers to stand beside them, None where there are none.
        reference_name: whose they are.
    """

    title: str
    x_label: str
    names: Sequence[str]
    styles: Sequence[Style]
    values: Sequence[Summary]
    reference: Sequence[float | None] = ()
    reference_name: str = ""


@dataclass(frozen=True)
class Anchor:
    """A named point on a heat map."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Heat:
    """A panel that shows a matrix as colours; where rows have names, all of an exhibit share them.

    Attributes:
        title: above it.
        x_label: of the columns.
        y_label: of the rows.
        value_label: of the colours.
        x: the columns' places or names.
        y: the rows' places or names, from below.
        values: [rows, columns]; NaN is left blank.
        words: [rows, columns]: what to say of each value; empty for the value alone.
        limits: of the colours; None for the values' own.
        log: whether colours follow the logarithm.
        anchors: marked points; then both axes are lengths, and equally long on the page.
    """

    title: str
    x_label: str
    y_label: str
    value_label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float] | Sequence[str]
    values: Reals
    words: Sequence[Sequence[str]] = ()
    limits: tuple[float, float] | None = None
    log: bool = False
    anchors: Sequence[Anchor] = ()


Panel = Lines | Intervals | Heat


@dataclass(frozen=True)
class Exhibit:
    """One numbered thing to look at: a plot of some panels, a table, or both.

    Attributes:
        name: short, and unlike the others of its sweep and sequence of tasks: for file names.
        title: its heading.
        text: what it shows, in a sentence or two.
        sql: the query whose rows it shows, as it was run.
        panels: side by side, as many a row as `columns` says.
        columns: how many panels share a row.
        sheet: the numbers as a table.
        notes: what else has to be known, such as what was left out.
    """

    name: str
    title: str
    text: str
    sql: str
    panels: Sequence[Panel] = ()
    columns: int = 2
    sheet: Sheet | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """Exhibits of one kind."""

    title: str
    exhibits: Sequence[Exhibit]
    part: str = ""
    """The sequence of tasks that they are of, in words; empty: of the whole sweep."""


@dataclass(frozen=True)
class Chapter:
    """All of one sweep."""

    sweep: str
    sections: Sequence[Section]


def spread_out(choices: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(choices) <= most:
        return list(choices)
    return [choices[round(i * (len(choices) - 1) / (most - 1))] for i in range(most)]


def left_out(kind: str, shown: int, there_are: int) -> list[str]:
    """The note that some are not drawn; none where all are."""
    if shown == there_are:
        return []
    return [f"{shown} of {there_are} {kind} drawn; the SQL has them all"]


def one_scale(panels: Sequence[Panel]) -> bool:
    """Whether all panels are heat maps of one quantity with the same limits: one bar will do."""
    scales = {
        (panel.value_label, panel.limits) if isinstance(panel, Heat) else None for panel in panels
    }
    return len(scales) == 1 and all(scale and scale[1] for scale in scales)


def whole(places: Sequence[float] | Sequence[str]) -> bool:
    """Whether they count something, so that an axis should have no numbers between."""
    return all(isinstance(place, int) for place in places)
