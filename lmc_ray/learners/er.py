"""ER: experience replay (Chaudhry et al. 2019, arXiv:1902.10486).

Every step of SGD on task t descends the mean loss over a batch of the task and a few examples of
the tasks 1..t-1. Under batch normalisation the two are groups of their own.
"""

from collections.abc import Sequence

from lmc_ray.learners.descent import Adjust, Theta
from lmc_ray.learners.hyperparameters import Replaying
from lmc_ray.learners.learner import Setting
from lmc_ray.learners.remembering import Remembering
from lmc_ray.learners.replay import Replay, keep_examples, replaying
from lmc_ray.learners.sgd import learn_task


class ExperienceReplay(Remembering[Replaying]):
    """ŵ_t: SGD on task t from ŵ_{t-1}, each step beside `replay_batch_size` remembered examples."""

    minimum = "sequential"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[Replaying], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["sequential"] = self.initial()

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        adjust = None
        if task > 1:
            size, by_task = self.common.replay_batch_size, self.common.replay_batches == "by_task"
            replay = Replay(self, self.memory, task, size, by_task=by_task)
            adjust = self.adjusted(replay)
        self.tensors["sequential"] = learn_task(self, self.tensors["sequential"], task, adjust)
        self.memory = keep_examples(self, self.memory, task)

    def adjusted(self, replay: Replay) -> Adjust:
        """What the replayed gradient does to the task's."""
        return replaying(replay)

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        return {"sequential": self.tensors["sequential"]}
