"""Whether tonight's seeds are worse than those before: two comparisons and a rule.

Both tests ask, one-sided, whether the mean has dropped, by Student's t. The seeds before (fresh
ones of earlier nights and confirmed ones, N of them) say how much seeds scatter: their sample
variance s² with N - 1 degrees of freedom.
- Fresh seeds, k of them, are new draws: two samples. The variance of the difference of means is
  Welch's, max(s²_tonight, s²)/k + s²/N.
- Anchors are the same seeds every night, equal to the bit while code and machine stay the same. A
  change that only rounds otherwise draws each anchor's accuracy anew, at worst independent of its
  seed; so a paired difference has at most twice a seed's variance. The variance of the mean of a
  pairs is max(s²_pairs, 2·s²)/a.
Where nothing has changed, neither is less than the variance with which the test is exact, so a
p-value below q comes with probability q at most. Tonight's own variance counts only where it is the
larger one: of few seeds it is too often too small (two equal accuracies have none).

Everything here takes leading dimensions, so that thousands of nights can be simulated at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]

FEWEST_BEFORE = 2
"""Seeds before tonight without which there is no variance, and so no comparison."""


@dataclass(frozen=True)
class Comparison:
    """Accuracy tonight minus accuracy before.

    Attributes:
        difference: of the means; a fraction.
        low: lower end of its two-sided 95 % interval.
        high: upper end.
        p: chance of such a drop, or a larger one, where nothing has changed.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def compare_fresh(tonight: Floats, before: Floats) -> Comparison:
    """Fresh seeds [..., seeds] against all seeds before [..., seeds]: two samples.

    Raises:
        ValueError: fewer than `FEWEST_BEFORE` seeds before, or none tonight.
    """
    _check(tonight, before)
    # Against one of the values themselves, so that equal ones differ by exactly nothing.
    origin = before[..., :1]
    tonight, before = tonight - origin, before - origin
    scatter = _variance(before)
    own = np.maximum(_variance(tonight), scatter)
    return _comparison(
        tonight.mean(-1) - before.mean(-1),
        own / tonight.shape[-1] + scatter / before.shape[-1],
        before.shape[-1] - 1,
    )


def compare_anchors(differences: Floats, before: Floats) -> Comparison:
    """Anchors, each tonight minus itself before [..., anchors], in the light of seeds' scatter.

    Args:
        differences: one an anchor seed.
        before: the seeds of `compare_fresh`.

    Raises:
        ValueError: fewer than `FEWEST_BEFORE` seeds before, or no anchors.
    """
    _check(differences, before)
    own = np.maximum(_variance(differences), 2 * _variance(before - before[..., :1]))
    # Equal to the bit: nothing has changed, and that is certain.
    own = np.where((differences == 0).all(-1), 0.0, own)
    return _comparison(differences.mean(-1), own / differences.shape[-1], before.shape[-1] - 1)


def regressed(
    comparison: Comparison, comparisons: int, false_alarms: float, minimum_effect: float
) -> NDArray[np.bool_]:
    """Whether a drop is both more than chance explains (Bonferroni) and large enough to matter.

    Args:
        comparison: one of the night's.
        comparisons: how many the night makes in all.
        false_alarms: the probability that any of them is taken for a drop on a night on which
            nothing has changed.
        minimum_effect: a drop of this much, or less, is none; a fraction.
    """
    significant = corrected(comparison.p, comparisons) < false_alarms
    return significant & (comparison.difference < -minimum_effect)


def corrected(p: Floats, comparisons: int) -> Floats:
    """Bonferroni: p times the number of comparisons, at most 1."""
    return np.minimum(1.0, p * comparisons)


def _comparison(difference: Floats, variance: Floats, freedom: int) -> Comparison:
    error = np.sqrt(variance)
    half = stdtrit(freedom, 0.975) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = stdtr(freedom, difference / error)
    # Without any scatter a difference is certain, and none is none.
    p = np.where(error > 0, chance, np.where(difference < 0, 0.0, 1.0))
    return Comparison(difference, difference - half, difference + half, p)


def _variance(values: Floats) -> Floats:
    """The sample variance over seeds; 0 of a single one."""
    if values.shape[-1] < 2:
        return np.zeros(values.shape[:-1])
    return values.var(-1, ddof=1)


def _check(tonight: Floats, before: Floats) -> None:
    for values, least in ((tonight, 1), (before, FEWEST_BEFORE)):
        if values.shape[-1] < least:
            raise ValueError(f"{values.shape[-1]} seeds where at least {least} are needed")
