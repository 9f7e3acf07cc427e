"""On a GPU the numbers are those of the CPU, recorded gradients and all."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import setting, values
from torch import Tensor

from lmc_ray.device import choose_device
from lmc_ray.learners import METHODS, Setting
from lmc_ray.models import Network, replayed
from lmc_ray.training import Measurement, Training

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"
)

METHOD_VALUES: dict[str, dict[str, Any]] = {
    "naive-sgd": {},
    "stable-sgd": {"dropout": 0.25, "lr_decay": 0.7},
    "multitask": {"multitask_schedule": "growing", "dropout": 0.25},
    "ewc": {"fisher_examples": 24},
    "agem": {"replay_batch_size": 5, "dropout": 0.25},
    "er": {"replay_batch_size": 5},
    "mcsgd": {"path_dropout": True, "dropout": 0.25},
}
assert METHOD_VALUES.keys() <= METHODS.keys()


def on_gpu(where: Setting) -> Setting:
    return replace(where, device=choose_device(), _resident={})


@pytest.mark.parametrize("method", METHOD_VALUES)
@pytest.mark.parametrize("family", ["rotated", "split"])
def test_training_gives_the_numbers_of_the_cpu(method: str, family: str) -> None:
    """In double precision, over batches enough for graphs to be recorded and replayed."""
    small = setting(family)
    common = METHOD_VALUES[method] | {"batch_size": 8}
    stack = [values(method, **common, learning_rate=rate) for rate in (0.1, 0.02, 0.05)]
    found = []
    for where in (small, on_gpu(small)):
        training = Training(where, method, stack, [1, 2, 1], Measurement("test", 30))
        while not training.finished:
            training.step()
        theta = training.learner.tensors[training.learner.minimum].cpu()
        found.append((theta, [record.accuracies for record in training.records]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(found[1][1], found[0][1], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-9)
            assert a["accuracy"] == pytest.approx(b["accuracy"])


def network_and_batches(name: str, count: int) -> tuple[Network, list[tuple[Tensor, ...]]]:
    """Different (θ, images, labels) of equal shapes, on the GPU, in single precision."""
    where = on_gpu(setting(network=name, dtype=torch.float32))
    generator = torch.Generator().manual_seed(0)
    batches = []
    for i in range(count):
        theta = where.initial([2 * i, 2 * i + 1])
        images = torch.rand(2, 8, *where.benchmark.image_shape, generator=generator)
        labels = torch.randint(10, (2, 8), generator=generator)
        batches.append((theta, images.to(theta), labels.to(theta.device)))
    return where.network, batches


@pytest.mark.parametrize("name", ["mlp-16-8", "resnet18-4", "stable-resnet-4"])
def test_a_replayed_gradient_is_the_eager_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, batches = network_and_batches(name, 6)
    results = [network.loss_and_gradient(*batch) for batch in batches]
    own = network_and_batches(name, 1)[0]
    monkeypatch.setattr(replayed, "_EAGER", 100)
    for (loss, gradient), batch in zip(results, batches, strict=True):
        expected, eager = own.loss_and_gradient(*batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, eager, rtol=1e-4, atol=1e-6)


def test_parameters_updated_in_place_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descent moves θ under its graph; another descent's θ lies elsewhere."""
    network, batches = network_and_batches("mlp-16-8", 2)
    own = network_and_batches("mlp-16-8", 1)[0]
    for theta, images, labels in batches:
        gradient = torch.empty_like(theta)
        for _ in range(6):
            network.loss_and_gradient(theta, images, labels, out=gradient)
            with monkeypatch.context() as patch:
                patch.setattr(replayed, "_EAGER", 100)
                _, eager = own.loss_and_gradient(theta, images, labels)
            torch.testing.assert_close(gradient, eager, rtol=1e-4, atol=1e-6)
            theta -= 0.1 * gradient


def test_graphs_do_not_pile_up() -> None:
    network, [(theta, images, labels)] = network_and_batches("mlp-16-8", 1)
    for size in range(1, 9):
        for replicas in (1, 2):
            for _ in range(4):
                arguments = theta[:replicas], images[:replicas, :size], labels[:replicas, :size]
                network.loss_and_gradient(*arguments)
    kept = torch.cuda.memory_allocated()
    for _ in range(4):
        network.loss_and_gradient(theta, images[:, :3], labels[:, :3])
    assert torch.cuda.memory_allocated() <= kept + 2**20
