"""Loss and error along the paths between minima (Mirzadeh et al. 2021)."""

from collections.abc import Sequence
from dataclasses import replace

from lmc_ray.report.exhibits import Curve, Exhibit, Lines, Section, left_out, spread_out
from lmc_ray.report.palette import Style, nth
from lmc_ray.report.source import OWN, Part, Row, ask, literal, moments, summary
from lmc_ray.report.words import ends
from lmc_ray.tables.groups import Group

_MOST_CURVES = 12
_MOST_TASKS = 6
_MOST_CONFIGURATIONS = 12

_IS_OWN = f"""p.curve = 'linear' AND p.control = 'same-init' AND p.from_minimum = {OWN}
    AND p.to_minimum = p.from_minimum AND p.from_task = 1 AND p.to_task = r.tasks"""

_OWN_PATHS = """
SELECT {columns}, p.eval_task, p.alpha, count(*) AS seeds,
    {loss},
    {error}
FROM paths AS p JOIN runs AS r USING (sweep, cell_id)
WHERE {where}
    AND {own}
GROUP BY ALL ORDER BY ALL
"""

_ALL_PATHS = """
SELECT {columns}, p.eval_task, p.from_task, p.to_task, p.from_minimum, p.to_minimum,
    p.curve, p.control, p.alpha, count(*) AS seeds,
    {loss},
    {error}
FROM paths AS p JOIN runs AS r USING (sweep, cell_id)
WHERE {where}
GROUP BY ALL ORDER BY ALL
"""

_FROM_TO = "From α = 0, where the path starts, to α = 1, where it ends"
_BANDS = "bands: 95 % interval of the mean over seeds"


def paths(part: Part) -> Section | None:
    """Each method's own path side by side; then all paths of those that have others too."""
    own = _own(part)
    several = _with_others(part)
    drawn = several[:_MOST_CONFIGURATIONS]
    exhibits = [own] if own else []
    exhibits += [_of_configuration(part, group) for group in drawn]
    if further := len(several) - len(drawn):
        note = f"not drawn: the paths of {further} further configurations"
        exhibits[-1] = replace(exhibits[-1], notes=[*exhibits[-1].notes, note])
    return Section(f"Paths: {part.title}", exhibits) if exhibits else None


def _own(part: Part) -> Exhibit | None:
    sql = _OWN_PATHS.format(
        columns=part.columns,
        loss=moments("p.loss", "loss_"),
        error=moments("1 - p.accuracy", "error_"),
        where=part.where(),
        own=_IS_OWN,
    ).strip()
    by_task = _by_task(ask(part.database, sql))
    if not by_task:
        return None
    panels: list[Lines] = []
    for task, rows in by_task.items():
        by_label = list(part.by_group(rows).items())[:_MOST_CURVES]
        curves = [(label, part.style(of_group[0]), of_group) for label, of_group in by_label]
        panels += _loss_and_error(task, curves)
    count = max(len(part.by_group(rows)) for rows in by_task.values())
    return Exhibit(
        name="own-paths",
        title="From each method's first minimum to its last",
        text=f"{_FROM_TO}: the method's own minima after the first and the last task, scored on "
        f"the first; {_BANDS}.",
        sql=sql,
        panels=panels,
        notes=left_out("configurations", min(count, _MOST_CURVES), count),
    )


def _with_others(part: Part) -> list[Group]:
    """The configurations that have other paths than their own."""
    sql = (
        f"SELECT DISTINCT {part.columns} FROM barriers AS p JOIN runs AS r USING (sweep, cell_id)"
        f" WHERE {part.where()} AND NOT ({_IS_OWN})"
    )
    found = {id(part.group(row)) for row in ask(part.database, sql)}
    return [group for group in part.groups if id(group) in found]


def _of_configuration(part: Part, group: Group) -> Exhibit:
    sql = _ALL_PATHS.format(
        columns=part.columns,
        loss=moments("p.loss", "loss_"),
        error=moments("1 - p.accuracy", "error_"),
        where=f"{part.where()} AND {_is(part, group)}",
    ).strip()
    by_task = _by_task(ask(part.database, sql))
    tasks = spread_out(list(by_task), _MOST_TASKS)
    kinds = list(dict.fromkeys(ends(row) for rows in by_task.values() for row in rows))
    drawn = set(spread_out(kinds, _MOST_CURVES))
    style = {kind: nth(index) for index, kind in enumerate(kind for kind in kinds if kind in drawn)}
    panels: list[Lines] = []
    for task in tasks:
        by_path: dict[str, list[Row]] = {}
        for row in by_task[task]:
            by_path.setdefault(ends(row), []).append(row)
        curves = [(path, style[path], rows) for path, rows in by_path.items() if path in drawn]
        panels += _loss_and_error(task, curves)
    return Exhibit(
        name=f"paths-{part.label(group)}",
        title=f"All paths of {part.label(group)}",
        text=f"{_FROM_TO}; minima are named by their kind and the last task learned; {_BANDS}.",
        sql=sql,
        panels=panels,
        notes=[
            *left_out("tasks", len(tasks), len(by_task)),
            *left_out("paths", len(drawn), len(kinds)),
        ],
    )


def _is(part: Part, group: Group) -> str:
    """In SQL: the cells of this configuration."""
    run = group.runs[0]
    return " AND ".join(f"r.{name} IS NOT DISTINCT FROM {_value(run[name])}" for name in part.keys)


def _value(value: object) -> str:
    return "NULL" if value is None else literal(list(value) if isinstance(value, tuple) else value)


def _by_task(rows: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["eval_task"], []).append(row)
    return dict(sorted(found.items()))


def _loss_and_error(task: int, curves: Sequence[tuple[str, Style, Sequence[Row]]]) -> list[Lines]:
    """The two panels of one task."""
    return [
        Lines(
            f"on task {task}",
            "α",
            label,
            [
                Curve(
                    name,
                    style,
                    [row["alpha"] for row in rows],
                    [summary(row, quantity, scale) for row in rows],
                )
                for name, style, rows in curves
            ],
        )
        for label, quantity, scale in (("loss", "loss_", 1.0), ("error, %", "error_", 100.0))
    ]
