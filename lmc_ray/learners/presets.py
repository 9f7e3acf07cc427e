"""The switch settings of four public implementations of MC-SGD.

Facts only, read off their code: the authors' release, CL-Gym, and SequeL in PyTorch and in JAX.
What each does differently from the formula is told at the switches in `learners.hyperparameters`.
"""

from typing import Any

from lmc_ray.errors import unknown

# Examples of the current task in the authors' connection loaders, by benchmark family.
AUTHOR_EXAMPLES = {"rotated": 400, "permuted": 2_000, "split": 500}

_PRESETS: dict[str, dict[str, Any]] = {
    "author": {
        "path_weight": "cumulative",
        "path_reduction": "sum",
        "continue_from": "sequential",
        "connect_steps": 0,
        "connect_schedule": "author",
        "connect_batches": "by_task",
        "connect_batch_size": 64,
        "loss_scale": "per_example",
        "memory_includes_current": True,
        "first_task_epochs": 2,
    },
    "cl-gym": {
        "path_weight": "carried",
        "path_reduction": "sum",
        "continue_from": "connected",
        "connect_steps": 1,
        "loss_scale": "per_example",
    },
    "sequel-torch": {
        "path_weight": "carried",
        "path_reduction": "sum",
        "continue_from": "sequential",
        "connect_steps": 1,
        "loss_scale": "per_example",
        "memory_includes_current": True,
    },
    "sequel-jax": {
        "path_weight": "uniform",
        "path_reduction": "sum",
        "continue_from": "sequential",
        "connect_steps": 1,
        "memory_includes_current": True,
        "path_dropout": True,
    },
}

PRESETS = tuple(_PRESETS)


def preset(name: str, family: str) -> dict[str, Any]:
    """The hyperparameters that a public implementation fixes, for one benchmark family.

    Raises:
        UserError: no preset has this name.
    """
    if name not in _PRESETS:
        raise unknown("preset", name, PRESETS)
    values = dict(_PRESETS[name])
    if name == "author":
        values["connect_examples"] = AUTHOR_EXAMPLES[family]
        values["memory_draw"] = "balanced" if family == "split" else "random"
        values["shuffle"] = family != "rotated"  # the authors' rotated loader never shuffles
    return values
