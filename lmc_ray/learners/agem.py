"""A-GEM: averaged gradient episodic memory (Chaudhry et al. 2019, arXiv:1812.00420)."""

from collections.abc import Sequence

import torch

from lmc_ray.learners.batches import Batch
from lmc_ray.learners.descent import Adjust, Theta
from lmc_ray.learners.hyperparameters import Replaying
from lmc_ray.learners.learner import Setting
from lmc_ray.learners.remembering import Remembering
from lmc_ray.learners.replay import Replay, keep_examples
from lmc_ray.learners.sgd import learn_task


def project(gradient: Theta, reference: Theta) -> None:
    """Take from each gradient, in place, what points against its reference (equation 11).

    g ← g - (gᵀg_ref / g_refᵀg_ref) g_ref where gᵀg_ref < 0: the closest gradient along which the
    loss on the memory does not rise, to first order.
    """
    along = (gradient * reference).sum(dim=1, keepdim=True)
    length = reference.square().sum(dim=1, keepdim=True)
    gradient -= torch.where(along < 0, along / length, 0) * reference


class AveragedGEM(Remembering[Replaying]):
    """ŵ_t: SGD on task t from ŵ_{t-1}, along gradients that do not harm a sample of the memory."""

    minimum = "sequential"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[Replaying], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["sequential"] = setting.initial(seeds)

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        adjust = self._projected(task) if task > 1 else None
        self.tensors["sequential"] = learn_task(self, self.tensors["sequential"], task, adjust)
        self.memory = keep_examples(self, self.memory, task)

    def _projected(self, task: int) -> Adjust:
        replay = Replay(self, self.memory, task, self.common.replay_batch_size)

        def adjust(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
            project(gradient, replay.gradient(theta, step))

        return adjust

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {"sequential": self.tensors["sequential"]}
