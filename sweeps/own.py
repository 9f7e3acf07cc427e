"""A method of one's own, beside SGD and EWC: to be copied, and changed from the first class on.

The example is L2 regularisation towards the last minimum: SGD on the loss of task t plus
λ/2 |θ - ŵ_{t-1}|², which is EWC with the identity in place of the Fisher information. Searched on
validation data, confirmed on fresh seeds and test data.
"""

from dataclasses import dataclass

try:
    from lmc_ray.learners import register
    from lmc_ray.learners.batches import Batch
    from lmc_ray.learners.descent import Theta
    from lmc_ray.learners.hyperparameters import SGD, between
    from lmc_ray.learners.sgd import SequentialSGD, learn_task
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None


@dataclass(frozen=True, kw_only=True)
class L2(SGD):
    """What can be set, beside all that SGD has."""

    l2_strength: float = between(0.1, 0)
    """λ: at least 0. Replicas of a stack may differ in a number that `between` made."""


class TowardsTheLast(SequentialSGD):
    """ŵ_t: SGD from ŵ_{t-1}, pulled back there.

    A learner keeps what it knows between two tasks in `self.tensors`, replicas first: then it can
    be stopped and go on elsewhere, and a diverged replica leaves it without a trace.
    """

    def learn(self, task: int) -> None:
        """Task t, for all replicas of the stack at once."""
        last, strength = self.tensors["sequential"], self.tensors["l2_strength"][:, None]

        def pull(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
            gradient += strength * (theta - last)

        self.tensors["sequential"] = learn_task(self, last, task, pull if task > 1 else None)


register("l2", TowardsTheLast, L2)

SGD_SPACE = {
    "learning_rate": Range(0.01, 0.3, log=True),
    "lr_decay": Range(0.4, 1.0),
    "batch_size": 16,
}

if __name__ == "__main__":
    main(
        [
            Study(method="stable-sgd", space=SGD_SPACE),
            Study(method="ewc", space=SGD_SPACE | {"ewc_strength": Range(1, 1000, log=True)}),
            Study(method="l2", space=SGD_SPACE | {"l2_strength": Range(0.001, 10, log=True)}),
        ],
        trials=10,
        seeds=5,
    )
