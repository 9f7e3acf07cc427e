"""One method against others, seed by seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmc_ray.errors import UserError, unknown
from lmc_ray.statistics import FEWEST_PAIRS, Paired, Summary, half_width, holm, lowest_p, paired
from lmc_ray.tables.groups import Group, by_setting, called, confirmed, title
from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet

if TYPE_CHECKING:
    import duckdb

SIGNIFICANT = 0.05

_NOTES = (
    "difference: average accuracy on the test split, method minus baseline, percentage points, "
    "mean over the seeds that both have finished, with its 95 % t-interval",
    "p: two-sided sign-flip test of the paired differences, exact up to 16 pairs; Holm: corrected "
    "for all tests asked for; effect: mean over standard deviation of the differences (d_z)",
)
_ALIKE = "interval n/a: all pairs differ by the same, which says nothing of their scatter"
_BY_INTERVAL = (
    "interval below 0: also when it is widened for the number of comparisons (Bonferroni), as no "
    "sign-flip test of so few pairs could come below 0.05"
)


@dataclass(frozen=True)
class Comparison:
    """A configuration of the method beside one of a baseline, in one sweep and sequence of tasks.

    Attributes:
        method: the configuration in question.
        baseline: what it is compared with.
        paired: their differences by seed, as fractions.
        p: the p-value corrected by Holm; None with too few pairs for a test.
        asked: how many different comparisons were asked for together.
        tests: how many of them are corrected together, as they have a p-value.
    """

    method: Group
    baseline: Group
    paired: Paired
    p: float | None
    asked: int
    tests: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or neither shown.

        With so few seeds that no test could show anything, the interval decides whether it is
        worse, as wide as the number of comparisons demands.
        """
        difference = self.paired.difference
        if self.p is not None and self.p < SIGNIFICANT:
            return "better" if difference.mean > 0 else "worse"
        if self.p is not None and lowest_p(difference.count, self.tests) < SIGNIFICANT:
            return "no difference shown"
        few = "too few seeds for a test" if self.p is None else "too few seeds for so many tests"
        if difference.high is not None and difference.std is not None:
            high = difference.mean + half_width(difference.count, difference.std, self.asked)
            if high < 0:
                return f"worse (interval below 0; {few})"
        return few

    @property
    def worse(self) -> bool:
        """Whether the method has been shown to be worse than the baseline."""
        return self.verdict.startswith("worse")


@dataclass(frozen=True)
class Compared:
    """What came of the comparisons that were asked for.

    Attributes:
        comparisons: those that could be made.
        missing: in words, those that could not, and why.
        diverged: in words, those whose method diverged on seeds that its baseline finished.
    """

    comparisons: Sequence[Comparison]
    missing: Sequence[str]
    diverged: Sequence[str] = ()

    @property
    def worse(self) -> bool:
        """Whether the method has been shown to be worse than a baseline."""
        return any(each.worse for each in self.comparisons)


def compare(
    database: "duckdb.DuckDBPyConnection",
    method: str,
    baselines: Sequence[str],
    benchmark: str | None = None,
) -> Compared:
    """Compare a method's confirmed configurations with those of baselines of the same sweep.

    Args:
        database: a store's tables.
        method: as the store names it, or a study's label.
        baselines: one or more.
        benchmark: only this one; None for all.

    Raises:
        UserError: a method or benchmark without confirmed seeds, or nothing to compare.
    """
    groups = confirmed(database)
    if not groups:
        raise UserError("no seeds are confirmed yet: let the sweep go on under its name")
    benchmarks = {group.runs[0]["benchmark"] for group in groups}
    if benchmark is not None and benchmark not in benchmarks:
        raise unknown("benchmark among the confirmed ones", benchmark, benchmarks)
    groups = [g for g in groups if benchmark in (None, g.runs[0]["benchmark"])]
    # Of the whole root: where there is a study of a name, it is no other sweep's labelled ones.
    meant = {name: called(name, groups) for name in (method, *baselines)}
    for name, found in meant.items():
        if not found:
            known = {known for group in groups for known in (group.method, group.name)}
            raise unknown("method among the confirmed ones", name, known)
    pairs: list[tuple[Group, Group, Paired]] = []
    missing: list[str] = []
    diverged: list[str] = []
    beside: set[str] = set()
    sweeps = {name: {group.runs[0]["sweep"] for group in found} for name, found in meant.items()}
    by_name = {name: by_setting(found) for name, found in meant.items()}
    for setting in by_setting(groups):
        sweep, ours = setting[0], by_name[method].get(setting, [])
        for name in dict.fromkeys(baselines):
            theirs = by_name[name].get(setting, [])
            if sweep in sweeps[method] & sweeps[name] and bool(ours) != bool(theirs):
                lacking = name if ours else method
                missing.append(
                    f"{lacking} has no confirmed seed on {title((ours or theirs)[0].runs[0])}"
                )
            for a, b in _at_equal_memory(ours, theirs):
                beside.add(name)
                if found := _differences(a, b):
                    pairs.append((a, b, paired(found)))
                    diverged += _diverged_beside(a, b)
                else:
                    missing.append(_nothing_in_common(a, b))
    for name in baselines:
        if name not in beside:
            apart = f"{method} and {name} are in no sweep together: confirm them in one"
            alone = f"{method} has one configuration only: nothing else of it to compare with"
            missing.append(alone if name == method else apart)
    if not pairs:
        raise UserError("; ".join(missing))
    # A sweep that took cells over shows them again, which is not one more test.
    different = {_cells(a, b): each for a, b, each in pairs}
    tested = {key: each.p for key, each in different.items() if each.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    comparisons = [
        Comparison(a, b, each, corrected.get(_cells(a, b)), len(different), len(tested))
        for a, b, each in pairs
    ]
    return Compared(comparisons, missing, diverged)


def _nothing_in_common(*groups: Group) -> str:
    diverged = [
        f"{len(group.runs)} of {len(group.runs)} seeds of {group.label} diverged"
        for group in groups
        if not group.finished
    ]
    why = ", ".join(diverged) or "other seeds each"
    labels = " and ".join(group.label for group in groups)
    return f"{labels} have no finished seed in common on {title(groups[0].runs[0])}: {why}"


def _diverged_beside(a: Group, b: Group) -> list[str]:
    """What no difference shows: seeds on which the method diverged and its baseline did not."""
    lost = {run["seed"] for run in b.finished} & {run["seed"] for run in a.runs}
    lost -= {run["seed"] for run in a.finished}
    if not lost:
        return []
    where = title(a.runs[0])
    return [
        f"{a.label} diverged on {len(lost)} of the seeds that {b.label} finished, which no"
        f" difference shows, on {where}"
    ]


def _cells(*groups: Group) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(run["cell_id"] for run in group.finished) for group in groups)


def _at_equal_memory(ours: Sequence[Group], theirs: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Which to compare: of several configurations (a Pareto front), those of equal memory."""
    every: list[tuple[Group, Group]] = []
    for a in ours:
        for b in theirs:
            if a is not b and (b, a) not in every:  # of one method: each two once
                every.append((a, b))
    equal = [(a, b) for a, b in every if len({*_memories(a, b)}) < 2]
    return equal or every


def _memories(*groups: Group) -> list[int]:
    memories = [group.runs[0]["memory_per_class"] for group in groups]
    return [each for each in memories if each is not None]


def compare_sheets(comparisons: Sequence[Comparison]) -> list[Sheet]:
    """One table for people per sweep and sequence of tasks."""
    by_title: dict[str, list[Comparison]] = {}
    for each in comparisons:
        by_title.setdefault(title(each.method.runs[0]), []).append(each)
    columns = (
        "",
        "difference\npoints",
        "95 % interval",
        "pairs",
        "p",
        "p,\nHolm",
        "effect",
        "verdict",
    )
    sheets = []
    for heading, rows in by_title.items():
        named = {g.label: g for each in rows for g in (each.method, each.baseline)}
        notes = [group.note for group in named.values() if group.differences]
        notes += [
            f"{group.label}: {len(group.runs) - len(group.finished)} of {len(group.runs)} seeds"
            " diverged; in none of the differences"
            for group in named.values()
            if len(group.finished) < len(group.runs)
        ]
        notes += [
            f"{each.method.label} and {each.baseline.label} keep"
            f" {' and '.join(map(str, memories))} examples per class and task"
            for each in rows
            if len({*(memories := _memories(each.method, each.baseline))}) > 1
        ]
        if any(each.paired.difference.count > 1 and each.paired.effect is None for each in rows):
            notes.append(_ALIKE)
        if any("interval" in each.verdict for each in rows):
            notes.append(_BY_INTERVAL)
        if any(each.p is None for each in rows):
            notes.append(f"a sign-flip test needs at least {FEWEST_PAIRS} pairs")
        sheets.append(Sheet(heading, columns, [_row(each) for each in rows], [*notes, *_NOTES]))
    return sheets


def _row(each: Comparison) -> list[str]:
    difference = each.paired.difference
    return [
        f"{each.method.label} - {each.baseline.label}",
        f"{100 * difference.mean:+.2f}",
        interval_of(difference, 2, 100),
        str(difference.count),
        probability(each.paired.p),
        probability(each.p),
        NOT_AVAILABLE if each.paired.effect is None else f"{each.paired.effect:+.1f}",
        each.verdict,
    ]


def interval_of(difference: Summary, digits: int, scale: float = 1) -> str:
    """A difference's interval for people."""
    if difference.low is None or difference.high is None:
        return NOT_AVAILABLE
    return f"{scale * difference.low:+.{digits}f} to {scale * difference.high:+.{digits}f}"


def probability(p: float | None) -> str:
    """A p-value for people."""
    if p is None:
        return NOT_AVAILABLE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _differences(a: Group, b: Group) -> list[float]:
    """Method minus baseline, for every seed that both have."""
    theirs = {run["seed"]: run["average_accuracy"] for run in b.finished}
    return [
        run["average_accuracy"] - theirs[run["seed"]] for run in a.finished if run["seed"] in theirs
    ]
