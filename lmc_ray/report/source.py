"""Where a report's rows come from: SQL that anyone can run again, over one sequence of tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmc_ray.report import palette
from lmc_ray.report.palette import Style
from lmc_ray.statistics import Summary, from_moments
from lmc_ray.store.schemas import CONFIGURATION
from lmc_ray.tables.groups import (
    SETTING,
    Group,
    by_setting,
    confirmed,
    hashable,
    sequence,
)

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]

OWN = "r.own_minimum"
"""In SQL: which minimum is the method's own."""


def measured(table: str, name: str) -> str:
    """In SQL: the rows of a table as `name`, each with the cell that trained what it is about.

    That is `runs` as r: the cell itself, or of an analysis the one that its first minimum is from.
    """
    return (
        f"{table} AS {name} JOIN runs AS m USING (sweep, cell_id)\n"
        f"JOIN runs AS r ON r.sweep = {name}.sweep AND r.cell_id = "
        "CASE m.purpose WHEN 'analysis' THEN m.config ->> '$.ends[0][0]' ELSE m.cell_id END"
    )


def ask(database: "duckdb.DuckDBPyConnection", sql: str) -> list[Row]:
    """The rows of a query, by column."""
    relation = database.execute(sql)
    names = [column[0] for column in relation.description or ()]
    return [dict(zip(names, values, strict=True)) for values in relation.fetchall()]


def literal(value: object) -> str:
    """A value as SQL writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        # With an exponent it is a double from the start, and the very one that was stored.
        return repr(value) if "e" in repr(value) else f"{value!r}e0"
    return str(value)


def moments(column: str, name: str = "") -> str:
    """In SQL: mean and sample standard deviation of a column, for `summary` to read.

    The spread is that of finite values only, because SQL has none of infinity; then the mean is
    infinite too, and `summary` gives no interval.
    """
    return (
        f"avg({column}) AS {name}mean, "
        f"stddev_samp({column}) FILTER (isfinite({column})) AS {name}std"
    )


def summary(row: Row, name: str = "", scale: float = 1.0) -> Summary:
    """Mean and interval from the columns of `moments` and `seeds`."""
    mean, std = row[f"{name}mean"], row[f"{name}std"]
    return from_moments(row["seeds"], scale * mean, None if std is None else scale * std)


@dataclass(frozen=True)
class Part:
    """One sequence of tasks in one sweep: what may be compared and averaged.

    Attributes:
        database: the rows of the sweep.
        groups: the configurations that were confirmed there.
    """

    database: "duckdb.DuckDBPyConnection"
    groups: Sequence[Group]

    @property
    def sweep(self) -> str:
        """Its name."""
        return self.groups[0].runs[0]["sweep"]

    @property
    def title(self) -> str:
        """The sequence of tasks, in words."""
        return sequence(self.groups[0].runs[0])

    @cached_property
    def keys(self) -> list[str]:
        """The columns of `runs` that tell the configurations apart."""
        differing = {name for group in self.groups for name in group.differences}
        return ["method", *(name for name in CONFIGURATION if name in differing)]

    @property
    def columns(self) -> str:
        """The same for SQL, of `runs` as r."""
        return ", ".join(f"r.{name}" for name in self.keys)

    @property
    def where(self) -> str:
        """In SQL: the finished cells of this part, of `runs` as r."""
        run = self.groups[0].runs[0]
        same = [
            f"r.{name} = {literal(run[name])}" if run[name] is not None else f"r.{name} IS NULL"
            for name in SETTING
        ]
        return " AND ".join([*same, "r.purpose = 'confirm'", "r.status = 'finished'"])

    def only(self, group: Group) -> str:
        """In SQL: the cells of one configuration of this part, of `runs` as r."""
        run = group.runs[0]
        return " AND ".join(
            f"r.{name} IS NOT DISTINCT FROM {literal(run[name])}" for name in self.keys
        )

    def group(self, row: Row) -> Group:
        """The configuration of a row that has the columns `keys`."""
        return self._by_key[tuple(hashable(row[name]) for name in self.keys)]

    @cached_property
    def _by_key(self) -> dict[tuple[Any, ...], Group]:
        return {tuple(g.runs[0][name] for name in self.keys): g for g in self.groups}

    def by_group(self, rows: Iterable[Row]) -> dict[str, list[Row]]:
        """Rows by the label of their configuration, in the order of the tables."""
        found: dict[str, list[Row]] = {group.label: [] for group in self.groups}
        for row in rows:
            found[self.group(row).label].append(row)
        return {label: of_group for label, of_group in found.items() if of_group}

    def style(self, row: Row) -> Style:
        """How a row's configuration is drawn."""
        return self.styles[self.group(row).label]

    @cached_property
    def styles(self) -> dict[str, Style]:
        """How each configuration is drawn, by its label: no two alike, a method's first as ever."""
        styles: dict[str, Style] = {}
        for group in sorted(self.groups, key=lambda group: group.number):
            usual = palette.of_method(group.method, group.number)
            more = (palette.of_method(group.method, group.number + n) for n in range(palette.MANY))
            styles[group.label] = next((s for s in more if s not in styles.values()), usual)
        return styles


def parts(database: "duckdb.DuckDBPyConnection") -> list[Part]:
    """The sequences of tasks of a database with one sweep."""
    return [Part(database, groups) for groups in by_setting(confirmed(database)).values()]
