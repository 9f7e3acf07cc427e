"""Replay: gradients on mini-batches out of an episodic memory, beside those on the task."""

import torch
from jaxtyping import Int64
from torch import Tensor

from lmc_ray.learners.batches import Batch, epoch_order, scale
from lmc_ray.learners.descent import Adjust, Theta
from lmc_ray.learners.hyperparameters import Replaying
from lmc_ray.learners.learner import H, Learner, Setting
from lmc_ray.memory import Memory, ring
from lmc_ray.randomness import Dropout, permutations


def remembered(setting: Setting, memory: Memory, index: Int64[Tensor, "replicas batch"]) -> Batch:
    """Some of each replica's remembered examples as a mini-batch."""
    index, masks = index.to(setting.device), setting.masks()
    own = torch.arange(len(index), device=setting.device)[:, None]
    return Batch(
        scale(memory.remembered_images[own, index], setting.dtype),
        memory.remembered_labels[own, index],
        None if masks is None else masks[memory.remembered_tasks[own, index] - 1],
    )


class Replay:
    """Replays the memory of the tasks before the present one, step by step.

    Args:
        learner: whose setting, seeds and dropout count.
        memory: the earlier tasks' examples; not empty.
        task: the present task.
        size: examples a step and replica, all if there are fewer; drawn without replacement.
        by_task: each step's out of one task, again from the first where that has fewer.
    """

    def __init__(
        self, learner: Learner[H], memory: Memory, task: int, size: int, *, by_task: bool
    ) -> None:
        self._learner, self._memory, self._task = learner, memory, task
        self.size = min(size, memory.size)
        self._tasks = memory.remembered_tasks.cpu() if by_task else None
        self._dropout = Dropout(learner.seeds, learner.tensors["dropout"])
        self._units = sum(learner.setting.network.hidden)

    def gradient(self, theta: Theta, step: int) -> Theta:
        """Gradient of the mean cross-entropy on this step's replayed examples, with dropout."""
        learner, task, factors = self._learner, self._task, None
        batch = remembered(learner.setting, self._memory, self._drawn(step))
        if self._dropout.active and self._units:
            path = ("replay-dropout", task, step)
            factors = self._dropout.factors(path, batch.size, self._units)
        _, gradient = learner.setting.network.loss_and_gradient(
            theta, batch.images, batch.labels, batch.allowed, factors
        )
        learner.count(batch.size)
        return gradient

    def _drawn(self, step: int) -> Int64[Tensor, "replicas batch"]:
        """Which remembered examples a step replays."""
        count = self.size if self._tasks is None else None
        order = permutations(
            self._learner.seeds, self._memory.size, "replay", self._task, step, count=count
        )
        if self._tasks is None:
            return order
        tasks = self._tasks.gather(1, order)
        own = tasks == tasks[:, :1]  # of the first one's task, which so is drawn by its share
        first = (~own).int().argsort(dim=1, stable=True)
        place = torch.arange(self.size) % own.sum(dim=1, keepdim=True)
        return order.gather(1, first.gather(1, place))


def replaying(replay: Replay) -> Adjust:
    """The gradient on a batch becomes the one of the mean loss over batch and replayed examples."""

    def adjust(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
        share = replay.size / (replay.size + batch.size)
        gradient.lerp_(replay.gradient(theta, step), share)

    return adjust


def keep_examples(learner: Learner[Replaying], memory: Memory, task: int) -> Memory:
    """The memory after a task, `ring` or `reservoir`, in the order of the task's last epoch.

    Both hold `memory_per_class` examples for each class of each task when the sequence is over.
    """
    setting, common = learner.setting, learner.common
    examples, last = setting.examples(task), common.epochs_of(task) - 1
    order = epoch_order(setting, learner.seeds, task, last, shuffle=common.shuffle)
    if common.replay_memory == "ring":
        index = ring(examples, order, task, common.memory_per_class)
        return memory.with_task(examples, index, task)
    classes = setting.benchmark.task_classes(1)
    each = setting.benchmark.classes if classes is None else len(classes)
    return memory.with_reservoir(
        examples,
        order,
        task,
        seeds=learner.seeds,
        seen=sum(setting.size(learned) for learned in range(1, task)),
        capacity=common.memory_per_class * each * setting.benchmark.tasks,
    )
