"""Split tasks: consecutive classes in label order, with the task known at test time."""

import numpy as np
from jaxtyping import Int64


def task_classes(task: int, classes_per_task: int) -> list[int]:
    """The classes of `task` (1-based); labels stay global."""
    return list(range((task - 1) * classes_per_task, task * classes_per_task))


def rows(labels: Int64[np.ndarray, " examples"], classes: list[int]) -> Int64[np.ndarray, " rows"]:
    """Where the examples of these classes lie, in their order."""
    return np.flatnonzero((labels >= classes[0]) & (labels <= classes[-1]))
