"""Search spaces: what a sweep script writes down, and what Optuna makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, isinf
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lmc_ray.errors import UserError
from lmc_ray.learners import hyperparameters


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log` spreads by ratio.

    Whole numbers if both ends are whole, unless the hyperparameter is a real number.
    """

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Any]
"""Hyperparameter → a `Range`, a list of choices, or one fixed value.

Values are drawn in its order, which decides the proposals as its ranges do.
"""


def distributions(method: str, space: Space) -> dict[str, BaseDistribution]:
    """The searched part of a space, checked against the method's hyperparameters.

    Raises:
        UserError: unknown name, range upside down or empty, a value that the method refuses.
    """
    found: dict[str, BaseDistribution] = {}
    known = type(hyperparameters(method, {})).__dataclass_fields__
    for name, value in space.items():
        if isinstance(value, Range):
            if value.low > value.high or (value.log and value.low <= 0):
                hint = "a log range needs low > 0" if value.low <= value.high else "swap its ends"
                raise UserError(f"range of {name} from {value.low} to {value.high}: {hint}")
            if value.low == value.high:
                raise UserError(f"range of {name} is empty: write {name}={value.low} to fix it")
            real = name in known and known[name].metadata.get("numeric")
            whole = not real and all(isinstance(end, int) for end in tried(value))
            found[name] = (
                IntDistribution(int(value.low), int(value.high), log=value.log)
                if whole
                else FloatDistribution(value.low, value.high, log=value.log)
            )
        elif isinstance(value, list):
            if not value:
                raise UserError(f"no choices for {name}: give at least one value")
            found[name] = CategoricalDistribution(value)
        for end in tried(value):
            hyperparameters(method, {name: end})
            if isinstance(end, float) and not isfinite(end):
                raise UserError(f"{name} must be finite, got {end:g}")
    return found


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a searched hyperparameter could have this value."""
    if isinstance(distribution, IntDistribution | FloatDistribution):
        number = type(value) in (int, float)
        return number and distribution.low <= value <= distribution.high
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def tried(wanted: Any) -> list[Any]:
    """What a study may try of a hyperparameter: all that it lists or fixes, or a range's ends."""
    if isinstance(wanted, Range):
        return [wanted.low, wanted.high]
    return wanted if isinstance(wanted, list) else [wanted]


def overlap(one: Any, other: Any) -> bool:
    """Whether two entries of spaces (a range, choices or a value each) have a value in common."""
    if isinstance(one, Range) and isinstance(other, Range):
        return max(one.low, other.low) <= min(one.high, other.high)
    if isinstance(other, Range):
        one, other = other, one
    others = other if isinstance(other, list) else [other]
    if isinstance(one, Range):
        return any(type(v) in (int, float) and one.low <= v <= one.high for v in others)
    return any(value in others for value in (one if isinstance(one, list) else [one]))


def fixed(space: Space) -> dict[str, Any]:
    """The part of a space that is not searched."""
    return {k: v for k, v in space.items() if not isinstance(v, Range | list)}


def parse(text: str) -> tuple[str, Any]:
    """One command-line setting: NAME=VALUE, NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C.

    Raises:
        UserError: the text has none of these forms.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise UserError(f"--set {text}: write NAME=VALUE, NAME=LOW:HIGH[:log] or NAME=A,B,C")
    if ":" in value:
        low, high, *rest = (part.strip() for part in value.split(":"))
        ends = _scalar(low), _scalar(high)
        if rest not in ([], ["log"]) or not all(type(end) in (int, float) for end in ends):
            raise UserError(f"--set {text}: a range is LOW:HIGH or LOW:HIGH:log, e.g. 0.01:0.2:log")
        return name, Range(*ends, log=bool(rest))
    if "," in value:
        return name, [_scalar(part.strip()) for part in value.split(",") if part.strip()]
    return name, _scalar(value)


def _scalar(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        # A whole number that no float can hold is infinite, and refused by its name.
        return float(text) if isinf(float(text)) else number
    return text
