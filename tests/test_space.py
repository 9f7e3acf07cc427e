"""Search spaces and --set: what is a range, a choice, a value, and what is a mistake."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from simulation import propose

from lmc_ray.errors import UserError
from lmc_ray.learners import METHODS
from lmc_ray.sweep import Range
from lmc_ray.sweep.space import distributions, fixed, parse


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate=0.1", "learning_rate", 0.1),
        ("learning_rate=1e-3", "learning_rate", 0.001),
        ("batch_size=32", "batch_size", 32),
        ("shuffle=true", "shuffle", True),
        ("shuffle=False", "shuffle", False),
        ("first_task_epochs=none", "first_task_epochs", None),
        ("path_weight=uniform", "path_weight", "uniform"),
        ("learning_rate=0.01:0.2", "learning_rate", Range(0.01, 0.2)),
        ("learning_rate=0.01:0.2:log", "learning_rate", Range(0.01, 0.2, log=True)),
        ("learning_rate = 0.01 : 0.2 : log", "learning_rate", Range(0.01, 0.2, log=True)),
        ("connect_steps=10:100", "connect_steps", Range(10, 100)),
        ("line_samples=3,5,10", "line_samples", [3, 5, 10]),
        ("line_samples= 3, 5 ,10", "line_samples", [3, 5, 10]),
        ("path_weight=exact,uniform", "path_weight", ["exact", "uniform"]),
        ("path_dropout=true,false", "path_dropout", [True, False]),
        ("batch_size=16,", "batch_size", [16]),
        ("batch_size=,", "batch_size", []),  # refused as a space, by name
    ],
)
def test_parse(text: str, name: str, value: Any) -> None:
    found = parse(text)
    assert found == (name, value)
    assert [type(part) for part in found] == [str, type(value)]
    if isinstance(value, Range):
        ends = found[1].low, found[1].high
        assert [type(end) for end in ends] == [type(value.low), type(value.high)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "learning_rate",
        "learning_rate=",
        "=0.1",
        " =0.1",
        "learning_rate=:",
        "learning_rate=0.1:",
        "learning_rate=:0.1",
        "learning_rate=a:b",
        "learning_rate=0.1:0.2:lin",
        "learning_rate=0.1:0.2:log:log",
        "learning_rate=0.1,0.2:0.3",
        "learning_rate=true:false",
    ],
)
def test_no_setting(text: str) -> None:
    with pytest.raises(UserError, match="--set") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(
    low=st.floats(1e-6, 1e6),
    high=st.floats(1e-6, 1e6),
    log=st.booleans(),
)
def test_a_range_survives_the_command_line(low: float, high: float, log: bool) -> None:
    text = f"learning_rate={low!r}:{high!r}" + (":log" if log else "")
    assert parse(text) == ("learning_rate", Range(low, high, log))


@given(st.text(max_size=20))
def test_any_text_is_a_setting_or_a_line_of_advice(text: str) -> None:
    try:
        name, _ = parse(text)
    except UserError:
        return
    assert name


def test_distributions_and_fixed_split_the_space() -> None:
    space = {
        "memory_per_class": 1,
        "learning_rate": Range(0.02, 0.2, log=True),
        "dropout": Range(0.0, 0.5),
        "connect_steps": Range(10, 100),
        "batch_size": [16, 32],
        "path_weight": "uniform",
        "first_task_epochs": None,
        "shuffle": False,
    }
    assert distributions("mcsgd", space) == {
        "learning_rate": FloatDistribution(0.02, 0.2, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "connect_steps": IntDistribution(10, 100),
        "batch_size": CategoricalDistribution([16, 32]),
    }
    assert fixed(space) == {
        "memory_per_class": 1,
        "path_weight": "uniform",
        "first_task_epochs": None,
        "shuffle": False,
    }
    assert distributions("mcsgd", {}) == {}


def test_whole_ends_of_a_real_number_do_not_make_it_whole() -> None:
    """init_position=0:1 is the whole line, not its two ends."""
    found = distributions("mcsgd", {"init_position": Range(0, 1), "batch_size": Range(1, 8)})
    assert found["init_position"] == FloatDistribution(0, 1)
    assert found["batch_size"] == IntDistribution(1, 8)


def test_whole_log_ranges() -> None:
    space = {"batch_size": Range(8, 64, log=True)}
    found = distributions("stable-sgd", space)
    assert found == {"batch_size": IntDistribution(8, 64, log=True)}
    drawn = {propose(found, [], number, 0, ["maximize"])["batch_size"] for number in range(20)}
    assert all(isinstance(each, int) and 8 <= each <= 64 for each in drawn)


@pytest.mark.parametrize(
    ("method", "space", "says"),
    [
        ("mcsgd", {"learning_rate": Range(0.2, 0.1)}, "learning_rate from 0.2 to 0.1.*swap"),
        ("mcsgd", {"learning_rate": Range(0.2, 0.1, log=True)}, "swap"),
        ("mcsgd", {"learning_rate": Range(0.1, 0.1)}, "learning_rate is empty.*learning_rate=0.1"),
        ("mcsgd", {"batch_size": Range(8, 8)}, "batch_size is empty"),
        ("mcsgd", {"dropout": Range(0.0, 0.5, log=True)}, "dropout.*log range needs low > 0"),
        ("mcsgd", {"dropout": Range(-1.0, 0.5, log=True)}, "log range needs low > 0"),
        ("mcsgd", {"dropout": Range(0.0, 1.5)}, r"dropout must be in \[0, 1\), got 1.5"),
        ("mcsgd", {"dropout": Range(-0.5, 0.5)}, r"dropout must be in \[0, 1\), got -0.5"),
        ("mcsgd", {"learning_rate": Range(float("nan"), 1.0)}, "learning_rate"),
        ("mcsgd", {"learning_rate": Range(0.1, float("inf"))}, "learning_rate"),
        ("mcsgd", {"learning_rate": float("inf")}, "learning_rate"),
        ("mcsgd", {"learning_rate": float("nan")}, "learning_rate"),
        ("mcsgd", {"batch_size": Range(1.0, 8.0)}, "batch_size must be a whole number"),
        ("mcsgd", {"batch_size": Range(1, 8.5)}, "batch_size must be a whole number"),
        ("mcsgd", {"batch_size": Range(0, 8)}, "batch_size must be in"),
        ("mcsgd", {"batch_size": []}, "no choices for batch_size"),
        ("mcsgd", {"batch_size": [16, 0]}, "batch_size must be in"),
        ("mcsgd", {"path_weight": ["exact", "unifrom"]}, "did you mean 'uniform'"),
        ("mcsgd", {"path_weight": Range(0, 1)}, "path_weight"),
        ("mcsgd", {"shuffle": Range(0, 1)}, "shuffle must be true or false"),
        ("mcsgd", {"shuffle": 1}, "shuffle must be true or false"),
        ("mcsgd", {"learning_rate": "fast"}, "learning_rate must be a number"),
        ("mcsgd", {"learning_rate": True}, "learning_rate must be a number"),
        ("mcsgd", {"learning_rate": None}, "learning_rate must be a number"),
        ("mcsgd", {"learning_rat": 0.1}, "did you mean 'learning_rate'"),
        ("mcsgd", {"lerning_rate": Range(0.1, 0.2)}, "did you mean 'learning_rate'"),
        ("mcsgd", {"momentun": [0.1, 0.2]}, "did you mean '(connect_)?momentum'"),
        ("stable-sgd", {"line_samples": 3}, "unknown hyperparameter of stable-sgd 'line_samples'"),
        ("mc-sgd", {"dropout": 0.1}, "unknown method 'mc-sgd': did you mean 'mcsgd'"),
    ],
)
def test_mistakes_get_one_line(method: str, space: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        distributions(method, space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_a_space_has_nothing_to_search(method: str) -> None:
    assert distributions(method, {}) == {}


def test_an_unknown_method_is_found_without_a_space_too() -> None:
    with pytest.raises(UserError, match="unknown method 'mcgsd'"):
        distributions("mcgsd", {})
