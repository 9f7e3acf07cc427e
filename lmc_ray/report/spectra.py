"""Curvature at minima, and whether the ways to other minima lie along it."""

from collections.abc import Sequence

from lmc_ray.report.exhibits import (
    Curve,
    Exhibit,
    Intervals,
    Lines,
    Section,
    left_out,
    spread_out,
)
from lmc_ray.report.palette import nth, of_minimum
from lmc_ray.report.source import Part, Row, ask, measured, moments, summary

_MOST_CURVES = 10
_MOST_PANELS = 8

_EIGENVALUES = """
SELECT {columns}, r.minimum, r.after_task, r.eval_task, r.rank, count(*) AS seeds, {moments}
FROM (
    SELECT DISTINCT r.*, s.minimum, s.after_task, s.eval_task, s.rank, s.eigenvalue
    FROM {spectra}
    WHERE {where}
) AS r
GROUP BY ALL ORDER BY ALL
"""

_OVERLAPS = """
SELECT {columns}, s.minimum, s.after_task, s.eval_task, s.to_task, s.rank, count(*) AS seeds,
    {sequential},
    {multitask}
FROM {spectra}
WHERE {where}
    AND s.to_task IS NOT NULL
GROUP BY ALL ORDER BY ALL
"""

_SHARES = """
SELECT {columns}, r.minimum, r.after_task, r.eval_task, r.to_task, max(r.ranks) AS ranks,
    count(*) AS seeds,
    {sequential},
    {multitask}
FROM (
    SELECT r.*, s.cell_id AS spectrum, s.minimum, s.after_task, s.eval_task, s.to_task,
        count(*) AS ranks, sum(s.overlap_sequential ** 2) AS share_sequential,
        sum(s.overlap_multitask ** 2) AS share_multitask
    FROM {spectra}
    WHERE {where}
        AND s.to_task IS NOT NULL
    GROUP BY ALL
) AS r
GROUP BY ALL ORDER BY ALL
"""

_WAYS = ("sequential", "multitask")
_SPECTRA = measured("measured_spectra", "s")
_BANDS = "bands: 95 % interval of the mean over seeds"


def spectra(part: Part) -> Section | None:
    """Eigenvalues, overlaps of their eigenvectors with displacements, and the sums of these."""
    exhibits = [_eigenvalues(part), _overlaps(part), _shares(part)]
    found = [exhibit for exhibit in exhibits if exhibit]
    return Section(f"Curvature: {part.title}", found, part.title) if found else None


def _eigenvalues(part: Part) -> Exhibit | None:
    sql = _EIGENVALUES.format(
        columns=part.columns,
        spectra=_SPECTRA,
        where=part.where,
        moments=moments("r.eigenvalue"),
    ).strip()
    spectra_found = _by(part, ask(part.database, sql), to_task=False)
    if not spectra_found:
        return None
    drawn = spread_out(list(spectra_found.items()), _MOST_CURVES)
    curves = [
        Curve(
            label,
            nth(index),
            [row["rank"] for row in rows],
            [summary(row) for row in rows],
            shape="both",
        )
        for index, (label, rows) in enumerate(drawn)
    ]
    return Exhibit(
        name="eigenvalues",
        title="Largest eigenvalues of the Hessian",
        text=f"Of the loss of one task at one minimum, from the largest down; {_BANDS}.",
        sql=sql,
        panels=[Lines(curves[0].name if len(curves) == 1 else "", "rank", "eigenvalue", curves)],
        columns=1,
        notes=left_out("spectra", len(drawn), len(spectra_found)),
    )


def _overlaps(part: Part) -> Exhibit | None:
    sql = _OVERLAPS.format(
        columns=part.columns,
        spectra=_SPECTRA,
        where=part.where,
        sequential=moments("s.overlap_sequential", "sequential_"),
        multitask=moments("s.overlap_multitask", "multitask_"),
    ).strip()
    found = _by(part, ask(part.database, sql), to_task=True)
    drawn = spread_out(list(found.items()), _MOST_PANELS)
    panels = [
        Lines(label, "rank", "|cos|", curves, positive=True)
        for label, rows in drawn
        if (curves := [curve for way in _WAYS if (curve := _overlap(way, rows))])
    ]
    if not panels:
        return None
    return Exhibit(
        name="overlaps",
        title="Overlaps of eigenvectors with the ways to later minima",
        text="|cos| of each eigenvector with the displacement to the sequential and to the "
        "multitask minimum: forgetting moves along sharp directions, joint training avoids them "
        f"(Mirzadeh et al. 2021); {_BANDS}.",
        sql=sql,
        panels=panels,
        notes=left_out("spectra", len(drawn), len(found)),
    )


def _overlap(way: str, rows: Sequence[Row]) -> Curve | None:
    known = [row for row in rows if row[f"{way}_mean"] is not None]
    if not known:
        return None
    return Curve(
        f"to the {way} minimum",
        of_minimum(way),
        [row["rank"] for row in known],
        [summary(row, f"{way}_") for row in known],
        shape="both",
    )


def _shares(part: Part) -> Exhibit | None:
    sql = _SHARES.format(
        columns=part.columns,
        spectra=_SPECTRA,
        where=part.where,
        sequential=moments("r.share_sequential", "sequential_"),
        multitask=moments("r.share_multitask", "multitask_"),
    ).strip()
    rows = ask(part.database, sql)
    found = _by(part, rows, to_task=True)
    drawn = spread_out(list(found.items()), _MOST_PANELS)
    bars = [
        (label.replace("→ after task", f"→ {way}"), of_minimum(way), summary(row, f"{way}_"))
        for label, (row, *_) in drawn
        for way in _WAYS
        if row[f"{way}_mean"] is not None
    ]
    if not bars:
        return None
    names, styles, values = zip(*bars, strict=True)
    ranks = max(row["ranks"] for row in rows)
    return Exhibit(
        name="shares",
        title="Share of the ways inside the sharpest directions",
        text=f"Σ cos² over the {ranks} eigenvectors: 1 if the displacement lies in their span, 0 "
        "if it is at right angles to all; mean over seeds with its 95 % interval.",
        sql=sql,
        panels=[Intervals("", "Σ cos²", names, styles, values)],
        columns=1,
        notes=left_out("spectra", len(drawn), len(found)),
    )


def _by(part: Part, rows: Sequence[Row], to_task: bool) -> dict[str, list[Row]]:
    """The rows of each spectrum, by what it is called."""
    by_group = part.by_group(rows)
    found: dict[str, list[Row]] = {}
    for of, group_rows in by_group.items():
        for row in group_rows:
            name = f"{row['minimum']} {row['after_task']}"
            name = f"{name} → after task {row['to_task']}" if to_task else name
            name = f"{name}, on task {row['eval_task']}"
            name = f"{of}: {name}" if len(by_group) > 1 else name
            found.setdefault(name, []).append(row)
    return found
