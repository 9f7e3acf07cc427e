"""Which configurations a night trains again: confirmed by a sweep, or written down in a file."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lmc_ray.benchmarks import Benchmark, defaults, load
from lmc_ray.errors import UserError, unknown
from lmc_ray.learners import METHODS, hyperparameters
from lmc_ray.learners.hyperparameters import SGD
from lmc_ray.sweep.cells import Cell, Place, configuration, place_of
from lmc_ray.sweep.place import open_place
from lmc_ray.sweep.wishes import apart
from lmc_ray.tables.groups import Group, confirmed

if TYPE_CHECKING:
    import duckdb

# Keys of a configuration in a file, beside its hyperparameters, and what they must be.
_KEYS: dict[str, tuple[type[Any] | tuple[type[Any], ...], str]] = {
    "method": (str, "text"),
    "benchmark": (str, "text"),
    "tasks": (int, "a whole number"),
    "angle": ((int, float), "a number"),
    "network": (str, "text"),
}


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One configuration, its benchmark opened."""

    method: str
    place: Place
    hyperparameters: SGD
    benchmark: Benchmark
    source: str
    """The benchmark as a worker can open it."""

    @property
    def key(self) -> tuple[str, str]:
        """What a night has one of: a method on a benchmark."""
        return self.method, self.place.benchmark

    @property
    def configuration(self) -> str:
        """All that decides numbers, but seed, night and code."""
        cell = Cell(
            method=self.method,
            place=self.place,
            hyperparameters=self.hyperparameters,
            seed=0,
            purpose="nightly",
        )
        return configuration(cell.specification)


def confirmed_best(
    database: "duckdb.DuckDBPyConnection", sweep: str, data: str | None
) -> list[Pinned]:
    """The configuration of each method and benchmark that a sweep has confirmed.

    Where there are several (of a Pareto search, or of labelled studies), that of the study without
    a label, and of these the best on validation data: test data choose nothing.

    Args:
        database: of that sweep.
        sweep: its name.
        data: folder of the images.

    Raises:
        UserError: nothing is confirmed, or the images are others now.
        UnavailableError: the images cannot be downloaded now.
    """
    searched = _validation_accuracies(database)

    def worth(group: Group) -> tuple[bool, float]:
        return group.name == group.method, searched.get(_searched_as(group.runs[0]["config"]), 0.0)

    best: dict[tuple[str, str], Group] = {}
    for group in confirmed(database):
        if group.finished:
            key = group.method, group.runs[0]["benchmark"]
            best[key] = max(best.get(key, group), group, key=worth)
    if not best:
        raise UserError(
            f"sweep '{sweep}' has no confirmed configuration: let it finish, or write down with"
            " --pinned what to run"
        )
    cells = [group.finished[0] for group in best.values()]
    return [_from_cell(json.loads(cell["config"]), sweep, data) for cell in cells]


def read_pinned(path: Path, data: str | None) -> list[Pinned]:
    """The configurations in a TOML or JSON file, under `configurations`.

    Each names its method and benchmark, and whatever is not the default: tasks, angle, network and
    any hyperparameter.

    Raises:
        UserError: the file cannot be read, or a configuration in it does not fit.
        UnavailableError: the images cannot be downloaded now.
    """
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror}") from None
    except ValueError as problem:  # of JSON, TOML and UTF-8
        raise UserError(f"{path} is no {_kind(path)}: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} has no list 'configurations'")
    for name in content:
        if name != "configurations":
            raise UserError(f"{path}: {unknown('key', name, ['configurations'])}")
    entries = content.get("configurations")
    if not (isinstance(entries, list) and entries):
        raise UserError(f"{path} has no list 'configurations'")
    found: list[Pinned] = []
    for number, entry in enumerate(entries, start=1):
        try:
            pinned = _from_entry(entry, data)
            if pinned.key in {other.key for other in found}:
                raise UserError("its method and benchmark have one already")
        except UserError as problem:
            raise type(problem)(f"{path}, configuration {number}: {problem}") from None
        found.append(pinned)
    return found


def _validation_accuracies(database: "duckdb.DuckDBPyConnection") -> dict[str, float]:
    """Mean over the search's seeds of each configuration; one that diverged has learned nothing."""
    sql = """
        SELECT config, CASE status WHEN 'diverged' THEN 0 ELSE average_accuracy END FROM runs
        WHERE purpose = 'search' AND status IN ('finished', 'diverged')
    """
    found: dict[str, list[float]] = {}
    for config, accuracy in database.execute(sql).fetchall():
        found.setdefault(_searched_as(config), []).append(accuracy)
    return {config: fmean(accuracies) for config, accuracies in found.items()}


def _searched_as(config: str) -> str:
    """What the confirmed cells of a configuration share with those that the search ran."""
    return configuration(json.loads(config) | {"split": None})


def _from_cell(specification: dict[str, Any], sweep: str, data: str | None) -> Pinned:
    """The configuration of a stored cell."""
    method = specification["method"]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    place = place_of(specification)
    try:
        benchmark = load(
            place.benchmark,
            tasks=place.tasks,
            data=data,
            angle=place.angle,
            classes_per_task=place.classes_per_task,
        )
    except UserError as problem:
        raise type(problem)(  # a download that failed may do later
            f"the images of {place.benchmark} that sweep '{sweep}' has seen are not found: give"
            f" their folder with --data ({problem})"
        ) from None
    if benchmark.fingerprint != place.fingerprint:
        raise UserError(
            f"the images of {place.benchmark} are not those that sweep '{sweep}' has seen:"
            " give their folder with --data"
        )
    known = METHODS[method].hyperparameters.__dataclass_fields__
    values = {name: value for name, value in specification.items() if name in known}
    return Pinned(
        method=method,
        place=place,
        hyperparameters=hyperparameters(method, values),
        benchmark=benchmark,
        source=place.benchmark,
    )


def _from_entry(entry: Any, data: str | None) -> Pinned:
    """One configuration of a file, checked."""
    if not isinstance(entry, dict):
        raise UserError(f"is no table of keys and values but {entry!r}")
    for name in ("method", "benchmark"):
        if name not in entry:
            raise UserError(f"has no {name}")
    for name, (kind, words) in _KEYS.items():
        value = entry.get(name)
        if name in entry and (isinstance(value, bool) or not isinstance(value, kind)):
            raise UserError(f"{name} must be {words}, got {value!r}")
    method, source = entry["method"], entry["benchmark"]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    known = METHODS[method].hyperparameters.__dataclass_fields__
    for name in entry:
        if name not in (*_KEYS, *known):
            raise unknown("key", name, [*_KEYS, *known])
    values = {name: value for name, value in entry.items() if name in known}
    angle = float(entry["angle"]) if "angle" in entry else None
    opened = open_place(source, entry.get("tasks"), data, angle, entry.get("network"))
    usual = {"epochs": defaults(source, data=data).epochs, **apart(opened.place.network, method)}
    return Pinned(
        method=method,
        place=opened.place,
        hyperparameters=hyperparameters(method, usual | values),
        benchmark=opened.benchmark,
        source=opened.source,
    )


def _kind(path: Path) -> str:
    return "JSON" if path.suffix == ".json" else "TOML"
