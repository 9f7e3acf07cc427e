"""Naive and Stable SGD: one task after the other, nothing kept (ŵ_t).

They are one algorithm. Stable SGD (Mirzadeh et al. 2020, arXiv:2006.06958) is its regime of large,
decaying learning rates and dropout.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from lmc_ray.learners.batches import epoch
from lmc_ray.learners.descent import Adjust, descend
from lmc_ray.learners.hyperparameters import SGD
from lmc_ray.learners.learner import H, Learner, Setting


def learn_task(
    learner: Learner[H],
    start: Float[Tensor, "replicas parameters"],
    task: int,
    adjust: Adjust | None = None,
) -> Float[Tensor, "replicas parameters"]:
    """SGD on one task with a fresh optimiser: from `start` to ŵ_t."""
    common = learner.common
    return descend(
        learner.setting.network,
        start,
        (
            batch
            for number in range(common.epochs_of(task))
            for batch in epoch(
                learner.setting,
                learner.seeds,
                task,
                number,
                common.batch_size,
                shuffle=common.shuffle,
            )
        ),
        seeds=learner.seeds,
        purpose=("dropout", task),
        learning_rate=learner.learning_rate(task),
        momentum=learner.tensors["momentum"],
        drop=learner.tensors["dropout"],
        count=learner.count,
        adjust=adjust,
    )


class SequentialSGD(Learner[SGD]):
    """ŵ_t: plain SGD on task t from ŵ_{t-1}."""

    minimum = "sequential"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[SGD], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["sequential"] = self.initial()

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        self.tensors["sequential"] = learn_task(self, self.tensors["sequential"], task)

    def minima(self, task: int) -> dict[str, Float[Tensor, "replicas parameters"]]:
        """See `Learner.minima`."""
        return {"sequential": self.tensors["sequential"]}
