"""Exhibits as plotly's figures: what the browser draws."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.subplots import make_subplots

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

_ROW_HEIGHT = 300  # pixels
_LINE_HEIGHT = 24  # of a row of intervals
_BAND = 0.18
_LEGEND_LINE = 20
_MOST_TICKS = 12
_GAP = 80  # pixels between rows of panels
_SHAPES = {"line": "lines", "points": "markers", "both": "lines+markers", "steps": "lines"}


@dataclass(frozen=True)
class _Place:
    """Where on a figure a panel stands; rows and columns count from 1."""

    figure: go.Figure
    row: int
    column: int

    def add(self, trace: object) -> None:
        self.figure.add_trace(trace, row=self.row, col=self.column)

    def x_axis(self, **settings: Any) -> None:
        self.figure.update_xaxes(settings, row=self.row, col=self.column)

    def y_axis(self, **settings: Any) -> None:
        self.figure.update_yaxes(settings, row=self.row, col=self.column)

    @property
    def axes(self) -> Any:
        return self.figure.get_subplot(self.row, self.column)


def draw(exhibit: Exhibit) -> go.Figure:
    """The panels of an exhibit, without colours of page and text: those are the page's to set."""
    columns = min(exhibit.columns, len(exhibit.panels))
    rows = -(-len(exhibit.panels) // columns)
    height = max(map(_height, exhibit.panels))
    shared = one_scale(exhibit.panels)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[_text(panel.title) for panel in exhibit.panels],
        horizontal_spacing=_between(exhibit.panels, shared) / columns,
        vertical_spacing=_GAP / (rows * height + (rows - 1) * _GAP) if rows > 1 else 0,
    )
    known: set[str] = set()
    for index, panel in enumerate(exhibit.panels):
        place = _Place(figure, index // columns + 1, index % columns + 1)
        if isinstance(panel, Lines):
            _lines(panel, place, known)
        elif isinstance(panel, Intervals):
            _intervals(panel, place)
        else:
            _heat(panel, place, shared)
            if place.column > 1 and _named(panel):  # the names are beside the first
                place.y_axis(showticklabels=False)
    legend = _LEGEND_LINE * -(-len(known) // 3) if len(known) > 1 else 0
    top, bottom = 56 if any(panel.title for panel in exhibit.panels) else 34, 60
    figure.update_layout(
        template=None,
        height=rows * height + (rows - 1) * _GAP + top + bottom + legend,
        margin={"l": 70, "r": 80 if isinstance(exhibit.panels[0], Heat) else 20}
        | {"t": top, "b": bottom + legend},
        showlegend=len(known) > 1,
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        hovermode="closest",
    )
    if shared and isinstance(panel := exhibit.panels[0], Heat):
        low, high = panel.limits or (None, None)
        bar = _bar(panel) | {"lenmode": "pixels", "len": height, "y": 1, "yanchor": "top"}
        figure.update_layout(
            coloraxis={"colorscale": palette.SCALE, "cmin": low, "cmax": high, "colorbar": bar}
        )
    return figure


def _height(panel: Panel) -> int:
    if isinstance(panel, Intervals):
        return max(120, _LINE_HEIGHT * (len(panel.names) + 2))
    if isinstance(panel, Heat) and not panel.anchors:
        return max(_ROW_HEIGHT - 40, 22 * len(panel.y) if _named(panel) else 12 * len(panel.y))
    return _ROW_HEIGHT


def _between(panels: Sequence[Panel], shared: bool) -> float:
    """The space between two panels in a row, as a share of one."""
    if any(isinstance(panel, Intervals) for panel in panels):
        return 0.3  # names stand there
    if any(isinstance(panel, Heat) for panel in panels):
        return 0.2 if shared else 0.32  # or a bar of colours
    return 0.18


def _named(panel: Heat) -> bool:
    return bool(panel.y) and isinstance(panel.y[0], str)


def _text(words: str) -> str:
    """Words as they are: plotly would take tags in them for its own."""
    return html.escape(words, quote=False)


def _lines(panel: Lines, place: _Place, known: set[str]) -> None:
    for curve in panel.curves:
        if band := _band(curve):
            place.add(band)
        place.add(_curve(panel, curve, first=curve.name not in known))
        known.add(curve.name)
    place.x_axis(title_text=_text(panel.x_label), title_standoff=4)
    if panel.curves and isinstance(panel.curves[0].x[0], str):
        place.x_axis(type="category", categoryorder="category ascending")
    place.y_axis(title_text=_text(panel.y_label), title_standoff=4)
    if panel.positive:
        place.y_axis(rangemode="nonnegative")
    if all(_few(curve.x) for curve in panel.curves):
        place.x_axis(dtick=1)


def _few(places: Sequence[float] | Sequence[str]) -> bool:
    """Whether an axis can name each place; of more whole numbers plotly finds round ones itself."""
    numbers = [place for place in places if not isinstance(place, str)]
    return whole(places) and bool(numbers) and max(numbers) - min(numbers) < _MOST_TICKS


def _band(curve: Curve) -> go.Scatter | None:
    ends = [(x, s.low, s.high) for x, s in zip(curve.x, curve.y, strict=True) if s.low is not None]
    if not ends:
        return None
    x, low, high = zip(*ends, strict=True)
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=np.array([*high, *low[::-1]], dtype=float),
        fill="toself",
        fillcolor=_shade(palette.COLOURS[curve.style.colour]),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=_text(curve.name),
        showlegend=False,
    )


def _shade(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND})"


def _curve(panel: Lines, curve: Curve, first: bool) -> go.Scatter:
    colour, kind = palette.COLOURS[curve.style.colour], curve.style.kind
    many = any(each.count > 1 for each in curve.y)
    interval = " [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]" if many else ""
    seeds = "<br>%{customdata[2]} seeds" if many else ""
    words = "<br>%{text}" if curve.words else ""
    return go.Scatter(
        x=list(curve.x),
        y=np.array([each.mean for each in curve.y], dtype=float),
        customdata=np.array([(_end(s.low), _end(s.high), s.count) for s in curve.y], dtype=float)
        if many
        else None,
        text=[_text(each) for each in curve.words] or None,
        name=_text(curve.name),
        legendgroup=_text(curve.name),
        showlegend=first,
        mode=_SHAPES[curve.shape],
        line={
            "color": colour,
            "width": 2,
            "dash": palette.DASHES[kind],
            "shape": "hv" if curve.shape == "steps" else "linear",
        },
        marker={"color": colour, "size": 6, "symbol": palette.SYMBOLS[kind]},
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{_text(panel.x_label)} %{{x}}: "
        f"%{{y:.4~g}}{interval}{seeds}{words}<extra></extra>",
    )


def _end(value: float | None) -> float:
    return float("nan") if value is None else value


def _intervals(panel: Intervals, place: _Place) -> None:
    names = [_text(name) for name in panel.names]
    colours = [palette.COLOURS[style.colour] for style in panel.styles]
    for name, colour, style, value in zip(names, colours, panel.styles, panel.values, strict=True):
        spread = None
        if value.low is not None and value.high is not None:
            spread = {
                "array": [value.high - value.mean],
                "arrayminus": [value.mean - value.low],
                "symmetric": False,
                "color": colour,
                "thickness": 2,
                "width": 5,
            }
        interval = "" if value.low is None else f" [{value.low:.4g}, {value.high:.4g}]"
        seeds = f"<br>{value.count} seeds" if value.count > 1 else ""
        place.add(
            go.Scatter(
                x=[value.mean],
                y=[name],
                error_x=spread,
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": palette.SYMBOLS[style.kind]},
                showlegend=False,
                hovertemplate=f"<b>%{{y}}</b><br>{value.mean:.4g}{interval}{seeds}<extra></extra>",
            )
        )
    printed = [
        (name, value) for name, value in zip_longest(names, panel.reference) if value is not None
    ]
    if printed:
        place.add(
            go.Scatter(
                x=[value for _, value in printed],
                y=[name for name, _ in printed],
                mode="markers",
                name=_text(panel.reference_name),
                showlegend=False,
                marker={"symbol": "line-ns-open", "size": 16, "color": palette.COLOURS[6]},
                hovertemplate=f"<b>%{{y}}</b><br>{_text(panel.reference_name)}: %{{x}}"
                "<extra></extra>",
            )
        )
    place.x_axis(title_text=_text(panel.x_label), title_standoff=4, rangemode="tozero")
    place.y_axis(
        type="category",
        categoryorder="array",
        categoryarray=names,
        range=[len(names) - 0.5, -0.5],
        automargin=True,
    )


def _heat(panel: Heat, place: _Place, shared: bool) -> None:
    values = np.log10(panel.values) if panel.log else panel.values
    low, high = panel.limits or (None, None)
    axis = place.axes
    bar = _bar(panel) | {
        "len": axis.yaxis.domain[1] - axis.yaxis.domain[0],
        "y": sum(axis.yaxis.domain) / 2,
        "x": axis.xaxis.domain[1] + 0.005,
    }
    if panel.log:
        bar |= _decades(values)
    kind = go.Contour if panel.anchors else go.Heatmap
    extra: dict[str, Any] = (
        {"contours_coloring": "heatmap", "line": {"width": 0.5, "color": "#ffffff"}}
        if panel.anchors
        else {"xgap": 1, "ygap": 1}
    )
    extra |= (
        {"coloraxis": "coloraxis"}
        if shared
        else {"zmin": low, "zmax": high, "colorscale": palette.SCALE, "colorbar": bar}
    )
    place.add(
        kind(
            x=_axis(panel.x),
            y=_axis(panel.y),
            z=values.astype(np.float32),
            text=[[_text(word) for word in row] for row in panel.words] or None,
            hovertemplate="%{text}<extra></extra>" if panel.words else None,
            **extra,
        )
    )
    place.x_axis(title_text=_text(panel.x_label), title_standoff=4)
    place.y_axis(title_text=_text(panel.y_label), title_standoff=4)
    place.x_axis(showgrid=False)
    place.y_axis(showgrid=False, automargin=_named(panel))
    if _few(panel.x):
        place.x_axis(dtick=1)
    if panel.x and isinstance(panel.x[0], str):  # layers are names even where they are digits
        place.x_axis(type="category", categoryorder="array", categoryarray=_axis(panel.x))
    if _named(panel):
        place.y_axis(type="category")
    if panel.anchors:
        place.y_axis(scaleanchor=axis.xaxis.plotly_name.replace("axis", ""))
        place.x_axis(constrain="domain")
        place.y_axis(constrain="domain", constraintoward="top")
        _anchors(panel, place)


def _bar(panel: Heat) -> dict[str, Any]:
    """What every bar of colours has."""
    title = {"text": _text(panel.value_label), "side": "right"}
    return {"title": title, "thickness": 10, "outlinewidth": 0}


def _axis(places: Sequence[float] | Sequence[str]) -> list[Any]:
    return [_text(each) if isinstance(each, str) else each for each in places]


def _decades(values: np.ndarray) -> dict[str, Any]:
    """Ticks of a colour bar over logarithms, in the unit itself."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    ticks = np.linspace(finite.min(), finite.max(), 5)
    return {"tickvals": ticks.tolist(), "ticktext": [f"{10**tick:.2g}" for tick in ticks]}


def _anchors(panel: Heat, place: _Place) -> None:
    place.add(
        go.Scatter(
            x=[anchor.x for anchor in panel.anchors],
            y=[anchor.y for anchor in panel.anchors],
            mode="markers",
            marker={"size": 9, "color": "#ffffff", "line": {"width": 2, "color": "#000000"}},
            text=[_text(anchor.name) for anchor in panel.anchors],
            hovertemplate="<b>%{text}</b><extra></extra>",
            showlegend=False,
        )
    )
    for anchor in panel.anchors:
        place.figure.add_annotation(
            x=anchor.x,
            y=anchor.y,
            text=_text(anchor.name),
            showarrow=False,
            yshift=16,
            font={"color": "#000000", "size": 11},
            bgcolor="rgba(255,255,255,0.75)",
            row=place.row,
            col=place.column,
        )
