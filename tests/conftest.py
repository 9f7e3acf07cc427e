"""What all tests share: shape checks of the learning side, a cache of their own, one thread."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# How long an example takes says nothing on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Before anything imports them: every annotated type and tensor shape of these is then checked.
# Not hyperparameters: there a wrong type is the user's mistake, and must come out as such.
_CHECKED = [
    "lmc_ray.connectivity",
    *(
        f"lmc_ray.learners.{name}"
        for name in (
            "agem",
            "averaging",
            "batches",
            "connection_batches",
            "descent",
            "er",
            "evaluation",
            "ewc",
            "fisher",
            "learner",
            "mcsgd",
            "multitask",
            "remembering",
            "replay",
            "sgd",
            "trio",
        )
    ),
    "lmc_ray.memory",
    "lmc_ray.metrics",
    "lmc_ray.models",
    "lmc_ray.randomness",
    "lmc_ray.training",
]
install_import_hook(_CHECKED, "shapes.check")

# An example that takes long says that the machine is busy, and nothing of the code.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder that starts empty; tests of the cache itself set another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors here are so small that a second thread only gets in the way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The small sweep `mine`, left alone: its root, and how it ended. To add to it, copy it."""
    from ray_support import NAME, whole  # after the shape checks are in place

    root = tmp_path_factory.mktemp("undisturbed") / "results"
    return root, whole(root, *NAME)


class Done(NamedTuple):
    """What a command has left: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def lmc(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `lmc-ray` with these arguments."""
    from lmc_ray.cli import main  # after the shape checks are in place

    def call(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capfd.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return call
