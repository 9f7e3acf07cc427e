"""Numbers from seeds: mean, sample standard deviation and a 95 % interval of the mean."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit


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
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return Summary(count, mean, std, mean - half, mean + half)
