"""The methods: how each learns a benchmark's tasks, for a stack of replicas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmc_ray.errors import unknown
from lmc_ray.learners.agem import AveragedGEM
from lmc_ray.learners.averaging import AlongSteps, BetweenTasks
from lmc_ray.learners.er import ExperienceReplay
from lmc_ray.learners.ewc import ElasticWeights
from lmc_ray.learners.hyperparameters import (
    EWC,
    MCSGD,
    SGD,
    ExponentialAverage,
    Multitask,
    Replaying,
    WeightAveraging,
)
from lmc_ray.learners.learner import Learner, Setting
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.learners.multitask import MultitaskSGD
from lmc_ray.learners.sgd import SequentialSGD
from lmc_ray.learners.trio import trio_of

__all__ = [
    "METHODS",
    "Learner",
    "Method",
    "Setting",
    "hyperparameters",
    "own_methods",
    "register",
    "trio_of",
]


@dataclass(frozen=True)
class Method:
    """A learner, its hyperparameters, and the settings of the paper that are not their defaults."""

    title: str
    learner: type[Learner[Any]]
    hyperparameters: type[SGD]
    settings: dict[str, Any]


METHODS: dict[str, Method] = {
    # Mirzadeh et al. 2021, appendix: naive SGD has neither dropout nor decay.
    "naive-sgd": Method("naive SGD", SequentialSGD, SGD, {"learning_rate": 0.01, "batch_size": 10}),
    "stable-sgd": Method(
        "Stable SGD", SequentialSGD, SGD, {"dropout": 0.5, "lr_decay": 0.8, "batch_size": 10}
    ),
    # Batch 10, also of the replay; one example a class and task; EWC's strength 10.
    "ewc": Method("EWC", ElasticWeights, EWC, {"batch_size": 10}),
    "agem": Method("A-GEM", AveragedGEM, Replaying, {"batch_size": 10, "replay_memory": "ring"}),
    "er": Method("ER", ExperienceReplay, Replaying, {"batch_size": 10}),
    "multitask": Method("multitask", MultitaskSGD, Multitask, {}),
    "mcsgd": Method("MC-SGD", ModeConnectivitySGD, MCSGD, {"lr_decay": 0.8, "dropout": 0.2}),
    # Not in the paper.
    "er-mcsgd": Method(
        "ER + MC-SGD",
        ModeConnectivitySGD,
        MCSGD,
        {"lr_decay": 0.8, "dropout": 0.2, "replay_batch_size": 10},
    ),
    "weight-averaging": Method(
        "weight averaging", BetweenTasks, WeightAveraging, {"lr_decay": 0.8}
    ),
    "ema": Method("EMA", AlongSteps, ExponentialAverage, {"lr_decay": 0.8}),
}


_OURS = frozenset(METHODS)


def register(
    name: str,
    learner: type[Learner[Any]],
    hyperparameters: type[SGD] = SGD,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Add a method of one's own, in the script that runs it; its workers are told.

    Cells are named by their settings, not by the code: after a change of the learner, use another
    results root, or a field such as `revision: int = 2` in its hyperparameters.

    Args:
        name: what tables, `Study` and `--method` call it.
        learner: of the script itself, or of a module that every worker can import.
        hyperparameters: a frozen dataclass, `SGD` or derived from it; numbers are best fields by
            `between` and `count`, which have a range.
        settings: those that are not the defaults of the hyperparameters.

    Raises:
        ValueError: a name that the package has taken, or that no file could have.
    """
    if name in _OURS or not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        raise ValueError(f"method {name!r}: choose a name of letters, digits and '-', not ours")
    METHODS[name] = Method(name, learner, hyperparameters, dict(settings or {}))


def own_methods() -> dict[str, Method]:
    """The methods that are not the package's."""
    return {name: method for name, method in METHODS.items() if name not in _OURS}


def hyperparameters(method: str, values: dict[str, Any]) -> SGD:
    """A method's fully defaulted hyperparameters with some values set.

    Raises:
        UserError: unknown method, a name that the method does not have, or a value out of range.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    kind = METHODS[method].hyperparameters
    for name in values:
        if name not in kind.__dataclass_fields__:
            raise unknown(f"hyperparameter of {method}", name, kind.__dataclass_fields__)
    return kind(**(METHODS[method].settings | values))
