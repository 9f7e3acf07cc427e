"""What learners with an episodic memory share."""

from collections.abc import Sequence
from dataclasses import fields

from lmc_ray.learners.learner import H, Learner, Setting
from lmc_ray.memory import Memory


class Remembering(Learner[H]):
    """A learner whose memory lies in `tensors`, like all that it knows."""

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[H], seeds: Sequence[int]
    ) -> None:
        super().__init__(setting, hyperparameters, seeds)
        shape, device = setting.benchmark.image_shape, setting.device
        self.tensors |= vars(Memory.empty(len(seeds), shape, device))

    @property
    def memory(self) -> Memory:
        """What each replica remembers."""
        return Memory(**{each.name: self.tensors[each.name] for each in fields(Memory)})

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.tensors |= vars(memory)
