"""Two ways to average weights along a sequence of tasks: extensions of ours, without a memory.

Both rest on linear connectivity: an average is good where the line between its parts is.
"""

from collections.abc import Sequence

import torch

from lmc_ray.learners.batches import Batch
from lmc_ray.learners.descent import Theta
from lmc_ray.learners.hyperparameters import ExponentialAverage, WeightAveraging
from lmc_ray.learners.learner import Learner, Setting
from lmc_ray.learners.sgd import learn_task


class BetweenTasks(Learner[WeightAveraging]):
    """w_t = (1-α) w_{t-1} + α ŵ_t, where ŵ_t is SGD on task t from w_{t-1}, and w_1 = ŵ_1.

    The interpolation of WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903), after every task: MC-SGD
    with neither connection steps nor a memory.
    """

    minimum = "averaged"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[WeightAveraging], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["averaged"] = self.tensors["inner"] = self.initial()

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        before = self.tensors["averaged"]
        end = self.tensors["inner"] = learn_task(self, before, task)
        position = self.tensors["average_position"][:, None]
        self.tensors["averaged"] = end if task == 1 else torch.lerp(before, end, position)

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {"averaged": self.tensors["averaged"], "inner": self.tensors["inner"]}


class AlongSteps(Learner[ExponentialAverage]):
    """w ← β w + (1-β) θ after every step θ of plain SGD, which the average does not touch.

    Its parts are the steps from the end of task 1 on, so that w_1 = ŵ_1 as everywhere.
    """

    minimum = "averaged"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[ExponentialAverage], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["averaged"] = self.tensors["sequential"] = self.initial()

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        average = self.tensors["averaged"].clone()
        share = 1 - self.tensors["ema_decay"][:, None]

        def adjust(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
            if step > 0:  # what a task starts from was the last step of the task before
                average.lerp_(theta, share)

        end = learn_task(self, self.tensors["sequential"], task, adjust if task > 1 else None)
        self.tensors["sequential"] = end
        self.tensors["averaged"] = end if task == 1 else average.lerp_(end, share)

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {name: self.tensors[name] for name in ("averaged", "sequential")}
