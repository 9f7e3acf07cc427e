"""What the paper claims of paths, as differences within seeds."""

from lmc_ray.report.exhibits import Exhibit, Intervals, left_out
from lmc_ray.report.source import Part, literal
from lmc_ray.statistics import Summary
from lmc_ray.tables.contrasts import Contrast, contrast_query, contrast_sheet, contrasts
from lmc_ray.tables.groups import Group

_MOST = 40


def within_seeds(part: Part, group: Group) -> Exhibit | None:
    """The contrasts of one configuration; None where its minima allow none."""
    rows = contrasts(part.database, group)
    if not rows:
        return None
    sheet = contrast_sheet(group, rows)
    found = [(each.what, value) for each in rows if (value := _standardised(each))]
    drawn = found[:_MOST]
    panel = Intervals(
        "",
        "difference, in its standard deviations",
        [what for what, _ in drawn],
        [part.styles[group.label]] * len(drawn),
        [value for _, value in drawn],
    )
    return Exhibit(
        name=f"within-seeds-{group.label}",
        title=f"{group.label}: within seeds",
        text="What two paths of the same seed differ by. On one axis because each difference is "
        "divided by its standard deviation over seeds; the table has them in their own units.",
        sql=_sql(group),
        panels=[panel] if drawn else [],
        columns=1,
        sheet=sheet,
        notes=[*sheet.notes, *left_out("differences", len(drawn), len(rows))],
    )


def _standardised(each: Contrast) -> Summary | None:
    """The mean difference and its interval over the standard deviation; None without scatter."""
    found = each.paired.difference
    if not found.std or found.low is None or found.high is None:
        return None
    return Summary(
        found.count, found.mean / found.std, None, found.low / found.std, found.high / found.std
    )


def _sql(group: Group) -> str:
    """The query behind it with its values in place."""
    sql, values = contrast_query(group)
    for name, value in values.items():
        sql = sql.replace(f"${name}", literal(value))
    return sql
