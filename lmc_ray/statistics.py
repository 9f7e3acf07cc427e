"""Numbers from seeds: means, intervals, paired differences, a test against published means."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Summary:
    """What some seeds say together.

    Attributes:
        count: how many there were.
        mean: their mean.
        std: the sample standard deviation (divisor count - 1); None for a single one.
        low: lower end of the 95 % interval of the mean by Student's t; None for a single one.
        high: its upper end.
    """

    count: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and 95 % t-interval of some independent values.

    Raises:
        ValueError: there are none.
    """
    numbers = [float(value) for value in values]
    count = len(numbers)
    if count == 0:
        raise ValueError("no values to summarise")
    if not all(map(math.isfinite, numbers)):
        return Summary(count, sum(numbers) / count, None, None, None)
    mean = math.fsum(numbers) / count
    if count == 1:
        return Summary(count, mean, None, None, None)
    std = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (count - 1))
    if std < _ROUNDING * max(map(abs, numbers)):
        std = 0.0
    return from_moments(count, mean, std)


_ROUNDING = 1e-12
"""Scatter below this share of the values is rounding: they are equal."""


def from_moments(count: int, mean: float, std: float | None) -> Summary:
    """What `summarise` says of values of which only these are known, as SQL's aggregates give them.

    Args:
        count: how many, at least 1.
        mean: their mean.
        std: their sample standard deviation; None for a single one.
    """
    if count == 1 or std is None or not math.isfinite(mean):
        return Summary(count, mean, None, None, None)
    half = half_width(count, std)
    return Summary(count, mean, std, mean - half, mean + half)


def half_width(count: int, std: float, comparisons: int = 1) -> float:
    """Half of the 95 % t-interval of a mean; of so many means together (Bonferroni)."""
    return _quantile(count - 1, comparisons) * std / math.sqrt(count)


@cache
def _quantile(freedom: int, comparisons: int) -> float:
    """Of Student's t, for 95 % on both sides together."""
    return float(stdtrit(freedom, 1 - 0.025 / comparisons))


FEWEST_PAIRS = 6
"""Pairs below which no sign-flip test can come below 0.05 (2/2⁵ = 0.0625)."""

_EXACT_UP_TO = 16
"""Pairs up to which every one of the 2ⁿ sign flips is tried; beyond, 2¹⁶ at random."""


@dataclass(frozen=True)
class Paired:
    """Differences of two methods over the seeds that both have.

    Attributes:
        difference: their mean and its 95 % t-interval; none where all are equal.
        p: two-sided p-value of the sign-flip test, exact up to 16 pairs; None below 6, or where a
            difference is not finite.
        effect: mean over standard deviation (Cohen's d_z); None without scatter.
    """

    difference: Summary
    p: float | None
    effect: float | None


_TIE = 1e-12
"""A smaller difference of accuracies or losses is the rounding of two means that are equal."""


def lowest_p(pairs: int, tests: int) -> float:
    """What no sign-flip test of so many pairs comes below, as one of so many tests (Holm)."""
    return tests * 2 / 2**pairs


def paired(differences: Iterable[float]) -> Paired:
    """What paired differences say: their mean, an interval, and the sign-flip test.

    Where neither method is better, every difference is as likely with the other sign (Fisher 1935),
    so p is the share of all sign flips whose mean is as far from 0 as the one observed.

    Raises:
        ValueError: there are none.
    """
    import numpy as np
    from scipy.stats import permutation_test  # takes a second to import

    numbers = [0.0 if abs(each) <= _TIE else float(each) for each in differences]
    summary = summarise(numbers)
    effect = summary.mean / summary.std if summary.std else None
    if summary.std == 0:  # of a few seeds, and no sign that others would say the same
        summary = replace(summary, low=None, high=None)
    if summary.count < FEWEST_PAIRS or not all(map(math.isfinite, numbers)):
        return Paired(summary, None, effect)
    scaled = np.array(numbers) / (max(map(abs, numbers)) or 1)
    test = permutation_test(
        (scaled,),
        # Rounded, or sums of the same numbers in other orders would not be ties where they are 0.
        lambda sample, axis: np.mean(sample, axis=axis).round(12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**_EXACT_UP_TO,
        batch=2**12,
        rng=0,
    )
    return Paired(summary, float(test.pvalue), effect)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = least
    return corrected


@dataclass(frozen=True)
class Unpaired:
    """The difference of two means of independent samples, by Welch's test."""

    difference: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p: float
    """Two-sided."""


def welch(ours: Summary, mean: float, std: float, count: int) -> Unpaired | None:
    """Our mean against a published one; None where the variances do not suffice.

    Args:
        ours: a sample of ours.
        mean: the published mean, in the same unit.
        std: its sample standard deviation.
        count: over how many.
    """
    if ours.std is None or not ours.std + std > 0:
        return None
    own, other = ours.std**2 / ours.count, std**2 / count
    error = math.sqrt(own + other)
    freedom = (own + other) ** 2 / (own**2 / (ours.count - 1) + other**2 / (count - 1))
    difference = ours.mean - mean
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return Unpaired(difference, difference - half, difference + half, p)
