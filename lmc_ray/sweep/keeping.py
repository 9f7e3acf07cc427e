"""Which minima a sweep keeps, and how much room they take."""

import re
from collections.abc import Sequence
from itertools import product

import torch

from lmc_ray.benchmarks import Benchmark
from lmc_ray.errors import UserError
from lmc_ray.learners import Setting, hyperparameters
from lmc_ray.models import build
from lmc_ray.sweep.space import tried
from lmc_ray.sweep.study import StudyRun
from lmc_ray.training import Measurement, Training

_DECIDING = ("continue_from", "multitask_schedule", "replay_batch_size")
"""The hyperparameters that decide which minima there are."""


def tasks_to_keep(text: str | None, tasks: int) -> tuple[int, ...]:
    """The tasks that `last`, `all` or `1,2,5` stand for; None keeps nothing.

    Raises:
        UserError: it is none of these, or the benchmark has fewer tasks.
    """
    if text is None:
        return ()
    if text == "all":
        return tuple(range(1, tasks + 1))
    if text == "last":
        return (tasks,)
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--keep-minima {text}: write last, all, or tasks as in 1,2,5")
    chosen = tuple(sorted({int(task) for task in text.split(",")}))
    if wrong := [task for task in chosen if not 1 <= task <= tasks]:
        raise UserError(f"--keep-minima {text}: there is no task {wrong[0]}, only 1 to {tasks}")
    return chosen


def minima_of(study: StudyRun, benchmark: Benchmark) -> list[list[tuple[str, int]]]:
    """Everything that one confirmed seed of a study keeps: minimum, after task.

    A list for each configuration that the search may choose, as far as that decides.
    """
    protocol = study.protocol
    place, keep, paths = protocol.place, protocol.keep_minima, study.path_points
    network = build(place.network, benchmark.image_shape, benchmark.classes)
    dtype = getattr(torch, place.dtype)
    setting = Setting(benchmark, network, "full", torch.device("cpu"), dtype)
    measurement = Measurement("test", place.evaluation_group, paths, keep)
    method = study.study.method
    space = study.study.space
    deciding = {name: tried(space[name]) for name in _DECIDING if name in space}
    found: list[list[tuple[str, int]]] = []
    for choice in product(*deciding.values()):
        values = hyperparameters(method, study.fixed | dict(zip(deciding, choice, strict=True)))
        learner = Training(setting, method, [values], [0], measurement).learner
        found.append([(name, task) for task in keep for name in learner.minima(task)])
    return found


def room(studies: Sequence[StudyRun], benchmark: Benchmark) -> tuple[int, int]:
    """How many minima the confirmed seeds keep (of one configuration a study), and their bytes.

    At most: see `minima_of`.
    """
    place = studies[0].protocol.place
    network = build(place.network, benchmark.image_shape, benchmark.classes)
    each = network.layout.size * getattr(torch, place.dtype).itemsize
    number = sum(s.protocol.seeds * max(map(len, minima_of(s, benchmark))) for s in studies)
    return number, number * each
