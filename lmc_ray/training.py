"""One stack's training from its first task to its results. Knows nothing of Ray."""

import time
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lmc_ray.benchmarks import Benchmark
from lmc_ray.connectivity.paths import (
    Path,
    barriers,
    linear_path,
    own_paths,
    trio_paths,
)
from lmc_ray.errors import unknown
from lmc_ray.learners import METHODS, Learner, Setting, trio_of
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.learners.hyperparameters import SGD
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.metrics import Summary, accuracy_curve, summarize

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """What is measured while a stack trains."""

    split: Literal["validation", "test"]
    group: int
    """Images a forward pass in evaluation; part of the protocol under batch normalisation."""
    path_points: int = 0
    """Points on each path; 0: no paths. With paths, MC-SGD trains as a trio."""
    keep_minima: tuple[int, ...] = ()
    """The tasks after which all standing minima are kept, for their weights."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured: a search has no trios, a path has two ends.

        Raises:
            ValueError: an unknown split; paths on validation data, or of fewer than two points.
        """
        if self.split not in ("validation", "test"):
            raise ValueError(f"split {self.split!r}: accuracies are of validation or test images")
        if self.path_points and (self.split == "validation" or self.path_points < 2):
            raise ValueError("paths are measured on test data, at two points or more")


@dataclass
class Record:
    """What is known of one replica; rows are named as the store's columns."""

    seed: int
    status: Literal["running", "finished", "diverged", "pruned"] = "running"
    tasks_completed: int = 0
    accuracies: list[Row] = field(default_factory=list)
    paths: list[Row] = field(default_factory=list)
    barriers: list[Row] = field(default_factory=list)
    gradient_evaluations: int = 0
    examples_seen: int = 0


def chance_accuracy(benchmark: Benchmark) -> float:
    """Accuracy of guessing among a task's classes."""
    classes = benchmark.task_classes(1)
    return 1 / (benchmark.classes if classes is None else len(classes))


def _plan(
    method: str, measurement: Measurement, tasks: int
) -> tuple[type[Learner[Any]], list[Path]]:
    """Who learns, and which paths are measured at the end."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    learner = METHODS[method].learner
    if not measurement.path_points or learner.minimum == "multitask":
        return learner, []
    if issubclass(learner, ModeConnectivitySGD):
        return trio_of(learner), trio_paths(tasks)
    return learner, own_paths(learner.minimum, tasks)


class Training:
    """Trains one stack task by task and measures it.

    A replica whose parameters or loss become NaN or infinite is marked `diverged` and leaves the
    stack, as one that is pruned does; the others go on with unchanged numbers.
    """

    def __init__(
        self,
        setting: Setting,
        method: str,
        hyperparameters: Sequence[SGD],
        seeds: Sequence[int],
        measurement: Measurement,
    ) -> None:
        learner, self.path_plan = _plan(method, measurement, setting.benchmark.tasks)
        self.setting = setting
        self.measurement = measurement
        self.learner = learner(setting, hyperparameters, seeds)
        self.task = 0
        """Tasks learned so far."""
        self.records = [Record(seed) for seed in seeds]
        self.kept: dict[tuple[str, int], Tensor] = {}
        """Ends of the planned paths and minima to be kept, by minimum and task."""
        self.seconds = 0.0

    @property
    def active(self) -> list[Record]:
        """The records of the replicas still in the stack, in stack order."""
        return [record for record in self.records if record.status == "running"]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return not self.active

    def step(self) -> None:
        """Learn the next task, measure, and let diverged replicas leave."""
        start = time.monotonic()
        self.task += 1
        self.learner.learn(self.task)
        for record in self.active:  # of those that diverge, too: it was spent on them
            record.gradient_evaluations = self.learner.gradient_evaluations
            record.examples_seen = self.learner.examples_seen
        self._leave(self.learner.finite(), "diverged")
        if self.active:
            self._measure()
        for record in self.active:
            record.tasks_completed = self.task
        if self.task == self.setting.benchmark.tasks and self.active:
            self._measure_paths()
            for record in self.active:
                record.status = "finished"
        self.seconds += time.monotonic() - start

    def prune(self, replicas: Container[int]) -> None:
        """End these here (by place in `records`), on the word of whoever compares trials."""
        running = [place for place, each in enumerate(self.records) if each.status == "running"]
        self._leave([place not in replicas for place in running], "pruned")

    def curve(self, record: Record) -> tuple[float, ...]:
        """Average accuracy of the own minimum after each task; joint training has the last only."""
        rows = (row for row in record.accuracies if row["minimum"] == self.learner.minimum)
        return accuracy_curve((row["after_task"], row["accuracy"]) for row in rows)

    def accuracy(self, record: Record) -> float:
        """Average accuracy over the tasks learned so far; chance level if diverged or unknown."""
        curve = self.curve(record)
        if record.status == "diverged" or not curve:
            return chance_accuracy(self.setting.benchmark)
        return curve[-1]

    def summary(self, record: Record) -> Summary | None:
        """Summary numbers of the method's own minimum; None unless the replica finished."""
        if record.status != "finished":
            return None
        if self.learner.minimum == "multitask":  # sees old tasks again, so it forgets nothing
            return Summary(self.curve(record)[-1], None, None, None)
        return summarize(self._matrix(record))

    def minima(self, record: Record) -> dict[tuple[str, int], Tensor]:
        """The weights to keep of one replica, by minimum and task; none unless it finished."""
        if record.status != "finished":
            return {}
        finished = [each for each in self.records if each.status == "finished"]
        replica = next(place for place, each in enumerate(finished) if each is record)
        return {
            (name, task): theta[replica]
            for (name, task), theta in self.kept.items()
            if task in self.measurement.keep_minima
        }

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the tasks learned so far."""
        return {
            "learner": self.learner.state(),
            "task": self.task,
            "records": [asdict(record) for record in self.records],
            "kept": {key: theta.cpu() for key, theta in self.kept.items()},
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same training."""
        self.learner.restore(state["learner"])
        self.task = state["task"]
        self.records = [Record(**record) for record in state["records"]]
        device = self.setting.device
        self.kept = {key: theta.to(device) for key, theta in state["kept"].items()}
        self.seconds = state["seconds"]

    def _measure(self) -> None:
        """Accuracy of the standing minima on every learned task; only the own one in a search."""
        minima = self.learner.minima(self.task)
        if self.measurement.split == "validation":
            minima = {k: v for k, v in minima.items() if k == self.learner.minimum}
        if not minima:
            return
        for path in self.path_plan:
            for name, task in (
                (path.from_minimum, path.from_task),
                (path.to_minimum, path.to_task),
            ):
                if task == self.task:
                    self.kept[name, task] = minima[name]
        if self.task in self.measurement.keep_minima:
            self.kept |= {(name, self.task): theta for name, theta in minima.items()}
        thetas = torch.cat(list(minima.values()))
        replicas = len(self.active)
        finite = [True] * replicas
        for eval_task in range(1, self.task + 1):
            examples = self.setting.examples(eval_task, self.measurement.split)
            accuracy, loss = evaluate(
                self.setting.network,
                thetas,
                examples,
                self.setting.allowed(eval_task),
                self.measurement.group,
            )
            rows = zip(accuracy.tolist(), loss.tolist(), strict=True)
            for i, (each_accuracy, each_loss) in enumerate(rows):
                kind, replica = divmod(i, replicas)
                if list(minima)[kind] == self.learner.minimum:
                    finite[replica] &= bool(np.isfinite(each_loss))
                elif not np.isfinite(each_loss):
                    continue  # a companion that diverged: no classifier, though it would score
                self.active[replica].accuracies.append(
                    {
                        "minimum": list(minima)[kind],
                        "after_task": self.task,
                        "eval_task": eval_task,
                        "split": self.measurement.split,
                        "accuracy": each_accuracy,
                        "loss": each_loss,
                        "examples": len(examples.labels),
                    }
                )
        self._leave(finite, "diverged")

    def _measure_paths(self) -> None:
        for path in self.path_plan:
            start = self.kept[path.from_minimum, path.from_task]
            end = self.kept[path.to_minimum, path.to_task]
            curve = linear_path(
                self.setting.network,
                start,
                end,
                self.measurement.path_points,
                self.setting.examples(path.eval_task, self.measurement.split),
                self.setting.allowed(path.eval_task),
                self.measurement.group,
            )
            whole = (start.isfinite() & end.isfinite()).all(dim=1).tolist()
            for replica, record in enumerate(self.active):
                if not whole[replica]:  # a companion has diverged: there is no such path
                    continue
                keys = {
                    "path_id": path.path_id,
                    "from_seed": record.seed,
                    "to_seed": record.seed,
                    **asdict(path),
                    "curve": "linear",
                    "control": "same-init",
                    "split": self.measurement.split,
                }
                record.paths += [
                    {**keys, "alpha": alpha, "accuracy": accuracy, "loss": loss}
                    for alpha, accuracy, loss in zip(
                        curve.alphas.tolist(),
                        curve.accuracy[replica].tolist(),
                        curve.loss[replica].tolist(),
                        strict=True,
                    )
                ]
                same_task = path.from_task == path.to_task
                heights = barriers(curve, replica, same_task=same_task)
                record.barriers.append({**keys, **asdict(heights)})

    def _leave(self, stay: list[bool], status: Literal["diverged", "pruned"]) -> None:
        """Mark the replicas that may not stay and go on without them."""
        if all(stay):
            return
        index = [replica for replica, stays in enumerate(stay) if stays]
        for record, stays in zip(self.active, stay, strict=True):
            if not stays:
                record.status = status
        self.learner.keep(index)
        self.kept = {key: theta[index] for key, theta in self.kept.items()}

    def _matrix(self, record: Record) -> np.ndarray:
        matrix = np.full((self.task, self.task), np.nan)
        for row in record.accuracies:
            if row["minimum"] == self.learner.minimum:
                matrix[row["after_task"] - 1, row["eval_task"] - 1] = row["accuracy"]
        return matrix
