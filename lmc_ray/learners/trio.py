"""A trio: ŵ, w* and w̄ from one w_0, one configuration and one solution of task 1."""

from collections.abc import Sequence

from lmc_ray.learners.descent import Theta
from lmc_ray.learners.hyperparameters import MCSGD
from lmc_ray.learners.learner import Setting
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.learners.multitask import growing_part, learn_together
from lmc_ray.learners.sgd import learn_task


class Trio(ModeConnectivitySGD):
    """MC-SGD with two companions that do not touch its numbers.

    ŵ_t goes on from ŵ_{t-1} (inside MC-SGD already if it continues from there), w*_t by the growing
    multitask schedule from w*_{t-1}, with w*_1 = ŵ_1 = w̄_1. Their gradients are not counted: the
    counters tell what MC-SGD costs.
    """

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[MCSGD], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        w0 = self.tensors["connected"]
        self.tensors |= {"sequential": w0, "multitask": w0}

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        before = self.tensors["sequential"]
        super().learn(task)
        if task == 1:
            first = self.tensors["connected"]
            self.tensors |= {"sequential": first, "multitask": first}
            return
        if self.inner != "sequential":
            counted = self.gradient_evaluations, self.examples_seen
            self.tensors["sequential"] = learn_task(self, before, task)
            self.gradient_evaluations, self.examples_seen = counted
        chosen = growing_part(
            self.setting,
            self.seeds,
            task,
            self.common.epochs_of(task),
            self.common.examples_per_task,
        )
        self.tensors["multitask"] = learn_together(
            self, self.tensors["multitask"], task, chosen, count=lambda examples: None
        )

    def minima(self, task: int) -> dict[str, Theta]:
        """See `Learner.minima`."""
        trio = {name: self.tensors[name] for name in ("sequential", "multitask")}
        return super().minima(task) | trio


def trio_of(learner: type[ModeConnectivitySGD]) -> type[ModeConnectivitySGD]:
    """MC-SGD, or a class derived from it, with the two companions."""
    return Trio if learner is ModeConnectivitySGD else type("Trio", (Trio, learner), {})
