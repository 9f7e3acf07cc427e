"""Linear paths between minima: w(α) = (1-α)·w_A + α·w_B (Mirzadeh et al. 2021, equation 2)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmc_ray.benchmarks import Examples
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.models import Network

CONNECTED_BELOW = 0.02
"""Two minima count as connected if the error rises by less than this from the path's start."""

_ROUNDING = 1e-9
"""Far below one image in any test set: a rise of exactly the bound is none below it."""


def stays_low(error_rise: float) -> bool:
    """Whether an error that rises by so much (a fraction) leaves two minima connected."""
    return error_rise < CONNECTED_BELOW - _ROUNDING


@dataclass(frozen=True)
class Path:
    """Which line is measured on which task. Minima are named as in the tables, tasks 1-based."""

    from_minimum: str
    from_task: int
    to_minimum: str
    to_task: int
    eval_task: int

    @property
    def path_id(self) -> str:
        """Readable identity within a cell and evaluation task."""
        return f"{self.from_minimum}:{self.from_task}->{self.to_minimum}:{self.to_task}"


@dataclass(frozen=True)
class Curve:
    """Accuracy and loss on a grid of α that includes 0 and 1, per replica."""

    alphas: Float[Tensor, " points"]
    accuracy: Float[Tensor, "replicas points"]
    loss: Float[Tensor, "replicas points"]


@dataclass(frozen=True)
class Barriers:
    """Height of a path above its start (rise) and above its chord (barrier), for one replica.

    `loss_rise` = max_α L(w(α)) - L(w_A), the paper's notion. `loss_barrier` (Entezari et al. 2022)
    = max_α [L(w(α)) - ((1-α) L(w_A) + α L(w_B))]. `instability` (Frankle et al. 2020) =
    max_α E(w(α)) - ½ (E(w_A) + E(w_B)), None where the ends do not share their task. Errors are
    fractions, losses nats.
    """

    loss_rise: float
    error_rise: float
    connected: bool
    loss_barrier: float
    error_barrier: float
    instability: float | None
    max_loss: float
    mean_loss: float
    argmax_alpha: float


def linear_path(
    network: Network,
    start: Float[Tensor, "replicas parameters"],
    end: Float[Tensor, "replicas parameters"],
    points: int,
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> Curve:
    """Measure the line from `start` to `end` at `points` equidistant α; see `evaluate`."""
    alphas = torch.linspace(0, 1, points, dtype=torch.float64)

    def line(a: Tensor, b: Tensor) -> Tensor:
        weights = torch.lerp(a, b, alphas.to(a)[:, None])
        # The ends exactly as trained: lerp may be off by a rounding error at α = 1.
        weights[-1] = b
        return weights

    lines = (line(a, b) for a, b in zip(start, end, strict=True))
    return measure(network, alphas, lines, examples, allowed, group)


def measure(
    network: Network,
    alphas: Float[Tensor, " points"],
    curves: Iterable[Float[Tensor, "points parameters"]],
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> Curve:
    """Measure each replica's curve, given by its weights at all α, one after the other."""
    measured = [
        torch.stack(evaluate(network, weights, examples, allowed, group)) for weights in curves
    ]
    accuracy, loss = torch.stack(measured, dim=1).cpu()
    return Curve(alphas, accuracy, loss)


def barriers(curve: Curve, replica: int, *, same_task: bool) -> Barriers:
    """Rise, barriers and instability of one replica's path."""
    alphas = curve.alphas
    loss, error = curve.loss[replica], 1 - curve.accuracy[replica]

    def above_chord(value: Tensor) -> float:
        return float((value - torch.lerp(value[0], value[-1], alphas)).max())

    error_rise = float(error.max() - error[0])
    return Barriers(
        loss_rise=float(loss.max() - loss[0]),
        error_rise=error_rise,
        connected=stays_low(error_rise),
        loss_barrier=above_chord(loss),
        error_barrier=above_chord(error),
        instability=float(error.max() - (error[0] + error[-1]) / 2) if same_task else None,
        max_loss=float(loss.max()),
        mean_loss=float(loss.mean()),
        argmax_alpha=float(alphas[int(loss.argmax())]),
    )


def trio_paths(tasks: int) -> list[Path]:
    """The paths that every trio is measured on; none for a single task."""
    if tasks == 1:
        return []
    last = tasks
    paths = [
        Path("sequential", 1, "sequential", last, 1),
        Path("sequential", 1, "multitask", last, 1),
        Path("connected", 1, "connected", last, 1),
        Path("connected", last - 1, "connected", last, last - 1),
        Path("sequential", last, "multitask", last, last),
    ]
    return list(dict.fromkeys(paths))  # with two tasks, w̄_{T-1} is w̄_1


def own_paths(minimum: str, tasks: int) -> list[Path]:
    """The one path of a method without a trio: its first minimum to its last, on task 1."""
    return [] if tasks == 1 else [Path(minimum, 1, minimum, tasks, 1)]
