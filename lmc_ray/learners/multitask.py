"""Multitask training: w*, the solution that sees several tasks together."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lmc_ray.learners.batches import mixed_epoch
from lmc_ray.learners.descent import descend
from lmc_ray.learners.hyperparameters import Multitask
from lmc_ray.learners.learner import H, Learner, Setting
from lmc_ray.randomness import permutations


class MultitaskSGD(Learner[Multitask]):
    """w*_t by one of two schedules (Mirzadeh et al. 2021, sections 2 and 5).

    `joint`: all T tasks from w_0, `epochs` passes over their union, cut into T equal parts; part t
    runs at the learning rate of task t, so that decay means what it means elsewhere. There is a
    minimum only at the end. `growing`: w*_t from w*_{t-1}, see `growing_part`.
    """

    minimum = "multitask"

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[Multitask], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        self.tensors["multitask"] = self.initial()

    @property
    def joint(self) -> bool:
        """Whether all tasks are learned together from w_0."""
        return self.common.multitask_schedule == "joint"

    def learn(self, task: int) -> None:
        """See `Learner.learn`."""
        chosen = (
            joint_part(self.setting, self.seeds, task, self.common.epochs)
            if self.joint
            else growing_part(
                self.setting,
                self.seeds,
                task,
                self.common.epochs_of(task),
                self.common.examples_per_task,
            )
        )
        self.tensors["multitask"] = learn_together(
            self, self.tensors["multitask"], task, chosen, self.count
        )

    def minima(self, task: int) -> dict[str, Float[Tensor, "replicas parameters"]]:
        """See `Learner.minima`."""
        if self.joint and task < self.setting.benchmark.tasks:
            return {}
        return {"multitask": self.tensors["multitask"]}


def learn_together(
    learner: Learner[H],
    start: Float[Tensor, "replicas parameters"],
    task: int,
    chosen: Int64[Tensor, "replicas examples two"],
    count: Callable[[int], None],
) -> Float[Tensor, "replicas parameters"]:
    """SGD with a fresh optimiser on examples of several tasks, at the learning rate of `task`."""
    return descend(
        learner.setting.network,
        start,
        mixed_epoch(learner.setting, chosen, learner.common.batch_size),
        seeds=learner.seeds,
        purpose=("multitask-dropout", task),
        learning_rate=learner.learning_rate(task),
        momentum=learner.tensors["momentum"],
        drop=learner.tensors["dropout"],
        count=count,
    )


def joint_part(
    setting: Setting, seeds: list[int], part: int, epochs: int
) -> Int64[Tensor, "replicas examples two"]:
    """(task, row) of the part-th of T equal parts of `epochs` shuffled passes over all tasks."""
    tasks = setting.benchmark.tasks
    every = _pairs([(task, torch.arange(setting.size(task))) for task in range(1, tasks + 1)])
    passes = [
        permutations(seeds, len(every), "multitask-order", number) for number in range(epochs)
    ]
    return every[torch.cat(passes, dim=1).tensor_split(tasks, dim=1)[part - 1]]


def growing_part(
    setting: Setting, seeds: list[int], task: int, epochs: int, examples_per_task: int
) -> Int64[Tensor, "replicas examples two"]:
    """(task, row) of all examples on the way from w*_{t-1} to w*_t.

    Each of `epochs` passes sees up to `examples_per_task` examples of each of the tasks 1..t,
    drawn anew, in one shuffled order.
    """
    rows = []
    for seed in seeds:
        parts = []
        for number in range(epochs):
            drawn = []
            for learned in range(1, task + 1):
                path = ("multitask-draw", task, learned, number)
                row = permutations([seed], setting.size(learned), *path, count=examples_per_task)
                drawn.append((learned, row[0]))
            pairs = _pairs(drawn)
            order = permutations([seed], len(pairs), "multitask-order", task, number)
            parts.append(pairs[order[0]])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _pairs(rows: list[tuple[int, Tensor]]) -> Int64[Tensor, "examples two"]:
    return torch.cat([torch.stack([torch.full_like(row, t), row], dim=1) for t, row in rows])
