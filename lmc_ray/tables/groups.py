"""The confirmed cells of a root, put together: which are seeds of one configuration."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lmc_ray.store.schemas import CONFIGURATION

if TYPE_CHECKING:
    import duckdb

Run = dict[str, Any]  # a row of `runs`

# The paper's names, in the order of its Table 1; between its methods and multitask, ours. As in
# `learners.METHODS`, which would import torch.
METHODS = {
    "naive-sgd": "naive SGD",
    "ewc": "EWC",
    "agem": "A-GEM",
    "er": "ER",
    "stable-sgd": "Stable SGD",
    "mcsgd": "MC-SGD",
    "er-mcsgd": "ER + MC-SGD",
    "weight-averaging": "weight averaging",
    "ema": "EMA",
    "multitask": "multitask",
}


class _Named(Protocol):
    """A study, or a configuration of one."""

    @property
    def name(self) -> str: ...
    @property
    def method(self) -> str: ...


_N = TypeVar("_N", bound=_Named)

SETTING = ("sweep", "benchmark", "tasks", "angle", "classes_per_task", "network")


@dataclass(frozen=True)
class Group:
    """One configuration of one method in one sweep, over its seeds.

    Attributes:
        runs: one row of `runs` per seed.
        differences: the columns that tell this configuration from the method's others in the same
            sweep and benchmark, with their values; empty where it is the only one. Beside labelled
            studies: from the one study without a label, whose own are empty.
        number: its place among all of the method's configurations there, from 1.
        alone: it is its study's only one.
    """

    runs: Sequence[Run]
    differences: dict[str, Any]
    number: int
    alone: bool

    @property
    def method(self) -> str:
        """As the store names it."""
        return self.runs[0]["method"]

    @property
    def name(self) -> str:
        """Its label in the sweep script; the method where it has none."""
        return _study(self.runs[0])

    @property
    def setting(self) -> tuple[Any, ...]:
        """The sweep, the sequence of tasks and the network: what one table has in common."""
        return _setting(self.runs[0])

    @property
    def label(self) -> str:
        """The method as people write it, with its study's label if that has one.

        Numbered where the study has confirmed several configurations.
        """
        name = METHODS.get(self.method, self.method)
        name = name if self.name == self.method else f"{name} ({self.name})"
        return name if self.alone else f"{name} {self.number}"

    @property
    def note(self) -> str:
        """What sets the configuration apart from the method's others, on a line."""
        values = ", ".join(f"{name} {_brief(value)}" for name, value in self.differences.items())
        return f"{self.label}: {values}"

    @property
    def finished(self) -> list[Run]:
        """The rows of the seeds that trained to their end."""
        return [run for run in self.runs if run["status"] == "finished"]


def confirmed(database: "duckdb.DuckDBPyConnection") -> list[Group]:
    """Every configuration that was confirmed, by setting and in the paper's order of methods."""
    return configurations(database, "confirm")


def configurations(database: "duckdb.DuckDBPyConnection", purpose: str) -> list[Group]:
    """Every configuration that was run for this purpose; of analyses, for each kind of them."""
    relation = database.execute(
        "SELECT * FROM runs WHERE purpose = $purpose ORDER BY seed, cell_id", {"purpose": purpose}
    )
    names = [column[0] for column in relation.description or ()]
    runs = [dict(zip(names, map(hashable, values), strict=True)) for values in relation.fetchall()]
    by_method: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (*_setting(run), run["method"], run["analysis"])
        by_method.setdefault(key, []).append(run)
    groups = [group for rows in by_method.values() for group in _configurations(rows)]
    order = list(METHODS)
    return sorted(
        groups,
        key=lambda group: (
            [str(part) for part in group.setting],
            order.index(group.method) if group.method in order else len(order),
            group.method,
            group.number,
        ),
    )


def hashable(value: Any) -> Any:
    """The value itself; of a list a tuple, so that it may be part of a key."""
    return tuple(value) if isinstance(value, list) else value


def called(name: str, those: Sequence[_N]) -> list[_N]:
    """What a user means by a name: the study of that name, else all studies of that method."""
    return [n for n in those if n.name == name] or [n for n in those if n.method == name]


def by_setting(groups: Iterable[Group]) -> dict[tuple[Any, ...], list[Group]]:
    """The groups of each sweep, sequence of tasks and network."""
    settings: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        settings.setdefault(group.setting, []).append(group)
    return settings


def title(run: Run) -> str:
    """What one table of results is about."""
    return f"{sequence(run)}, sweep {run['sweep']}"


def sequence(run: Run) -> str:
    """The sequence of tasks, the network and the part of the images, in words."""
    angle = f" of {run['angle']:g} degrees" if run["angle"] is not None else ""
    words = f"{run['benchmark']}, {run['tasks']} tasks{angle}", run["network"]
    return ", ".join((*filter(None, words), f"{run['split']} split"))


def _configurations(runs: list[Run]) -> list[Group]:
    by_values: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        by_values.setdefault(tuple(run[name] for name in CONFIGURATION), []).append(run)
    differing = [
        name
        for index, name in enumerate(CONFIGURATION)
        if len({values[index] for values in by_values}) > 1
    ]
    # By value, not by time, so that a configuration keeps its number while seeds come in.
    ordered = sorted(
        by_values.values(),
        key=lambda rows: (study_order(rows[0]), [_sortable(rows[0][n]) for n in differing]),
    )
    studies = Counter(_study(rows[0]) for rows in ordered)
    first = ordered[0][0]
    plain = first if _study(first) == first["method"] and studies[first["method"]] == 1 else None
    return [
        Group(
            rows,
            {
                name: rows[0][name]
                for name in differing
                if plain is None or rows[0][name] != plain[name]
            },
            number,
            alone=studies[_study(rows[0])] == 1,
        )
        for number, rows in enumerate(ordered, start=1)
    ]


def _study(run: Run) -> str:
    return run["study"] or run["method"]


def study_order(run: Run) -> tuple[bool, list[Any]]:
    """The study without a label first, then by label, whose numbers count as such."""
    study = _study(run)
    parts = re.split(r"([0-9]+)", study)
    return study != run["method"], [int(part) if part.isdigit() else part for part in parts]


def _setting(run: Run) -> tuple[Any, ...]:
    return tuple(run[name] for name in SETTING)


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sortable(value: Any) -> tuple[float, str]:
    """Numbers in their order, then words; a missing value first."""
    if value is None:
        return float("-inf"), ""
    return (float(value), "") if isinstance(value, int | float) else (float("inf"), str(value))
