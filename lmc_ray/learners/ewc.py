"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796)."""

from collections.abc import Sequence

import torch

from lmc_ray.learners.batches import Batch
from lmc_ray.learners.descent import Theta
from lmc_ray.learners.fisher import fisher
from lmc_ray.learners.hyperparameters import EWC
from lmc_ray.learners.learner import Learner, Setting
from lmc_ray.learners.sgd import learn_task


class ElasticWeights(Learner[EWC]):
    """ŵ_t: SGD from ŵ_{t-1} on the loss of task t + λ/2 Σ_{i<t} F_i (θ - ŵ_i)².

    F_i is the diagonal of the Fisher information on task i at ŵ_i. `online` (Schwarz et al. 2018,
    arXiv:1805.06370) has one anchor, the last ŵ, and F = γ F + F_i. The penalty's gradient is
    λ (S θ - M) with S = Σ F_i and M = Σ F_i ŵ_i: what is kept does not grow with the tasks.
    """

    minimum = "sequential"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[EWC], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        w0 = self.initial()
        nothing = torch.zeros_like(w0)
        self.tensors |= {"sequential": w0, "stiffness": nothing, "moment": nothing}

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        strength = self.tensors["ewc_strength"][:, None]
        stiffness, moment = (strength * self.tensors[name] for name in ("stiffness", "moment"))

        def pull(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
            gradient.addcmul_(stiffness, theta).sub_(moment)

        w = learn_task(self, self.tensors["sequential"], task, pull if task > 1 else None)
        self.tensors["sequential"] = w
        if task < self.setting.benchmark.tasks:
            self._anchor(w, task)

    def _anchor(self, w: Theta, task: int) -> None:
        """Add the task just learned to the penalty."""
        information = fisher(self, w, task)
        if self.common.ewc_penalty == "online":
            kept = self.tensors["ewc_decay"][:, None] * self.tensors["stiffness"]
            self.tensors["stiffness"] = kept + information
            self.tensors["moment"] = self.tensors["stiffness"] * w
        else:
            self.tensors["stiffness"] = self.tensors["stiffness"] + information
            self.tensors["moment"] = self.tensors["moment"] + information * w

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {"sequential": self.tensors["sequential"]}
