"""How alike minima are, layer by layer: distance, angle, and what their activations share."""

import re
from collections.abc import Sequence

import numpy as np

from lmc_ray.report.exhibits import Exhibit, Heat, Section, left_out, spread_out
from lmc_ray.report.source import Part, Row, ask, moments, summary
from lmc_ray.report.words import ends, with_seeds

_MOST_PAIRS = 24
_MOST_PANELS = 9

_SQL = """
SELECT {columns}, s.measure, s.eval_task, s.to_task, s.from_task, s.from_minimum, s.to_minimum,
    s.control, s.layer, count(*) AS seeds, {moments}
FROM similarities AS s JOIN runs AS r USING (sweep, cell_id)
WHERE {where}
GROUP BY ALL ORDER BY ALL
"""

_MEASURES = {
    "l2": ("L2 distance of weights", None),
    "cosine": ("cosine of weights", (-1.0, 1.0)),
    "cka": ("CKA of activations", (0.0, 1.0)),
}


def similarity(part: Part) -> Section | None:
    """One heat map per configuration and measure, pairs over layers."""
    sql = _SQL.format(columns=part.columns, where=part.where(), moments=moments("s.value")).strip()
    by_group = part.by_group(ask(part.database, sql))
    panels = [
        panel
        for label, rows in by_group.items()
        for panel in _of_group(f"{label}: " if len(by_group) > 1 else "", rows)
    ]
    if not panels:
        return None
    drawn = panels[:_MOST_PANELS]
    pairs = max(len({ends(row) for row in rows}) for rows in by_group.values())
    exhibit = Exhibit(
        name="similarity",
        title="Similarity of minima",
        text="Pairs of minima over layers, mean over seeds. L2 and cosine compare weights; linear "
        "CKA (Kornblith et al. 2019) compares activations on one task's examples: 1 for the same "
        "up to rotation and scale.",
        sql=sql,
        panels=drawn,
        columns=3,
        notes=[
            *left_out("heat maps", len(drawn), len(panels)),
            *left_out("pairs", min(pairs, _MOST_PAIRS), pairs),
        ],
    )
    return Section(f"Similarity: {part.title}", [exhibit])


def _of_group(prefix: str, rows: Sequence[Row]) -> list[Heat]:
    by_measure: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_measure.setdefault((row["measure"], row["eval_task"] or 0), []).append(row)
    return [
        _heat(prefix, by_measure[key])
        for measure in _MEASURES
        for key in sorted(by_measure)
        if key[0] == measure
    ]


def _heat(prefix: str, rows: Sequence[Row]) -> Heat:
    label, limits = _MEASURES[rows[0]["measure"]]
    task = rows[0]["eval_task"]
    # An axis counts from below: the first pair is to be at the top.
    pairs = spread_out(list(dict.fromkeys(ends(row) for row in rows)), _MOST_PAIRS)[::-1]
    layers = sorted({row["layer"] for row in rows}, key=_in_order)
    values = np.full((len(pairs), len(layers)), np.nan)
    words = [[""] * len(layers) for _ in pairs]
    for row in rows:
        if (pair := ends(row)) in pairs:
            place = pairs.index(pair), layers.index(row["layer"])
            found = summary(row)
            values[place] = found.mean
            words[place[0]][place[1]] = f"{row['layer']}, {pair}: {with_seeds(found, 3)}"
    of_task = f", task {task}" if task is not None else ""
    return Heat(f"{prefix}{label}{of_task}", "", "", "", layers, pairs, values, words, limits)


def _in_order(layer: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Layer 10 after layer 9, and what is no layer but all of them at the end."""
    parts = [part for part in re.split(r"(\d+)", layer) if part]
    return layer == "all", [
        (True, int(part), "") if part.isdecimal() else (False, 0, part) for part in parts
    ]
