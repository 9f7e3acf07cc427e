"""Numbers in words."""

from lmc_ray.statistics import Summary
from lmc_ray.tables.sheet import NOT_AVAILABLE


def interval(values: Summary | None, digits: int, scale: float = 1.0) -> str:
    """A mean and its 95 % interval: 81.2 [80.1, 82.3]."""
    if values is None:
        return NOT_AVAILABLE
    mean = f"{scale * values.mean:z.{digits}f}"
    if values.low is None or values.high is None:
        return mean
    return f"{mean} [{scale * values.low:z.{digits}f}, {scale * values.high:z.{digits}f}]"


def with_seeds(values: Summary, digits: int) -> str:
    """The same, and over how many seeds."""
    return f"{interval(values, digits)}, {values.count} seed{'s' * (values.count != 1)}"
