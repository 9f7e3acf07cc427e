"""What all learners share: the setting they learn in and the state of their replicas."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmc_ray.benchmarks import Benchmark, Examples, Part
from lmc_ray.learners.hyperparameters import SGD, numeric_fields
from lmc_ray.models import Network
from lmc_ray.randomness import stream

H = TypeVar("H", bound=SGD)


@dataclass(frozen=True)
class Setting:
    """Where learning takes place: one for all replicas of a stack."""

    benchmark: Benchmark
    network: Network
    part: Part
    """Training images: `train` while searching, `full` (with validation) to confirm."""
    device: torch.device
    dtype: torch.dtype
    _resident: dict[tuple[int, Part], Examples] = field(
        default_factory=dict, repr=False, compare=False
    )
    """What has been copied to the device stays there."""

    def examples(self, task: int, part: Part | None = None) -> Examples:
        """A task's examples, those to train on if no other part is asked for, on the device."""
        key = task, part or self.part
        if key not in self._resident:
            examples = self.benchmark.examples(*key)
            where = self.device
            self._resident[key] = Examples(examples.images.to(where), examples.labels.to(where))
        return self._resident[key]

    def size(self, task: int) -> int:
        """Number of the task's training examples."""
        return len(self.benchmark.examples(task, self.part).labels)

    def masks(self) -> Bool[Tensor, "tasks classes"] | None:
        """The classes whose logits count on each task; None: all on every task."""
        if self.benchmark.task_classes(1) is None:
            return None
        shape = (self.benchmark.tasks, self.benchmark.classes)
        masks = torch.zeros(shape, dtype=torch.bool, device=self.device)
        for task in range(1, self.benchmark.tasks + 1):
            masks[task - 1, self.benchmark.task_classes(task)] = True
        return masks

    def allowed(self, task: int) -> Bool[Tensor, "1 1 classes"] | None:
        """One task's row of `masks`."""
        masks = self.masks()
        return None if masks is None else masks[task - 1][None, None]

    def initial(
        self, seeds: Sequence[int], number: int = 0
    ) -> Float[Tensor, "replicas parameters"]:
        """w_0 of each seed; another one for each number, 0 being the seed's own."""
        path = ("initial", number) if number else ("initial",)
        each = [self.network.initial(stream(seed, *path)) for seed in seeds]
        return torch.stack(each).to(self.device, self.dtype)


class Learner(ABC, Generic[H]):
    """Learns the tasks of a benchmark in turn, for a stack of replicas in lock-step.

    All that it knows between two tasks lies in `tensors` (replicas first) and two counters, so a
    replica can leave the stack and an interrupted learner can go on elsewhere.
    """

    minimum: ClassVar[str]
    """Name of the method's own minimum: `sequential`, `multitask`, `connected` or `averaged`."""

    def __init__(
        self, setting: Setting, hyperparameters: Sequence[H], seeds: Sequence[int]
    ) -> None:
        first = hyperparameters[0]
        numeric = set(numeric_fields(type(first)))
        shaping = [{k: v for k, v in vars(h).items() if k not in numeric} for h in hyperparameters]
        if len(seeds) != len(hyperparameters) or any(each != shaping[0] for each in shaping):
            raise ValueError("replicas of one stack may differ in numeric hyperparameters only")
        self.setting = setting
        self.seeds = list(seeds)
        self.common = first
        """Carries the hyperparameters that all replicas share; numeric ones are in `tensors`."""
        self.tensors: dict[str, Tensor] = {
            name: torch.tensor([getattr(h, name) for h in hyperparameters], dtype=torch.float64).to(
                setting.device, setting.dtype
            )
            for name in numeric
        }
        self.gradient_evaluations = 0
        """Mini-batch gradients computed so far, per replica."""
        self.examples_seen = 0
        """Examples that went through them, per replica."""

    def initial(self) -> Float[Tensor, "replicas parameters"]:
        """w_0 of each replica."""
        return self.setting.initial(self.seeds, self.common.initialisation)

    @abstractmethod
    def learn(self, task: int) -> None:
        """Learn one task (1-based); tasks come in order."""

    @abstractmethod
    def minima(self, task: int) -> dict[str, Float[Tensor, "replicas parameters"]]:
        """The minima that stand after this task, by name; empty while there are none yet."""

    def learning_rate(self, task: int) -> Float[Tensor, " replicas"]:
        """max(lr_floor, lr·γ^(t-1))."""
        decayed = self.tensors["learning_rate"] * self.tensors["lr_decay"] ** (task - 1)
        return torch.maximum(decayed, self.tensors["lr_floor"])

    def count(self, examples: int) -> None:
        """Note one mini-batch gradient."""
        self.gradient_evaluations += 1
        self.examples_seen += examples

    def finite(self) -> list[bool]:
        """Which replicas have not diverged, by the method's own minimum."""
        return self.tensors[self.minimum].isfinite().all(dim=1).tolist()

    def keep(self, replicas: Sequence[int]) -> None:
        """Let only these replicas go on."""
        index = torch.tensor(list(replicas), dtype=torch.int64, device=self.setting.device)
        self.tensors = {name: tensor[index] for name, tensor in self.tensors.items()}
        self.seeds = [self.seeds[r] for r in replicas]

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the tasks learned so far."""
        return {
            "tensors": {name: tensor.cpu() for name, tensor in self.tensors.items()},
            "seeds": self.seeds,
            "gradient_evaluations": self.gradient_evaluations,
            "examples_seen": self.examples_seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        device = self.setting.device
        self.tensors = {name: tensor.to(device) for name, tensor in state["tensors"].items()}
        self.seeds = list(state["seeds"])
        self.gradient_evaluations = state["gradient_evaluations"]
        self.examples_seen = state["examples_seen"]
