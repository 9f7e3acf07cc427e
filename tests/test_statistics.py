import math

import pytest
from scipy import stats

from lmc_ray.statistics import summarise


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
    assert summary.std == pytest.approx(0, abs=1e-15)


def test_infinity_is_passed_on():
    summary = summarise([1.0, math.inf])
    assert summary.mean == math.inf
    assert summary.std is None


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no values"):
        summarise([])
