import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from lmc_ray.statistics import holm, paired, summarise, welch


def test_hand_computed():
    summary = summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    assert summary.count == 5
    assert summary.mean == 3.0
    assert summary.std == pytest.approx(math.sqrt(2.5))
    # t(4, 97.5 %) = 2.776445; times sqrt(2.5 / 5) = 0.7071068
    assert summary.low == pytest.approx(3 - 1.963243, abs=1e-6)
    assert summary.high == pytest.approx(3 + 1.963243, abs=1e-6)


def test_agrees_with_scipy():
    values = [0.78, 0.81, 0.795, 0.66]
    summary = summarise(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (summary.low, summary.high) == pytest.approx((interval.low, interval.high))


def test_one_value_has_no_spread():
    summary = summarise([0.4])
    assert (summary.count, summary.mean) == (1, 0.4)
    assert summary.std is summary.low is summary.high is None


def test_equal_values_have_none_either():
    summary = summarise([0.1] * 5)
    assert summary.mean == pytest.approx(0.1)
    assert summary.std == 0, "also where their mean is rounded"


def test_infinity_is_passed_on():
    summary = summarise([1.0, math.inf])
    assert summary.mean == math.inf
    assert summary.std is None


differences = st.lists(st.floats(-1, 1).map(lambda x: round(x, 2)), min_size=6, max_size=9)


@given(differences)
@example([0.0, 0.0, 0.46, -0.81, -0.52, -0.82, 1.0, 0.69])  # sums to 0, but for the rounding
@settings(max_examples=40, deadline=None)
def test_sign_flips_by_hand(values: list[float]):
    """All 2ⁿ sign flips, as often as they are at least as far from 0."""
    observed = abs(sum(values))
    flips = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    share = sum(flip >= observed - 1e-9 for flip in flips) / len(flips)
    found = paired(values)
    assert found.p == pytest.approx(share)
    if len({*values}) > 1:
        assert found.difference == summarise(values)
    else:
        assert found.difference.low is found.difference.high is found.effect is None
    assert paired([-value for value in values]).p == pytest.approx(share)


def test_the_smallest_p_of_six_pairs():
    found = paired([0.1, 0.2, 0.1, 0.3, 0.1, 0.2])
    assert found.p == 2 / 2**6
    assert found.effect == pytest.approx(
        found.difference.mean / np.std([1, 2, 1, 3, 1, 2], ddof=1) * 10
    )


def test_too_few_pairs_for_a_test():
    found = paired([0.1, 0.2, 0.1, 0.3, 0.1])
    assert found.p is None
    assert found.difference.low is not None
    assert paired([0.5]).effect is None


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_no_test_of_what_is_not_finite(lost: float):
    """Every comparison with NaN is false: the count of flips as far from 0 would be 0."""
    found = paired([0.1, 0.2, 0.3, 0.1, 0.2, lost, 0.1])
    assert found.p is None
    assert found.effect is None
    assert found.difference.low is None


def test_rounding_is_no_difference():
    """As of means of other numbers that come to the same."""
    found = paired([1e-16, 2e-16, 1e-16, 3e-16, 1e-16, 2e-16])
    assert (found.p, found.effect, found.difference.mean) == (1.0, None, 0.0)


def test_many_pairs_are_sampled_and_repeatable():
    values = list(np.random.default_rng(1).normal(0.3, 1, 40))
    p = paired(values).p
    assert p == paired(values).p
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(values: list[float]):
    corrected = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.array(corrected)[order]) >= 0)
    assert corrected[order[0]] == pytest.approx(min(1, len(values) * min(values)))
    # Rejected at 5 % are those that the step-down procedure rejects.
    rejected = set()
    for rank, i in enumerate(order):
        if values[i] * (len(values) - rank) > 0.05:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(corrected) if p <= 0.05} == rejected


def test_welch_agrees_with_scipy():
    values = [0.80, 0.83, 0.815, 0.79, 0.84, 0.82]
    found = welch(summarise(values), 0.80, 0.01, 5)
    theirs = stats.ttest_ind_from_stats(
        np.mean(values), np.std(values, ddof=1), 6, 0.80, 0.01, 5, equal_var=False
    )
    assert found
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.difference == pytest.approx(np.mean(values) - 0.80)
    own, other = np.var(values, ddof=1) / 6, 0.01**2 / 5
    freedom = (own + other) ** 2 / (own**2 / 5 + other**2 / 4)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(own + other)
    assert (found.low, found.high) == pytest.approx(
        (found.difference - half, found.difference + half)
    )
    assert welch(summarise([0.5]), 0.4, 0.1, 5) is None
    assert welch(summarise([0.5, 0.5]), 0.4, 0.0, 5) is None


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no values"):
        summarise([])
