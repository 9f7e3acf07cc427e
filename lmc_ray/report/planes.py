"""Loss on planes through three minima (Mirzadeh et al. 2021)."""

from collections.abc import Sequence

import numpy as np

from lmc_ray.report.exhibits import Anchor, Exhibit, Heat, Section, left_out, spread_out
from lmc_ray.report.source import Part, Row, ask, measured

_MOST = 12

_SQL = """
SELECT {columns}, r.seed, p.cell_id, p.plane_id, p.eval_task, p.split, p.x, p.y, p.loss, p.accuracy,
    p.anchors, p.anchor_x, p.anchor_y
FROM {planes}
WHERE {where}
QUALIFY dense_rank() OVER (
    PARTITION BY {columns}, p.plane_id, p.eval_task, p.split
    ORDER BY r.seed, m.finished_at DESC, p.cell_id
) = 1
ORDER BY {columns}, p.plane_id, p.eval_task, p.split, p.y, p.x
"""


def planes(part: Part) -> Section | None:
    """One seed's planes: those of different seeds lie elsewhere, and have no mean."""
    sql = _SQL.format(
        columns=part.columns, planes=measured("planes", "p"), where=part.where
    ).strip()
    by_plane: dict[tuple[str, ...], list[Row]] = {}
    for label, rows in part.by_group(ask(part.database, sql)).items():
        for row in rows:
            key = (label, row["plane_id"], str(row["eval_task"]), row["split"], row["cell_id"])
            by_plane.setdefault(key, []).append(row)
    if not by_plane:
        return None
    drawn = spread_out(list(by_plane.values()), _MOST)
    several = len({key[0] for key in by_plane}) > 1
    exhibit = Exhibit(
        name="planes",
        title="Loss on planes through three minima",
        text="Axes are L2 distances in weight space; the first leads from the first minimum to the "
        "second. Colours follow the logarithm of the loss. One seed, the smallest: the planes of "
        "different seeds lie elsewhere, so that a mean over them would mean nothing.",
        sql=sql,
        panels=[_heat(part, rows, several) for rows in drawn],
        notes=left_out("planes", len(drawn), len(by_plane)),
    )
    return Section(f"Loss planes: {part.title}", [exhibit], part.title)


def _heat(part: Part, rows: Sequence[Row], several: bool) -> Heat:
    first = rows[0]
    x, y = sorted({row["x"] for row in rows}), sorted({row["y"] for row in rows})
    column = {value: index for index, value in enumerate(x)}
    line = {value: index for index, value in enumerate(y)}
    values = np.full((len(y), len(x)), np.nan)
    words = [[""] * len(x) for _ in y]
    for row in rows:
        place = line[row["y"]], column[row["x"]]
        values[place] = row["loss"]
        words[place[0]][place[1]] = (
            f"loss {row['loss']:.3g}, accuracy {100 * row['accuracy']:.1f} %"
        )
    seed = "" if first["seed"] is None else f", seed {first['seed']}"
    of = f"{part.group(first).label}, " if several else ""
    anchors = zip(first["anchors"], first["anchor_x"], first["anchor_y"], strict=True)
    return Heat(
        f"{of}on task {first['eval_task']}{seed}",
        "distance",
        "distance",
        "loss",
        x,
        y,
        values,
        words,
        log=True,
        anchors=[Anchor(name.replace(":", " "), *place) for name, *place in anchors],
    )
