"""How alike minima are, layer by layer: distance, angle, and what their activations share."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lmc_ray.report.exhibits import Exhibit, Heat, Section, left_out, spread_out
from lmc_ray.report.source import Part, Row, ask, measured, moments, summary
from lmc_ray.report.words import with_seeds
from lmc_ray.tables import ends

_MOST_PAIRS = 24
_MOST_PANELS = 9
_MOST_CONFIGURATIONS = 6

_SQL = """
SELECT {columns}, s.measure, s.eval_task, s.to_task, s.from_task, s.from_minimum, s.to_minimum,
    s.control, s.layer, count(*) AS seeds, {moments}
FROM {similarities}
WHERE {where} AND isfinite(s.value)
GROUP BY ALL ORDER BY ALL
"""

_MEASURES = {
    "l2": ("L2 distance of weights", None),
    "cosine": ("cosine of weights", (-1.0, 1.0)),
    "cka": ("CKA of activations", (0.0, 1.0)),
}


def similarity(part: Part) -> Section | None:
    """One exhibit per configuration: a heat map for each measure, pairs over layers."""
    sql = _SQL.format(
        columns=part.columns,
        similarities=measured("measured_similarities", "s"),
        where=part.where,
        moments=moments("s.value"),
    ).strip()
    by_group = part.by_group(ask(part.database, sql))
    drawn = list(by_group.items())[:_MOST_CONFIGURATIONS]
    exhibits = [_of_group(label, rows, sql) for label, rows in drawn]
    if not exhibits:
        return None
    more = left_out("configurations", len(drawn), len(by_group))
    exhibits[-1] = replace(exhibits[-1], notes=[*exhibits[-1].notes, *more])
    return Section(f"Similarity: {part.title}", exhibits, part.title)


def _of_group(label: str, rows: Sequence[Row], sql: str) -> Exhibit:
    by_measure: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_measure.setdefault((row["measure"], row["eval_task"] or 0), []).append(row)
    keys = [key for name in _MEASURES for key in sorted(by_measure) if key[0] == name]
    pairs = list(dict.fromkeys(ends(row) for row in rows))
    drawn = spread_out(pairs, _MOST_PAIRS)
    return Exhibit(
        name=f"similarity-{label}",
        title=f"Similarity of minima of {label}",
        text="Pairs of minima over layers, mean over seeds. L2 and cosine compare weights; linear "
        "CKA (Kornblith et al. 2019) compares activations on one task's examples: 1 for the same "
        "up to rotation and scale.",
        sql=sql,
        panels=[_heat(by_measure[key], drawn) for key in keys[:_MOST_PANELS]],
        columns=3,
        notes=[
            *left_out("heat maps", min(len(keys), _MOST_PANELS), len(keys)),
            *left_out("pairs", len(drawn), len(pairs)),
        ],
    )


def _heat(rows: Sequence[Row], pairs: Sequence[str]) -> Heat:
    label, limits = _MEASURES[rows[0]["measure"]]
    task = rows[0]["eval_task"]
    # An axis counts from below: the first pair is to be at the top.
    lines = list(pairs)[::-1]
    layers = sorted({row["layer"] for row in rows}, key=_in_order)
    values = np.full((len(lines), len(layers)), np.nan)
    words = [[""] * len(layers) for _ in lines]
    for row in rows:
        if (pair := ends(row)) in lines:
            place = lines.index(pair), layers.index(row["layer"])
            found = summary(row)
            values[place] = found.mean
            words[place[0]][place[1]] = f"{row['layer']}, {pair}: {with_seeds(found, 3)}"
    of_task = f", task {task}" if task is not None else ""
    return Heat(f"{label}{of_task}", "layer", "", "", layers, lines, values, words, limits)


def _in_order(layer: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Layer 10 after layer 9, and what is no layer but all of them at the end."""
    parts = [part for part in re.split(r"(\d+)", layer) if part]
    return layer == "all", [
        (True, int(part), "") if part.isdecimal() else (False, 0, part) for part in parts
    ]
