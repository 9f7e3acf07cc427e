"""Exhibits as matplotlib's figures: what a paper prints, as PDF and PNG."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from lmc_ray.report import palette
from lmc_ray.report.exhibits import (
    Curve,
    Exhibit,
    Heat,
    Intervals,
    Lines,
    Panel,
    one_scale,
    whole,
)

_COLUMN = 3.35  # inches: one column of a paper of two
_PAGE = 6.9  # both
_PANEL_HEIGHT = 2.1
_DOTS_PER_INCH = 300
_LONG_NAME = 36  # characters
_BAND = 0.2
_SHAPES = {"line": "", "points": "o", "both": "o", "steps": ""}

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # text that stays text, as journals ask
    "svg.fonttype": "none",
    "axes.axisbelow": True,
}


def save(exhibit: Exhibit, path: Path, form: str) -> None:
    """Draw the panels of an exhibit into a file.

    Args:
        exhibit: at least one panel.
        path: the file.
        form: `pdf` or `png`.
    """
    # Without a date in them, the same rows give the same bytes.
    metadata = {"Title": exhibit.title} | ({"CreationDate": None} if form == "pdf" else {})
    with matplotlib.rc_context(_STYLE):
        _figure(exhibit).savefig(path, format=form, dpi=_DOTS_PER_INCH, metadata=metadata)


def _figure(exhibit: Exhibit) -> Figure:
    panels = exhibit.panels
    columns = min(exhibit.columns, len(panels))
    rows = -(-len(panels) // columns)
    height = max(map(_height, panels))
    legend = _names(panels)
    legend_columns = 2 if columns == 1 else 3
    legend_height = 0.16 * -(-len(legend) // legend_columns)
    figure = Figure(
        figsize=(_PAGE if columns > 1 or _long(panels) else _COLUMN, rows * height + legend_height),
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    flat = list(axes.flat)
    handles: dict[str, Any] = {}
    for index, panel in enumerate(panels):
        axis = flat[index]
        axis.set_title(_text(panel.title))
        if isinstance(panel, Lines):
            _lines(axis, panel, handles)
        elif isinstance(panel, Intervals):
            _intervals(axis, panel)
        else:
            image = _heat(axis, panel, names=index % columns == 0)
            last = index == len(panels) - 1
            if not one_scale(panels):
                _colour_bar(figure, image, axis, panel)
            elif last:
                _colour_bar(figure, image, flat, panel, shrink=0.8)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    if len(handles) > 1:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=legend_columns
        )
    return figure


def _height(panel: Panel) -> float:
    if isinstance(panel, Intervals):
        return max(0.9, 0.55 + 0.17 * len(panel.names))
    if isinstance(panel, Heat) and _named(panel):
        return max(_PANEL_HEIGHT, 0.6 + 0.15 * len(panel.y))
    return _PANEL_HEIGHT


def _long(panels: Sequence[Panel]) -> bool:
    """Whether names beside intervals would leave them no room in a column."""
    names = [name for panel in panels if isinstance(panel, Intervals) for name in panel.names]
    return max(map(len, names), default=0) > _LONG_NAME


def _named(panel: Heat) -> bool:
    return bool(panel.y) and isinstance(panel.y[0], str)


def _names(panels: Sequence[Panel]) -> list[str]:
    """What the legend has to name."""
    return list(
        dict.fromkeys(c.name for panel in panels if isinstance(panel, Lines) for c in panel.curves)
    )


def _text(words: str) -> str:
    """Words as they are: matplotlib would read what stands between dollars as mathematics."""
    return words.replace("$", r"\$")


def _lines(axis: Axes, panel: Lines, handles: dict[str, Any]) -> None:
    words = sorted({x for curve in panel.curves for x in curve.x if isinstance(x, str)})
    if words:  # else their order would be the one in which the curves come to them
        axis.xaxis.update_units(words)
    for curve in panel.curves:
        handles.setdefault(_text(curve.name), _curve(axis, curve))
    axis.set_xlabel(_text(panel.x_label))
    axis.set_ylabel(_text(panel.y_label))
    if panel.positive:
        axis.set_ylim(bottom=max(0.0, axis.get_ylim()[0]))
    if all(whole(curve.x) for curve in panel.curves):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if words:
        axis.tick_params(axis="x", labelrotation=90)


def _curve(axis: Axes, curve: Curve) -> Any:
    colour = palette.COLOURS[curve.style.colour]
    marked = _SHAPES[curve.shape]
    x: Any = list(curve.x)
    banded = [(p, s.low, s.high) for p, s in zip(x, curve.y, strict=True) if s.low is not None]
    if banded:
        places, low, high = zip(*banded, strict=True)
        axis.fill_between(
            list(places), np.array(low), np.array(high), color=colour, alpha=_BAND, linewidth=0
        )
    (line,) = axis.plot(
        x,
        [each.mean for each in curve.y],
        color=colour,
        linestyle="" if curve.shape == "points" else palette.LINE_STYLES[curve.style.kind],
        marker=palette.MARKERS[curve.style.kind] if marked else "",
        drawstyle="steps-post" if curve.shape == "steps" else "default",
    )
    return line


def _intervals(axis: Axes, panel: Intervals) -> None:
    rows = range(len(panel.names))
    for row, style, value in zip(rows, panel.styles, panel.values, strict=True):
        colour = palette.COLOURS[style.colour]
        spread = None
        if value.low is not None and value.high is not None:
            spread = [[value.mean - value.low], [value.high - value.mean]]
        axis.errorbar(
            [value.mean],
            [row],
            xerr=spread,
            color=colour,
            marker=palette.MARKERS[style.kind],
            capsize=2,
            linestyle="",
        )
    for row, printed in zip_longest(rows, panel.reference):
        if printed is not None:
            axis.plot([printed], [row], marker="|", markersize=9, color=palette.COLOURS[6])
    axis.set_yticks(list(rows), [_text(name) for name in panel.names])
    axis.set_ylim(len(panel.names) - 0.5, -0.5)
    axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
    axis.set_xlabel(_text(panel.x_label))


def _heat(axis: Axes, panel: Heat, names: bool) -> Any:
    low, high = panel.limits or (None, None)
    finite = panel.values[np.isfinite(panel.values)]
    log = panel.log and finite.size and finite.min() > 0
    norm = LogNorm(low, high) if log else Normalize(low, high)
    x: Any = _places(panel.x)
    y: Any = _places(panel.y)
    values = np.ma.masked_invalid(panel.values)
    axis.grid(visible=False)
    image = axis.pcolormesh(
        x, y, values, norm=norm, cmap=palette.SCALE.lower(), shading="nearest", rasterized=True
    )
    if panel.anchors:
        _anchors(axis, panel, x, y, values, norm)
    _ticks(axis, panel, names)
    axis.set_xlabel(_text(panel.x_label))
    axis.set_ylabel(_text(panel.y_label))
    return image


def _places(places: Sequence[float] | Sequence[str]) -> list[float]:
    return [index if isinstance(each, str) else each for index, each in enumerate(places)]


def _ticks(axis: Axes, panel: Heat, names: bool) -> None:
    if panel.x and isinstance(panel.x[0], str):
        words = [_text(str(each)) for each in panel.x]
        axis.set_xticks(range(len(words)), words, rotation=45, ha="right", rotation_mode="anchor")
    if _named(panel):
        words = [_text(str(each)) if names else "" for each in panel.y]
        axis.set_yticks(range(len(words)), words)


def _colour_bar(figure: Figure, image: Any, axes: Any, panel: Heat, shrink: float = 1) -> None:
    ticks = None
    if isinstance(image.norm, LogNorm):
        low, high = image.get_clim()
        ticks = LogLocator() if high >= 10 * low else MaxNLocator(5)
    bar = figure.colorbar(
        image, ax=axes, label=_text(panel.value_label), ticks=ticks, format="%g", shrink=shrink
    )
    bar.minorticks_off()


def _anchors(axis: Axes, panel: Heat, x: Any, y: Any, values: Any, norm: Normalize) -> None:
    low, high = values.min(), values.max()
    levels = (
        np.geomspace(low, high, 10) if isinstance(norm, LogNorm) else np.linspace(low, high, 10)
    )
    if high > low:
        axis.contour(x, y, values, levels=levels, colors="white", linewidths=0.3)
    axis.set_aspect("equal")
    for anchor in panel.anchors:
        axis.plot([anchor.x], [anchor.y], "o", color="white", markeredgecolor="black")
        axis.annotate(
            _text(anchor.name),
            (anchor.x, anchor.y),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=5.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
        )
