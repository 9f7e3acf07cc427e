"""The numbers that the paper printed, to stand beside ours.

Source: Mirzadeh et al. 2021 (arXiv:2010.04495), Table 1: 20 tasks, 5 seeds, memory of 1 example per
class and task. Their hyperparameters were chosen on test accuracy; ours never are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOURCE = "Mirzadeh et al. 2021 (arXiv:2010.04495), Table 1"
_MEMORY_PER_CLASS = 1
TASKS = 20
SEEDS = 5
_ANGLE = 9.0
_CLASSES_PER_TASK = 5
RESNETS = ("resnet18-20", "stable-resnet-20")
"""The paper says "reduced ResNet18". Its number for Stable SGD is to our knowledge that of Stable
SGD's own paper (arXiv:2006.06958), whose public code has the second of these under that name."""


_FINGERPRINTS = {
    "mnist": "11c28a19961da7250758204ef66eb6b2f9379966ffa8548582d6648235aa2927",
    "cifar100": "a9b95f19c6cd08a68c2efd1862cad822b31e3a57b084ed377bacdedd31b4307d",
}
"""Of the images themselves (`Benchmark.fingerprint`): others may have the same shape and name."""


@dataclass(frozen=True)
class Published:
    """A cell of Table 1 in its own units.

    Attributes:
        accuracy: average accuracy, percent.
        accuracy_std: its standard deviation over 5 seeds, percentage points.
        forgetting: fraction; None for multitask, which forgets nothing by definition.
        forgetting_std: its standard deviation, fraction.
    """

    accuracy: float
    accuracy_std: float
    forgetting: float | None = None
    forgetting_std: float | None = None


TABLE_1: dict[str, dict[str, Published]] = {
    "permuted-mnist": {
        "naive-sgd": Published(44.4, 2.46, 0.53, 0.03),
        "ewc": Published(70.7, 1.74, 0.23, 0.01),
        "agem": Published(65.7, 0.51, 0.29, 0.01),
        "er": Published(72.4, 0.42, 0.16, 0.01),
        "stable-sgd": Published(80.1, 0.51, 0.09, 0.01),
        "mcsgd": Published(85.3, 0.61, 0.06, 0.01),
        "multitask": Published(89.5, 0.21),
    },
    "rotated-mnist": {
        "naive-sgd": Published(46.3, 1.37, 0.52, 0.01),
        "ewc": Published(48.5, 1.24, 0.48, 0.01),
        "agem": Published(55.3, 1.47, 0.42, 0.01),
        "er": Published(69.2, 1.10, 0.21, 0.01),
        "stable-sgd": Published(70.8, 0.78, 0.10, 0.02),
        "mcsgd": Published(82.3, 0.68, 0.08, 0.01),
        "multitask": Published(89.8, 0.37),
    },
    "split-cifar100": {
        "naive-sgd": Published(40.4, 2.83, 0.31, 0.02),
        "ewc": Published(42.7, 1.89, 0.28, 0.03),
        "agem": Published(50.7, 2.32, 0.19, 0.04),
        "er": Published(46.9, 0.76, 0.21, 0.03),
        "stable-sgd": Published(59.9, 1.81, 0.08, 0.01),
        "mcsgd": Published(63.3, 2.21, 0.06, 0.03),
        "multitask": Published(66.8, 1.42),
    },
}


def published(run: Mapping[str, Any]) -> Published | None:
    """The paper's number for what a cell ran; None where it has none.

    Args:
        run: a row of `runs`. The number is for the same images and tasks, a network that may be the
            paper's, one epoch a task (two of the first, in the authors' code), of methods with a
            memory the same memory, of multitask training all tasks at once, and of MC-SGD itself,
            without replay in it.
    """
    benchmark = run["benchmark"]
    networks = RESNETS if benchmark == "split-cifar100" else ("mlp-256-256",)
    same = (
        run["tasks"] == TASKS
        and run["fingerprint"] in (None, _FINGERPRINTS.get(benchmark.partition("-")[2]))
        and (benchmark != "rotated-mnist" or run["angle"] == _ANGLE)
        and (benchmark != "split-cifar100" or run["classes_per_task"] in (None, _CLASSES_PER_TASK))
        and run["network"] in networks
        and run["epochs"] == 1
        and run["first_task_epochs"] in (None, 1, 2)
        and run["memory_per_class"] in (None, _MEMORY_PER_CLASS)
        and run["multitask_schedule"] in (None, "joint")
        and (run["method"] != "mcsgd" or not run["replay_batch_size"])
    )
    return TABLE_1.get(benchmark, {}).get(run["method"]) if same else None
