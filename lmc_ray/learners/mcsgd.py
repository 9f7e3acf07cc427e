"""MC-SGD: Mode Connectivity SGD (Mirzadeh et al. 2021, section 4).

After SGD on task t has given ŵ_t, look for a w̄_t with low loss all along two lines: from w̄_{t-1},
on the memory of the tasks 1..t-1, and from ŵ_t, on examples of the current task:

    J(w) = 1/(n+1) Σ_k [ L_mem(w̄_{t-1} + α_k (w - w̄_{t-1})) + L_t(ŵ_t + α_k (w - ŵ_t)) ], α_k = k/n

The gradient of each term at w is α_k times the gradient at the point on the line (chain rule).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmc_ray.learners.batches import Batch
from lmc_ray.learners.connection_batches import connection_batches
from lmc_ray.learners.descent import Theta, momentum_step
from lmc_ray.learners.hyperparameters import MCSGD
from lmc_ray.learners.learner import Setting
from lmc_ray.learners.remembering import Remembering
from lmc_ray.learners.replay import Replay, replaying
from lmc_ray.learners.sgd import learn_task
from lmc_ray.memory import draw
from lmc_ray.randomness import Dropout, stream


@dataclass(frozen=True)
class PathPoint:
    """One α on both lines, with the weights of the two gradients taken there."""

    alpha: Float[Tensor, "replicas 1"]
    memory_weight: Float[Tensor, "#replicas 1"]
    current_weight: Float[Tensor, "#replicas 1"]


def path_points(alphas: Float[Tensor, "points replicas"], common: MCSGD) -> list[PathPoint]:
    """The points of J's sum, weighted by `path_weight` and `path_reduction`.

    With K points k = 0..K-1: `exact` α_k; `uniform` 1; `cumulative` K-k, as when gradients are not
    cleared between points; `carried` the same, and the memory line's whole gradient is still there
    at every point of the current line: 2K-k for the memory.
    """
    number = len(alphas)
    share = 1 / number if common.path_reduction == "mean" else 1.0
    points = []
    for k, alpha in enumerate(alphas[:, :, None]):
        one = torch.ones_like(alpha)
        memory, current = {
            "exact": (alpha, alpha),
            "uniform": (one, one),
            "cumulative": (one * (number - k), one * (number - k)),
            "carried": (one * (2 * number - k), one * (number - k)),
        }[common.path_weight]
        points.append(PathPoint(alpha, memory * share, current * share))
    return points


class ModeConnectivitySGD(Remembering[MCSGD]):
    """w̄_t: SGD on task t, then a few steps on J from between w̄_{t-1} and ŵ_t."""

    minimum = "connected"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[MCSGD], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        w0 = self.initial()
        self.tensors |= {"connected": w0, self.inner: w0}

    @property
    def inner(self) -> str:
        """What SGD on the current task gives: ŵ_t only if it starts at ŵ_{t-1}, without replay."""
        plain = self.common.continue_from == "sequential" and not self.common.replay_batch_size
        return "sequential" if plain else "inner"

    def learn(self, task: int) -> None:
        """See `Learner.learn`; w̄_1 = ŵ_1."""
        after_sgd = self.common.continue_from == "sequential"
        start = self.tensors[self.inner if after_sgd else "connected"]
        sequential = self.tensors[self.inner] = self._descend(start, task)
        if self.common.memory_includes_current:
            self._remember(task)
        if task == 1:
            self.tensors["connected"] = sequential
        else:
            self.tensors["connected"] = self._connect(self.tensors["connected"], sequential, task)
        if not self.common.memory_includes_current:
            self._remember(task)

    def _descend(self, start: Theta, task: int) -> Theta:
        """SGD on task t: ŵ_t, or the inner minimum."""
        adjust = None
        if task > 1 and (size := self.common.replay_batch_size):
            by_task = self.common.connect_batches == "by_task"
            adjust = replaying(Replay(self, self.memory, task, size, by_task=by_task))
        return learn_task(self, start, task, adjust)

    def _connect(self, connected: Theta, sequential: Theta, task: int) -> Theta:
        """Minimise J by SGD with momentum from w̄_{t-1} + p (ŵ_t - w̄_{t-1})."""
        w = torch.lerp(connected, sequential, self.tensors["init_position"][:, None])
        velocity = torch.zeros_like(w)
        batches = connection_batches(self.setting, self.seeds, task, self.memory, self.common)
        for step, (memory, current) in enumerate(batches):
            points = path_points(self._alphas(task, step), self.common)
            gradient = torch.zeros_like(w)
            for k, point in enumerate(points):
                at = (task, step, k)
                # Nothing is carried over to a current line that does not follow.
                alone = point.current_weight if current is None else point.memory_weight
                for line, end, batch, weight in (
                    ("memory", connected, memory, alone),
                    ("current", sequential, current, point.current_weight),
                ):
                    if batch is not None and bool((weight > 0).any()):
                        here = torch.lerp(end, w, point.alpha)
                        gradient += weight * self._gradient(here, batch, (line, *at))
            momentum_step(
                w,
                velocity,
                gradient,
                self.tensors["connect_learning_rate"],
                self.tensors["connect_momentum"],
            )
        return w

    def _gradient(self, theta: Theta, batch: Batch, at: tuple[str | int, ...]) -> Theta:
        """∇L at one point of a line, in evaluation mode unless `path_dropout`."""
        network, factors = self.setting.network, None
        if self.common.path_dropout and network.hidden:
            dropout = Dropout(self.seeds, self.tensors["dropout"])
            factors = dropout.factors(("path-dropout", *at), batch.size, sum(network.hidden))
        _, gradient = network.loss_and_gradient(
            theta, batch.images, batch.labels, batch.allowed, factors
        )
        self.count(batch.size)
        return gradient / batch.size if self.common.loss_scale == "per_example" else gradient

    def _alphas(self, task: int, step: int) -> Float[Tensor, "points replicas"]:
        """α_k = k/n, or one α uniform in (0, 1) a step and seed."""
        replicas, like = len(self.seeds), self.tensors["connected"]
        if self.common.path_sampling == "uniform":
            path = ("path-sampling", task, step)
            draws = [
                torch.rand(1, generator=stream(seed, *path), dtype=torch.float64)
                for seed in self.seeds
            ]
            return torch.stack(draws, dim=1).to(like)
        grid = torch.linspace(0, 1, self.common.line_samples + 1, dtype=torch.float64)
        return grid[:, None].expand(-1, replicas).to(like)

    def _remember(self, task: int) -> None:
        examples = self.setting.examples(task)
        how = self.common.memory_draw
        index = draw(examples, self.seeds, task, self.common.memory_per_class, how)
        self.memory = self.memory.with_task(examples, index, task)

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {"connected": self.tensors["connected"], self.inner: self.tensors[self.inner]}
