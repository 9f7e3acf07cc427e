"""Nights as numbers: the two comparisons, their rule, and how often it errs.

`accuracies.json` holds what 120 seeds of each method really reached on rotated-digits (5 tasks,
5 epochs, mlp-64-64, test split). Thousands of nights are drawn from them; nothing is trained.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmc_ray.nights import (
    Comparison,
    Floats,
    compare_anchors,
    compare_fresh,
    corrected,
    regressed,
)

STORED = {
    method: np.array(values)
    for method, values in json.loads(
        (Path(__file__).parent / "accuracies.json").read_text()
    ).items()
}
RATE, EFFECT, WINDOW, SEEDS, CONFIRMED, ANCHORS = 0.01, 0.01, 14, 5, 5, 3
COMPARISONS = 2 * len(STORED)


def array(*values: float) -> Floats:
    return np.array(values)


def is_regressed(comparison: Comparison, comparisons: int = 1) -> bool:
    return bool(regressed(comparison, comparisons, RATE, EFFECT))


# Comparisons


def test_fresh_seeds_by_hand() -> None:
    """Before: mean 0.5, variance 0.0025 of 5 seeds. Tonight scatters less, so theirs counts."""
    before = array(0.45, 0.45, 0.5, 0.55, 0.55)
    found = compare_fresh(array(0.39, 0.40, 0.41), before)
    error = np.sqrt(0.0025 / 3 + 0.0025 / 5)
    assert found.difference == pytest.approx(-0.1)
    assert found.p == pytest.approx(stats.t.cdf(-0.1 / error, 4))
    assert found.low == pytest.approx(-0.1 - stats.t.ppf(0.975, 4) * error)
    assert found.high == pytest.approx(-0.1 + stats.t.ppf(0.975, 4) * error)


def test_fresh_seeds_that_scatter_more_have_a_wider_interval() -> None:
    before = array(0.45, 0.45, 0.5, 0.55, 0.55)
    found = compare_fresh(array(0.2, 0.4, 0.6), before)
    error = np.sqrt(0.04 / 3 + 0.0025 / 5)  # Welch's
    assert found.p == pytest.approx(stats.t.cdf(-0.1 / error, 4))


def test_anchors_by_hand() -> None:
    """A pair's difference has twice the variance of a seed, unless the pairs scatter even more."""
    before = array(0.45, 0.45, 0.5, 0.55, 0.55)
    found = compare_anchors(array(-0.09, -0.1, -0.11), before)
    error = np.sqrt(2 * 0.0025 / 3)
    assert found.difference == pytest.approx(-0.1)
    assert found.p == pytest.approx(stats.t.cdf(-0.1 / error, 4))
    wild = compare_anchors(array(-0.3, -0.1, 0.1), before)
    assert wild.p == pytest.approx(stats.t.cdf(-0.1 / np.sqrt(0.04 / 3), 4))


def test_equal_anchors_are_fine_whatever_the_seeds_do() -> None:
    for before in (array(0.1, 0.9), array(0.5, 0.5)):
        found = compare_anchors(array(0.0, 0.0, 0.0), before)
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("tonight", "p"), [((0.1, 0.1, 0.1), 1), ((0.2, 0.2), 1), ((0.05,), 0), ((0.05, 0.05), 0)]
)
def test_no_scatter_at_all(tonight: tuple[float, ...], p: float) -> None:
    """As where every seed is at chance, or perfect: any difference is certain, and none is none.

    0.1 is no binary fraction: means of its copies may differ by a rounding.
    """
    found = compare_fresh(array(*tonight), array(*[0.1] * 7))
    assert found.p == p
    assert found.low == found.difference == found.high
    assert is_regressed(found) == (p == 0)


def test_a_single_seed_tonight_is_compared() -> None:
    before = array(0.45, 0.45, 0.5, 0.55, 0.55)
    found = compare_fresh(array(0.5), before)
    assert found.difference == pytest.approx(0)
    assert found.high == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(0.0025 * (1 + 1 / 5)))


def test_two_equal_seeds_tonight_do_not_count_as_certain() -> None:
    """Accuracies are counts over counts: ties come by chance."""
    before = array(0.45, 0.45, 0.5, 0.55, 0.55)
    assert not is_regressed(compare_fresh(array(0.45, 0.45), before))


@pytest.mark.parametrize(("tonight", "before"), [(0, 5), (3, 0), (3, 1)])
def test_too_few_seeds(tonight: int, before: int) -> None:
    for compare in (compare_fresh, compare_anchors):
        with pytest.raises(ValueError, match="seeds"):
            compare(np.full(tonight, 0.5), np.full(before, 0.5))


@given(
    tonight=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    before=st.lists(st.floats(0, 1), min_size=2, max_size=9),
)
def test_whatever_comes_has_a_verdict(tonight: list[float], before: list[float]) -> None:
    for found in (
        compare_fresh(np.array(tonight), np.array(before)),
        compare_anchors(np.array(tonight) - 0.5, np.array(before)),
    ):
        assert 0 <= found.p <= 1
        assert found.low <= found.difference <= found.high
        if is_regressed(found):
            assert found.high < 0
            assert found.difference < -EFFECT


def test_many_nights_at_once_are_as_one_by_one() -> None:
    random = np.random.default_rng(0)
    tonight, before = random.random((7, 2, 3)), random.random((7, 2, 9))
    for compare in (compare_fresh, compare_anchors):
        together = compare(tonight, before)
        for index in np.ndindex(7, 2):
            alone = compare(tonight[index], before[index])
            assert together.p[index] == pytest.approx(alone.p)
            assert together.low[index] == pytest.approx(alone.low)


# The rule


def test_regressed_means_significant_and_large() -> None:
    def made(difference: float, p: float) -> Comparison:
        return Comparison(array(difference), array(-1), array(1), array(p))

    assert regressed(made(-0.0101, 0.00124), 8, 0.01, 0.01)
    assert not regressed(made(-0.0101, 0.00126), 8, 0.01, 0.01), "not corrected"
    assert not regressed(made(-0.0100, 0.0), 8, 0.01, 0.01), "no more than the minimum effect"
    assert not regressed(made(0.5, 0.0), 8, 0.01, 0.01), "better is not worse"
    assert corrected(array(0.3), 8) == 1


# How often it errs


def nights(
    random: np.random.Generator, laboratories: int, count: int, *, drop: float, redrawn: bool
) -> Floats:
    """Which nights are taken for regressed [methods, laboratories, count].

    Args:
        random: draws seeds from the stored accuracies, with replacement.
        laboratories: each has its own confirmed seeds and its own past.
        count: nights of each, the first one aside, which has no anchors to compare with.
        drop: what each method really loses tonight; earlier nights have lost nothing.
        redrawn: every night has a change that only rounds otherwise: each anchor's accuracy is
            drawn anew. Otherwise anchors stay what they were, to the bit.
    """
    found = np.zeros((len(STORED), laboratories, count), bool)
    for method, stored in enumerate(STORED.values()):
        fresh = random.choice(stored, (laboratories, count + 1, SEEDS))
        confirmed = random.choice(stored, (laboratories, CONFIRMED))
        anchors = random.choice(stored, (laboratories, count + 1 if redrawn else 1, ANCHORS))
        anchors = np.broadcast_to(anchors, (laboratories, count + 1, ANCHORS))
        for night in range(1, count + 1):
            window = slice(max(0, night - WINDOW), night)
            before = [confirmed, fresh[:, window].reshape(laboratories, -1)]
            seeds = np.concatenate(before, axis=1)
            differences = (anchors[:, [night]] - anchors[:, window]).mean(1) - drop
            for comparison in (
                compare_fresh(fresh[:, night] - drop, seeds),
                compare_anchors(differences, seeds),
            ):
                found[method, :, night - 1] |= regressed(comparison, COMPARISONS, RATE, EFFECT)
    return found


@pytest.mark.parametrize("redrawn", [False, True])
@pytest.mark.parametrize(("laboratories", "count"), [(50, 100), (5000, 1)])
def test_false_alarms_stay_at_the_stated_rate(redrawn: bool, laboratories: int, count: int) -> None:
    """5,000 nights on which nothing has changed, or nothing but roundings: young and old roots."""
    random = np.random.default_rng([3, redrawn, count])
    found = nights(random, laboratories, count, drop=0, redrawn=redrawn).any(0)
    assert found.size == 5000
    rate = found.mean()
    print(f"\n{'roundings' if redrawn else 'nothing'} changed, {count} nights: {rate:.2%}")
    assert found.sum() <= stats.binom.ppf(0.999, found.size, RATE)


def test_power() -> None:
    """How often a real drop of one method is found on its first night, after three weeks."""
    power: dict[float, float] = {}
    print(f"\npower, {SEEDS} seeds a night, {COMPARISONS} comparisons, {RATE:.0%} false alarms:")
    for points in (1, 2, 3, 4, 5):
        random = np.random.default_rng(points)
        found = nights(random, 40, 25, drop=points / 100, redrawn=False)[..., WINDOW:]
        power[points] = float(found.mean())
        each = zip(STORED, found.mean((1, 2)), strict=True)
        methods = ", ".join(f"{method} {share:.0%}" for method, share in each)
        effect = ", the minimum effect" if points / 100 == EFFECT else ""
        print(f"  a drop of {points} points{effect}: {power[points]:.0%} ({methods})")
    rates: Sequence[float] = list(power.values())
    assert rates == sorted(rates)
    assert rates[0] > RATE
    assert rates[-1] > 0.95
