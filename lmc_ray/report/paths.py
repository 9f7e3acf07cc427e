"""Loss and error along the paths between minima (Mirzadeh et al. 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmc_ray.report import palette
from lmc_ray.report.contrasts import within_seeds
from lmc_ray.report.exhibits import Curve, Exhibit, Lines, Section, left_out, spread_out
from lmc_ray.report.palette import Style
from lmc_ray.report.source import OWN, Part, Row, ask, moments, summary
from lmc_ray.tables.barriers import BENT
from lmc_ray.tables.groups import Group

_MOST_CURVES = 12
_MOST_PLACES = 6
_MOST_CONFIGURATIONS = 12

IS_OWN = f"""(b.curve = 'linear' AND b.control = 'same-init' AND b.from_minimum = {OWN}
    AND b.to_minimum = b.from_minimum AND b.from_task = 1 AND b.to_task = r.tasks
    AND b.eval_task = b.from_task)"""

# Every path once, with the cell that its first minimum comes from.
_MEASURED = """measured_paths AS b
    JOIN runs AS r ON r.sweep = b.sweep AND r.cell_id = b.from_cell_id"""

# First the paths and only then their points, or DuckDB may join points and cells by sweep alone.
_POINTS = """
WITH asked AS MATERIALIZED (
    SELECT {columns}, {question} AS question, b.sweep, b.cell_id, b.path_id,
        b.from_minimum, b.from_task, b.to_minimum, b.to_task, b.curve, b.control, b.eval_task,
        b.split
    FROM {measured}
    WHERE {where}
        AND {which}
),
points AS (
    SELECT {columns}, question, r.to_task, r.from_task, eval_task, r.from_minimum, r.to_minimum,
        curve, control, p.alpha, count(*) AS seeds,
        {loss},
        {error}
    FROM asked AS r
        JOIN paths AS p USING (sweep, cell_id, path_id, curve, control, eval_task, split)
    WHERE question IS NOT NULL
    GROUP BY ALL
)
-- Of the seeds' paths some may have been measured on a finer grid: what all of them have is drawn.
SELECT * FROM points AS r
QUALIFY seeds = max(seeds) OVER (PARTITION BY {columns}, question, to_task, from_task, eval_task,
    from_minimum, to_minimum, curve, control)
ORDER BY ALL
"""

_FROM_TO = "From α = 0, where the path starts, to α = 1, where it ends"
_BANDS = "Bands: 95 % interval of the mean over seeds"


@dataclass(frozen=True)
class _Question:
    """What some paths are there to answer.

    Attributes:
        title: of the exhibit, after the configuration.
        text: what it shows.
        which: in SQL: the paths that belong to it and to no other, of `measured_paths` as b.
    """

    title: str
    text: str
    which: str


# What a path is, beside its points and its configuration.
_PATH = "from_minimum", "from_task", "to_minimum", "to_task", "eval_task"
_KIND = "curve", "control", "from_minimum", "to_minimum"

_SAME = "b.control = 'same-init' AND b.eval_task = b.from_task"

QUESTIONS: Mapping[str, _Question] = {
    "first": _Question(
        "from the first minimum, on its own task",
        "Learning on moves the weights from the minimum after task 1. The loss of task 1 on the "
        "lines to what came of it later: to the sequential minima (forgetting), to those of "
        "training on all tasks together, and from connected to connected minima.",
        f"{_SAME} AND b.from_task = 1 AND b.to_task > 1",
    ),
    "joint": _Question(
        "between minima of the same tasks",
        "Both ends have learned the same tasks, in different ways: one after the other, say, and "
        "all together. Scored on the last of them.",
        f"{_SAME} AND b.from_task = b.to_task",
    ),
    "forwards": _Question(
        "from later minima onwards, on their own task",
        "As from the first minimum, but from the one after task t, on task t: whether tasks in the "
        "middle of the sequence fare alike.",
        f"{_SAME} AND b.from_task > 1 AND b.to_task > b.from_task",
    ),
    "initialisation": _Question(
        "to a minimum of another initialisation",
        "The control: whether a line is low because its ends grew from the same initial weights. "
        "Beside it the same path between minima that did.",
        "b.control = 'other-init'",
    ),
    "seeds": _Question(
        "between seeds",
        "From a seed's minimum to the next seed's: as they are, and with the hidden units of the "
        "second permuted to match the first's (aligned). What counts as a seed here is a pair of "
        "neighbours, each of which shares a seed with the next.",
        "b.control IN ('other-seed', 'aligned')",
    ),
    "others": _Question(
        "other paths",
        "Paths backwards, or scored on a task other than that of their first minimum.",
        "b.control = 'same-init' AND (b.eval_task <> b.from_task OR b.to_task < b.from_task)",
    ),
}


def paths(part: Part) -> Section | None:
    """Each method's own path side by side; then, of those that have others, question by question.

    What was measured twice, while training and by an analysis, is shown once.
    """
    own = _own(part)
    exhibits = [own] if own else []
    asked = _asked(part)
    groups = [group for group in part.groups if group.label in asked]
    drawn = groups[:_MOST_CONFIGURATIONS]
    which = " OR ".join(map(part.only, drawn)) if len(drawn) < len(part.groups) else "true"
    sql = _points(part, _question(), f"({which})")
    by_label = part.by_group(ask(part.database, sql)) if drawn else {}
    for group in drawn:
        rows = by_label.get(group.label, [])
        answers = [
            _answer(group, name, rows, sql) for name in QUESTIONS if name in asked[group.label]
        ]
        exhibits += [each for each in (*answers, within_seeds(part, group)) if each]
    if further := len(groups) - len(drawn):
        note = f"not drawn: the paths of {further} further configurations"
        exhibits[-1] = replace(exhibits[-1], notes=[*exhibits[-1].notes, note])
    return Section(f"Paths: {part.title}", exhibits, part.title) if exhibits else None


def _own(part: Part) -> Exhibit | None:
    sql = _points(part, "'own'", IS_OWN)
    by_task: dict[int, list[Row]] = {}
    for row in ask(part.database, sql):
        by_task.setdefault(row["eval_task"], []).append(row)
    if not by_task:
        return None
    panels: list[Lines] = []
    for task, rows in sorted(by_task.items()):
        by_label = list(part.by_group(rows).items())[:_MOST_CURVES]
        curves = [(label, part.style(of_group[0]), of_group) for label, of_group in by_label]
        panels += _loss_and_error(f"on task {task}", curves)
    count = max(len(part.by_group(rows)) for rows in by_task.values())
    return Exhibit(
        name="own-paths",
        title="From each method's first minimum to its last",
        text=f"{_FROM_TO}: the method's own minima after the first and the last task, scored on "
        f"the first. {_BANDS}.",
        sql=sql,
        panels=panels,
        notes=left_out("configurations", min(count, _MOST_CURVES), count),
    )


def _points(part: Part, question: str, which: str) -> str:
    """The query for the points of some paths.

    Args:
        part: where they are.
        question: in SQL: which question a path belongs to, of `measured_paths` as b.
        which: in SQL: which paths, of `runs` as r too.
    """
    return _POINTS.format(
        columns=part.columns,
        question=question,
        measured=_MEASURED,
        where=part.where,
        which=which,
        loss=moments("p.loss", "loss_"),
        error=moments("1 - p.accuracy", "error_"),
    ).strip()


def _question() -> str:
    """In SQL: which question a path belongs to, of `measured_paths` as b and `runs` as r."""
    cases = "\n".join(f"    WHEN {each.which} THEN '{name}'" for name, each in QUESTIONS.items())
    return f"CASE\n{cases}\n    END"


def _asked(part: Part) -> dict[str, set[str]]:
    """The questions that each configuration has paths for, beside its own path; by its label."""
    sql = (
        f"SELECT DISTINCT {part.columns}, {_question()} AS question\nFROM {_MEASURED}\n"
        f"WHERE {part.where} AND NOT {IS_OWN}"
    )
    found: dict[str, set[str]] = {}
    for row in ask(part.database, sql):
        found.setdefault(part.group(row).label, set()).add(row["question"])
    return found


def _of_question(name: str, rows: Sequence[Row]) -> list[Row]:
    """The points of the paths that belong to a question, and of those to show beside them."""
    found = [row for row in rows if row["question"] == name]
    if name != "initialisation":
        return found
    controls = {tuple(row[n] for n in _PATH) for row in found}
    return found + [
        row
        for row in rows
        if row["control"] == "same-init" and tuple(row[n] for n in _PATH) in controls
    ]


def _answer(group: Group, name: str, rows: Sequence[Row], sql: str) -> Exhibit | None:
    """One configuration's paths for one question: two panels wherever they lead from and to."""
    question = QUESTIONS[name]
    by_place: dict[tuple[int, int, int], dict[tuple[str, ...], list[Row]]] = {}
    for row in _of_question(name, rows):
        place = row["to_task"], row["from_task"], row["eval_task"]
        path = tuple(row[n] for n in _KIND)
        by_place.setdefault(place, {}).setdefault(path, []).append(row)
    if not by_place:
        return None
    # The last task first: it is what the sequence comes to, and never left out.
    places = sorted(by_place, key=lambda place: (-place[0], *place[1:]))
    shown = spread_out(places, _MOST_PLACES)
    panels: list[Lines] = []
    bent = False
    for place in shown:
        found = sorted(by_place[place].values(), key=lambda each: _order(each[0]))[:_MOST_CURVES]
        bent = bent or any(each[0]["curve"] == "bezier" for each in found)
        curves = [(_name(each[0]), _style(each[0]), each) for each in found]
        panels += _loss_and_error(_at(found[0][0]), curves)
    most = max(len(by_place[place]) for place in shown)
    return Exhibit(
        name=f"paths-{name}-{group.label}",
        title=f"{group.label}: {question.title}",
        text=f"{question.text} {_BANDS}.",
        sql=sql,
        panels=panels,
        notes=[
            *([BENT] if bent else []),
            *left_out("pairs of panels", len(shown), len(places)),
            *left_out("paths of a panel", min(most, _MOST_CURVES), most),
        ],
    )


def _at(row: Row) -> str:
    """Where a path leads from and to, in the title of its panel."""
    start, stop = row["from_task"], row["to_task"]
    way = f"after task {start}" if start == stop else f"after task {start} → after task {stop}"
    return f"{way}, on task {row['eval_task']}"


def _name(row: Row) -> str:
    """What a curve is called where the panel says which tasks."""
    match row["control"]:
        case "other-seed":
            name = f"{row['from_minimum']}, as they are"
        case "aligned":
            name = f"{row['from_minimum']}, aligned"
        case "other-init":
            name = f"{row['from_minimum']} → {row['to_minimum']} of another initialisation"
        case _:
            name = f"{row['from_minimum']} → {row['to_minimum']}"
    return f"{name} (Bézier)" if row["curve"] == "bezier" else name


def _style(row: Row) -> Style:
    """The colour of the minimum it leads to, dashed where it is bent or aligned.

    A path between minima of two kinds that does not start at a sequential one has dots.
    """
    dashed = row["curve"] == "bezier" or row["control"] == "aligned"
    dotted = row["from_minimum"] not in ("sequential", row["to_minimum"])
    minimum = "other-init" if row["control"] == "other-init" else row["to_minimum"]
    return palette.of_minimum(minimum, kind=dashed + 2 * dotted)


def _order(row: Row) -> tuple[object, ...]:
    """In a panel and its legend: lines before curves, sequential minima before the others."""
    bent = row["curve"] != "linear"
    special = ("same-init", "other-init", "other-seed", "aligned").index(row["control"])
    names = [name != "sequential" for name in (row["from_minimum"], row["to_minimum"])]
    return bent, special, *names, row["from_minimum"], row["to_minimum"]


def _loss_and_error(title: str, curves: Sequence[tuple[str, Style, Sequence[Row]]]) -> list[Lines]:
    """The two panels of one place."""
    return [
        Lines(
            title,
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
            positive=True,
        )
        for label, quantity, scale in (("loss", "loss_", 1.0), ("error, %", "error_", 100.0))
    ]
