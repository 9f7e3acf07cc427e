"""The hyperparameters of each method, with their defaults, their ranges and the switches of MC-SGD.

Fields marked `numeric` (made by `between`) may differ between the replicas of a stack; all others
shape its loops and tensors and are one value per stack.
"""

from dataclasses import Field, dataclass, field, fields
from math import inf, isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lmc_ray.errors import UserError, unknown


def between(default: float, low: float, high: float = inf, **more: bool) -> Any:
    """A number with an inclusive range, which may differ between the replicas of a stack.

    `open_low`/`open_high` exclude that end.
    """
    return field(default=default, metadata={"numeric": True, "range": (low, high), **more})


def count(default: int | None, low: int, **more: bool) -> Any:
    """A whole number of no more than 32 bits: tensors and loops take no larger ones.

    `later`: added when cells without it had been stored.
    """
    return field(default=default, metadata={"range": (low, 2**31 - 1), **more})


def _later(default: str) -> Any:
    """A choice that was added when cells without it had been stored."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with momentum, one task after the other; task t at max(lr_floor, lr·γ^(t-1))."""

    learning_rate: float = between(0.1, 0, open_low=True)
    lr_decay: float = between(1.0, 0, 1, open_low=True)
    """γ, the factor from one task's learning rate to the next."""
    lr_floor: float = between(5e-4, 0)
    momentum: float = between(0.8, 0, 1, open_high=True)
    dropout: float = between(0.0, 0, 1, open_high=True)
    batch_size: int = count(64, 1)
    epochs: int = count(1, 1)
    first_task_epochs: int | None = count(None, 1)
    """Epochs of task 1; None: as many as `epochs`. The authors' code gives it two. Joint multitask
    training has no task 1 and takes `epochs`."""
    shuffle: bool = True
    """Draw the order of the images anew for every epoch; multitask training always does."""
    initialisation: int = count(0, 0, later=True)
    """Which w_0: 0 is the seed's own, the same for all methods; others are for controls."""

    def __post_init__(self) -> None:
        """Refuse a value out of its range, by name.

        Raises:
            UserError: with the range.
        """
        hints = get_type_hints(type(self))
        for each in fields(self):
            _check(each, hints[each.name], getattr(self, each.name))

    def epochs_of(self, task: int) -> int:
        """Epochs of a task (1-based)."""
        return self.first_task_epochs or self.epochs if task == 1 else self.epochs


@dataclass(frozen=True, kw_only=True)
class Multitask(SGD):
    """Joint training on several tasks (w*, see `learners.multitask`)."""

    multitask_schedule: Literal["joint", "growing"] = "joint"
    examples_per_task: int = count(20_000, 1)
    """Growing schedule: how many examples of each task 1..t one pass uses, at most all."""


@dataclass(frozen=True, kw_only=True)
class MCSGD(SGD):
    """MC-SGD and every switch in which public code differs (see `learners.mcsgd`)."""

    memory_per_class: int = count(1, 1)
    memory_draw: Literal["balanced", "random"] = "balanced"
    memory_includes_current: bool = False
    connect_learning_rate: float = between(0.05, 0, open_low=True)
    connect_momentum: float = between(0.8, 0, 1, open_high=True)
    connect_steps: int = count(50, 0)
    """Steps on J a task; 0: as many as the longer list has batches (`author` in public code)."""
    connect_schedule: Literal["joint", "author"] = "joint"
    connect_batches: Literal["mixed", "by_task"] = "mixed"
    """Of the memory, also where SGD replays it: out of all of it, or of one task in each step."""
    connect_batch_size: int = count(64, 1)
    connect_examples: int = count(2_000, 1)
    """Examples of the current task that J may use, at most all."""
    line_samples: int = count(5, 1)
    """n: J is evaluated at α_k = k/n, k = 0..n (the paper's interpolation steps)."""
    init_position: float = between(0.5, 0, 1)
    """p: J is minimised from w̄_{t-1} + p·(ŵ_t - w̄_{t-1})."""
    path_weight: Literal["exact", "uniform", "cumulative", "carried"] = "exact"
    path_reduction: Literal["mean", "sum"] = "mean"
    examples_per_task: int = count(20_000, 1)
    """Of the growing multitask training that a trio adds, at most all; else unused."""
    path_sampling: Literal["grid", "uniform"] = "grid"
    path_dropout: bool = False
    continue_from: Literal["connected", "sequential"] = "connected"
    loss_scale: Literal["mean", "per_example"] = "mean"
    replay_batch_size: int = count(0, 0, later=True)
    """Remembered examples that SGD on a task replays in every step, as ER does; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Replaying(SGD):
    """ER and A-GEM: SGD beside a few remembered examples in every step."""

    memory_per_class: int = count(1, 1)
    replay_batch_size: int = count(10, 1)
    """Remembered examples a step, at most all."""
    replay_memory: Literal["reservoir", "ring"] = "reservoir"
    replay_batches: Literal["mixed", "by_task"] = _later("mixed")
    """Out of the whole memory, or of one task in each step: a group for batch normalisation."""


@dataclass(frozen=True, kw_only=True)
class EWC(SGD):
    """Elastic weight consolidation (see `learners.ewc`)."""

    ewc_strength: float = between(10.0, 0)
    """λ of the penalty λ/2 Σ F (θ - θ*)²."""
    ewc_penalty: Literal["per_task", "online"] = "per_task"
    ewc_decay: float = between(1.0, 0, 1)
    """γ of the online penalty: how much of the older tasks' F stays when a task is added."""
    fisher_examples: int = count(200, 1)
    """Training examples of a task that F is the mean over, at most all."""
    fisher_labels: Literal["sampled", "empirical"] = "sampled"
    """Labels drawn from the model (the Fisher information), or the data set's."""


@dataclass(frozen=True, kw_only=True)
class WeightAveraging(SGD):
    """w_t between w_{t-1} and the end of SGD on task t (see `learners.averaging`)."""

    average_position: float = between(0.5, 0, 1)
    """α: 0 stays at w_{t-1}, 1 is plain SGD."""


@dataclass(frozen=True, kw_only=True)
class ExponentialAverage(SGD):
    """An exponential moving average of SGD's steps (see `learners.averaging`)."""

    ema_decay: float = between(0.999, 0, 1, open_high=True)
    """β: a step's weight in the average fades by this factor with every later step."""


BATCHES = ("batch_size", "connect_batch_size", "replay_batch_size")
"""Fields that say of how many examples a gradient is taken."""


def batches_of(values: SGD) -> list[int]:
    """Examples of each kind of batch that a gradient is taken of."""
    return [getattr(values, name) for name in BATCHES if hasattr(values, name)]


def numeric_fields(kind: type[SGD]) -> list[str]:
    """Names of the fields in which replicas of one stack may differ."""
    return [each.name for each in fields(kind) if each.metadata.get("numeric")]


def _check(each: "Field[Any]", hint: Any, value: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(each.name, str(value), get_args(hint))
        return
    if hint is bool:
        if not isinstance(value, bool):
            raise UserError(f"{each.name} must be true or false, got {value!r}")
        return
    if value is None and each.default is None:
        return
    if hint is str:
        if not isinstance(value, str):
            raise UserError(f"{each.name} must be a word, got {value!r}")
        return
    whole = hint is int or hint == int | None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{each.name} must be {kind}, got {value!r}")
    low, high = each.metadata.get("range", (-inf, inf))
    above = value > low if each.metadata.get("open_low") else value >= low
    below = value < high if each.metadata.get("open_high") else value <= high
    if not (above and below and isfinite(value)):
        left = "(" if each.metadata.get("open_low") or low == -inf else "["
        right = ")" if each.metadata.get("open_high") or high == inf else "]"
        raise UserError(f"{each.name} must be in {left}{low:g}, {high:g}{right}, got {value:g}")
