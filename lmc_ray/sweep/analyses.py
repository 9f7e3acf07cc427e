"""Analyses as cells: what is measured between which kept minima, its identity, and the usual plan.

The plan follows from what the root holds. Everything that a trio allows is measured; other methods'
minima give the paths of their own sequence.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from lmc_ray.errors import UserError, unknown
from lmc_ray.measuring import Bend, Control, End
from lmc_ray.sweep.cells import PROTOCOL, Place, configuration, place_of

if TYPE_CHECKING:
    import duckdb

Kind = Literal["path", "seeds", "plane", "spectrum", "similarity"]
KINDS: tuple[Kind, ...] = ("path", "seeds", "plane", "spectrum", "similarity")


def kinds_of(names: Sequence[str] | None) -> tuple[Kind, ...]:
    """The kinds of measurement of these names; None for all.

    Raises:
        UserError: there is none of a name.
    """
    for name in names or ():
        if name not in KINDS:
            raise unknown("measurement", name, KINDS)
    return KINDS if names is None else tuple(kind for kind in KINDS if kind in names)


_MINIMA = ("sequential", "multitask", "connected", "inner", "averaged")
_PATH = re.compile(r"(\w+):(\d+)->(\w+):(\d+)@(all|\d+(?:,\d+)*)")


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """How the minima of a sweep are measured; for `main(…, connectivity=Connectivity(…))`."""

    points: int = 41
    """Values of alpha on a path, both ends included."""
    bend: Bend | None = field(default_factory=Bend)
    """How curved paths are trained; None: none are."""
    plane_points: int = 25
    """Of each side of a plane's grid."""
    plane_examples: int = 2_000
    """Test images of the task, at most all."""
    eigenpairs: int = 20
    spectrum_examples: int = 2_000
    """Training examples that the Hessian's loss is the mean over, at most all."""
    tolerance: float = 1e-4
    """Of an eigenpair's residual, relative to the largest eigenvalue."""
    max_steps: int = 200
    """Of Lanczos' method."""
    similarity_examples: int = 2_000
    """Test images for CKA, at most all."""

    def check(self) -> None:
        """Refuse what no worker could do.

        Raises:
            UserError: a number is too small, or more eigenpairs are wanted than steps taken.
        """
        least = {"points": 2, "plane_points": 2}
        numbers = {name: value for name, value in vars(self).items() if name != "bend"}
        if self.bend is not None:
            numbers |= {f"bend.{name}": value for name, value in vars(self.bend).items()}
        for name, value in numbers.items():
            real = name in ("tolerance", "bend.learning_rate")
            low = 0 if real else least.get(name, 1)
            if not (real or isinstance(value, int)):
                raise UserError(f"Connectivity: {name} must be a whole number, got {value}")
            if not low <= value < inf:
                raise UserError(f"Connectivity: {name} must be at least {low}, got {value}")
        if self.eigenpairs > self.max_steps:
            raise UserError(
                f"Connectivity: eigenpairs={self.eigenpairs} is more than max_steps="
                f"{self.max_steps}: each takes a step of Lanczos' method at least"
            )


SMOKE = Connectivity(
    points=5,
    bend=Bend(steps=5),
    plane_points=5,
    plane_examples=100,
    eigenpairs=2,
    spectrum_examples=100,
    max_steps=20,
    similarity_examples=100,
)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One measurement: which minima, on which tasks, and how."""

    kind: Kind
    method: str
    """Of the cell that the first minimum comes from."""
    place: Place
    ends: tuple[End, ...]
    control: Control = "same-init"
    eval_tasks: tuple[int, ...]
    options: Mapping[str, Any]
    """What the measuring function takes beside minima and tasks."""

    @property
    def seed(self) -> int | None:
        """Whose minima they are; None where seeds meet."""
        seeds = {end.seed for end in self.ends}
        return seeds.pop() if len(seeds) == 1 else None

    @cached_property
    def config(self) -> str:
        """Everything that decides the numbers, as canonical JSON."""
        specification = {
            "analysis": self.kind,
            "method": self.method,
            **asdict(self.place),
            "ends": [[end.cell_id, end.minimum, end.task] for end in self.ends],
            "control": self.control,
            "eval_tasks": list(self.eval_tasks),
            "options": {
                name: asdict(value) if isinstance(value, Bend) else value
                for name, value in self.options.items()
            },
            "protocol": PROTOCOL,
            "purpose": "analysis",
            "split": "test",
        }
        return json.dumps(specification, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """128 bits of SHA-256 of the canonical specification, in hex, as of every cell."""
        return hashlib.sha256(self.config.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Weights:
    """Where a kept minimum's file lies, and what it must be."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class _Seed:
    """The kept minima of one cell, and those of its control where there is one."""

    method: str
    place: Place
    ends: Mapping[tuple[str, int], End]
    control: Mapping[tuple[str, int], End]


@dataclass(frozen=True)
class Plan:
    """The analyses of a sweep, and where their minima are."""

    analyses: Sequence[Analysis]
    weights: Mapping[End, Weights]


def plan(
    database: "duckdb.DuckDBPyConnection",
    sweep: str,
    how: Connectivity,
    kinds: Sequence[Kind] = KINDS,
    paths: Sequence[str] = (),
) -> Plan:
    """What to measure between the kept minima of a sweep.

    Args:
        database: of the root.
        sweep: its name.
        how: points, examples and the rest.
        kinds: only these.
        paths: more paths, each as `sequential:1->multitask:5@1`; after the @ tasks, or `all`.

    Raises:
        UserError: the sweep has not kept the minima of a path.
    """
    weights, configurations = _kept(database, sweep)
    found: dict[str, Analysis] = {}
    for seeds in configurations:
        for seed in seeds:
            for each in (*_of_seed(seed, how), *_asked(seed, how, paths)):
                found.setdefault(each.id, each)
        for one, other in pairwise(seeds):
            for each in _between(one, other, how):
                found.setdefault(each.id, each)
    wanted = [each for each in found.values() if each.kind in kinds]
    # The longest first, so that in the end no worker is alone with one.
    wanted.sort(key=lambda each: each.kind != "spectrum")
    return Plan(wanted, weights)


def _kept(
    database: "duckdb.DuckDBPyConnection", sweep: str
) -> tuple[dict[End, Weights], list[list[_Seed]]]:
    """Every kept minimum's file, and the seeds of each configuration that kept any."""
    rows = database.execute(
        """
        SELECT m.cell_id, m.seed, minimum, task, uri, sha256, method, purpose, config
        FROM minima m JOIN runs r USING (sweep, cell_id)
        WHERE sweep = ? AND purpose IN ('confirm', 'control') ORDER BY m.seed, task, minimum
        """,
        [sweep],
    ).fetchall()
    weights: dict[End, Weights] = {}
    cells: dict[str, tuple[str, str, str, int]] = {}
    ends: dict[str, dict[tuple[str, int], End]] = {}
    for cell, seed, minimum, task, uri, sha256, method, purpose, config in rows:
        end = End(cell, seed, minimum, task)
        weights[end] = Weights(uri, sha256)
        cells[cell] = method, purpose, config, seed
        ends.setdefault(cell, {})[minimum, task] = end
    controls = {
        (place_of(json.loads(config)), seed): ends[cell]
        for cell, (_, purpose, config, seed) in cells.items()
        if purpose == "control"
    }
    configurations: dict[str, list[_Seed]] = {}
    for cell, (method, purpose, config, seed) in cells.items():
        if purpose == "confirm":
            specification = json.loads(config)
            place = place_of(specification)
            each = _Seed(method, place, ends[cell], controls.get((place, seed), {}))
            configurations.setdefault(configuration(specification), []).append(each)
    return weights, list(configurations.values())


def _of_seed(seed: _Seed, how: Connectivity) -> list[Analysis]:
    """What is measured among the minima of one seed."""
    tasks = sorted({task for _, task in seed.ends})
    names = {name for name, _ in seed.ends}
    first, last, later = tasks[0], tasks[-1], tasks[1:]
    lines: list[tuple[str, int, str, int, int]] = []
    if {"sequential", "multitask"} <= names:
        lines += [("sequential", first, "multitask", task, first) for task in later]
        # After task 1 they are the same point.
        lines += [("sequential", task, "multitask", task, task) for task in tasks if task > 1]
    for name in sorted(names - {"inner", "multitask"}):
        lines += [(name, first, name, task, first) for task in later]
        lines += [(name, task, name, last, task) for task in tasks[1:-1]]
    found = [
        _path(seed, seed.ends[a, s], seed.ends[b, t], (on,), how, "same-init")
        for a, s, b, t, on in lines
    ]
    if ("sequential", first) in seed.ends and ("multitask", last) in seed.control and later:
        ends = seed.ends["sequential", first], seed.control["multitask", last]
        found.append(_path(seed, *ends, (first,), how, "other-init"))
        found.append(_similarity(seed, ends, first, how, "other-init"))
    if {"sequential", "multitask"} <= names and later:
        found += _of_trio(seed, first, last, later, how)
    return found


def _of_trio(
    seed: _Seed, first: int, last: int, later: Sequence[int], how: Connectivity
) -> list[Analysis]:
    """Planes, spectrum and similarities of a seed that has both ŵ and w*."""
    start, end = seed.ends["sequential", first], seed.ends["sequential", last]
    joint = seed.ends["multitask", last]
    connected = seed.ends.get(("connected", last))
    planes = [(start, end, joint)] + ([(start, end, connected)] if connected else [])
    grid = {"points": how.plane_points, "examples": how.plane_examples}
    towards = [
        seed.ends[name, task]
        for task in later
        for name in ("sequential", "multitask")
        if (name, task) in seed.ends
    ]
    spectrum = {
        "pairs": how.eigenpairs,
        "examples": how.spectrum_examples,
        "tolerance": how.tolerance,
        "max_steps": how.max_steps,
    }

    def at_first(kind: Kind, ends: tuple[End, ...], options: dict[str, Any]) -> Analysis:
        return Analysis(
            kind=kind,
            method=seed.method,
            place=seed.place,
            ends=ends,
            eval_tasks=(first,),
            options=options,
        )

    couples = [(start, end), (start, joint), (end, joint)]
    couples += [(connected, joint), (connected, end)] if connected else []
    return [
        *(at_first("plane", three, grid) for three in planes),
        at_first("spectrum", (start, *towards), spectrum),
        *(_similarity(seed, couple, first, how, "same-init") for couple in couples),
    ]


def _between(one: _Seed, other: _Seed, how: Connectivity) -> list[Analysis]:
    """Paths from a seed to the next one: after the first task, and of w* after the last."""
    tasks = sorted({task for _, task in one.ends.keys() & other.ends.keys()})
    wanted = [("sequential", tasks[0]), ("multitask", tasks[-1])] if tasks else []
    return [
        Analysis(
            kind="seeds",
            method=one.method,
            place=one.place,
            ends=(one.ends[key], other.ends[key]),
            control="other-seed",
            eval_tasks=(key[1],),
            options={"points": how.points},
        )
        for key in dict.fromkeys(wanted)
        if key in one.ends and key in other.ends
    ]


def check_paths(paths: Sequence[str], kept: Collection[tuple[str, int]], tasks: int) -> None:
    """Refuse, before any training, a path that can never be measured.

    Args:
        paths: as the user gave them.
        kept: the minima of every seed that are kept, and after which task.
        tasks: how many there are.

    Raises:
        UserError: its form, a minimum that is not kept, or a task that is not there.
    """
    keep = sorted({task for _, task in kept})
    for text in paths:
        start, end, _ = _parsed(text, tasks)
        for name, task in (start, end):
            if name not in _MINIMA:
                raise UserError(f"--path {text}: {unknown('minimum', name, _MINIMA)}")
            if task not in keep:
                after = ", ".join(map(str, keep)) or "none"
                raise UserError(
                    f"--path {text}: no minimum is kept after task {task}, but after {after}:"
                    " see --keep-minima"
                )
            if (name, task) not in kept:
                names = ", ".join(sorted({each for each, after in kept if after == task}))
                raise UserError(
                    f"--path {text}: there is no {name} minimum after task {task}, but {names}"
                )


def _parsed(text: str, tasks: int) -> tuple[tuple[str, int], tuple[str, int], tuple[int, ...]]:
    """Both ends and the evaluation tasks of a user's path.

    Raises:
        UserError: it has another form, or there is no such task.
    """
    parts = _PATH.fullmatch(text.replace(" ", ""))
    if not parts:
        raise UserError(f"--path {text}: write it as in 'sequential:1->multitask:5@1'")
    every = range(1, tasks + 1)
    on = every if parts[5] == "all" else sorted({int(task) for task in parts[5].split(",")})
    if wrong := [task for task in on if task not in every]:
        raise UserError(f"--path {text}: there is no task {wrong[0]}, only 1 to {tasks}")
    return (parts[1], int(parts[2])), (parts[3], int(parts[4])), tuple(on)


def _asked(seed: _Seed, how: Connectivity, paths: Sequence[str]) -> list[Analysis]:
    """The paths that the user asks for, of one seed.

    Raises:
        UserError: a path's form, a minimum that was not kept, or a task that is not there.
    """
    found = []
    for text in paths:
        start, end, chosen = _parsed(text, seed.place.tasks)
        ends = []
        for name, task in (start, end):
            if (name, task) not in seed.ends:
                kept = [f"{minimum}:{after}" for minimum, after in seed.ends]
                raise UserError(
                    f"--path {text}: no minimum {name}:{task} was kept; kept are {', '.join(kept)}"
                    " (others: --keep-minima, under another --name)"
                )
            ends.append(seed.ends[name, task])
        found.append(_path(seed, ends[0], ends[1], chosen, how, "same-init"))
    return found


def _path(
    seed: _Seed,
    start: End,
    end: End,
    eval_tasks: tuple[int, ...],
    how: Connectivity,
    control: Control,
) -> Analysis:
    return Analysis(
        kind="path",
        method=seed.method,
        place=seed.place,
        ends=(start, end),
        control=control,
        eval_tasks=eval_tasks,
        options={"points": how.points, "bend": how.bend},
    )


def _similarity(
    seed: _Seed, ends: tuple[End, End], task: int, how: Connectivity, control: Control
) -> Analysis:
    return Analysis(
        kind="similarity",
        method=seed.method,
        place=seed.place,
        ends=ends,
        control=control,
        eval_tasks=(task,),
        options={"examples": how.similarity_examples},
    )
