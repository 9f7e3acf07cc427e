"""The presets: which switches they set, and whole runs against the public algorithms."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import reference
import torch
from reference import Lone, Solutions
from small import setting, values

from lmc_ray.errors import UserError
from lmc_ray.learners import hyperparameters
from lmc_ray.learners.hyperparameters import MCSGD
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.learners.presets import PRESETS, preset

ALGORITHMS: dict[str, Callable[[Lone], Solutions]] = {
    "author": reference.author,
    "cl-gym": reference.cl_gym,
    "sequel-torch": reference.sequel_torch,
    "sequel-jax": reference.sequel_jax,
}

SETTINGS = [
    ("rotated", "mlp-16-8", {}),
    ("permuted", "mlp-16-8", {"memory_per_class": 1, "line_samples": 5}),
    ("split", "mlp-16-8", {"memory_per_class": 1, "init_position": 0.0}),
    ("split", "resnet18-2", {"line_samples": 2}),
]


def test_every_preset_has_its_reference() -> None:
    assert set(PRESETS) == set(ALGORITHMS)


@pytest.mark.parametrize(("family", "network", "changes"), SETTINGS)
@pytest.mark.parametrize("name", PRESETS)
def test_three_tasks(name: str, family: str, network: str, changes: dict[str, Any]) -> None:
    place = setting(family, network)
    common = {
        "memory_per_class": 2,
        "connect_batch_size": 24,
        "connect_learning_rate": 0.02,
        "lr_decay": 0.7,
        "dropout": 0.3,
    }
    h = values("mcsgd", **(preset(name, family) | common | changes))
    seeds = [11, 12]
    learner = ModeConnectivitySGD(place, [h, h], seeds)
    expected = [ALGORITHMS[name](Lone(place, without_switches(h), seed)) for seed in seeds]
    tolerance = 1e-7 if network.startswith("resnet") else 1e-11
    for task in (1, 2, 3):
        learner.learn(task)
        for replica, solutions in enumerate(expected):
            for minimum, theirs in (
                ("connected", solutions.connected[task - 1]),
                (learner.inner, solutions.sgd[task - 1]),
            ):
                ours = learner.tensors[minimum][replica]
                torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    moved = expected[0].connected[2] - expected[0].sgd[2]
    assert moved.abs().max() > 1e-3, "the connection did nothing"


SHOWN = """
    learning_rate lr_decay lr_floor momentum dropout batch_size epochs first_task_epochs shuffle
    memory_per_class memory_draw connect_learning_rate connect_momentum connect_batch_size
    connect_examples line_samples init_position
"""


def without_switches(h: MCSGD) -> SimpleNamespace:
    """Hyperparameters without MC-SGD's switches: a reference cannot peep at them."""
    return SimpleNamespace(**{key: getattr(h, key) for key in SHOWN.split()})


# PAPER.md's table of switches, row by row; what a preset leaves out is the default.
TABLE: dict[str, dict[str, Any]] = {
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
        "path_dropout": False,
        "first_task_epochs": 2,
    },
    "cl-gym": {
        "path_weight": "carried",
        "path_reduction": "sum",
        "continue_from": "connected",
        "connect_steps": 1,
        "connect_batches": "mixed",
        "loss_scale": "per_example",
        "memory_draw": "balanced",
        "memory_includes_current": False,
        "path_dropout": False,
    },
    "sequel-torch": {
        "path_weight": "carried",
        "path_reduction": "sum",
        "continue_from": "sequential",
        "connect_steps": 1,
        "connect_batches": "mixed",
        "loss_scale": "per_example",
        "memory_draw": "balanced",
        "memory_includes_current": True,
        "path_dropout": False,
    },
    "sequel-jax": {
        "path_weight": "uniform",
        "path_reduction": "sum",
        "continue_from": "sequential",
        "connect_steps": 1,
        "connect_batches": "mixed",
        "loss_scale": "mean",
        "memory_draw": "balanced",
        "memory_includes_current": True,
        "path_dropout": True,
    },
}


@pytest.mark.parametrize("family", ["rotated", "permuted", "split"])
@pytest.mark.parametrize("name", PRESETS)
def test_switches(name: str, family: str) -> None:
    h = hyperparameters("mcsgd", preset(name, family))
    assert {key: getattr(h, key) for key in TABLE[name]} == TABLE[name]


@pytest.mark.parametrize(
    ("family", "examples", "drawn", "shuffle"),
    [
        ("rotated", 400, "random", False),
        ("permuted", 2_000, "random", True),
        ("split", 500, "balanced", True),
    ],
)
def test_what_the_authors_do_by_benchmark(
    family: str, examples: int, drawn: str, shuffle: bool
) -> None:
    h = hyperparameters("mcsgd", preset("author", family))
    assert isinstance(h, MCSGD)
    assert (h.connect_examples, h.memory_draw, h.shuffle) == (examples, drawn, shuffle)


def test_a_preset_is_a_fresh_dictionary() -> None:
    preset("author", "split")["connect_steps"] = 99
    assert preset("author", "split")["connect_steps"] == 0
    assert "memory_draw" not in preset("cl-gym", "rotated")


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match=r"^unknown preset 'autor': did you mean 'author'\?$"):
        preset("autor", "rotated")
