"""Written-out gradients against autograd: of the networks, and of J through the interpolation."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Lone, Points, current_examples, formula, joint_batches, plain
from small import setting, values
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.models import Network, build
from lmc_ray.randomness import Dropout, stream

SHAPE = (1, 8, 8)
CLASSES = 6
BATCH = 5


def batch(network: Network, replicas: int, examples: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, images and labels of a stack."""
    generator = stream(0, "batch")
    theta = torch.stack([network.initial(stream(r, "initial")) for r in range(replicas)])
    theta += 0.1 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    images = torch.rand(replicas, examples, *SHAPE, generator=generator, dtype=torch.float64)
    return theta, images, torch.randint(3, (replicas, examples), generator=generator)


# Each replica and example with classes of its own, one row for all, one a replica, or all.
MASKS = {
    "none": None,
    "task": torch.tensor([True, True, True, False, False, False])[None, None],
    "replicas": torch.arange(6)[None, None] < torch.tensor([3, 4, 5])[:, None, None],
    "examples": torch.arange(6)[None, None] < torch.tensor([3, 4, 5, 6, 3])[None, :, None],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("mlp-4", 0.0),
        ("mlp-8-4", 0.0),
        ("mlp-8-4", 0.4),
        ("mlp-4-8-6", 0.4),
        ("resnet18-2", 0.0),
        ("stable-resnet-2", 0.0),
    ],
)
def test_gradient_of_the_loss(name: str, drop: float, mask: str) -> None:
    network, allowed = build(name, SHAPE, CLASSES), MASKS[mask]
    theta, images, labels = batch(network, 3)
    factors = None
    if drop:
        each = torch.tensor([drop, 0.0, drop / 2], dtype=torch.float64)
        factors = Dropout([0, 1, 2], each).factors(("test",), BATCH, sum(network.hidden))
    out = torch.full_like(theta, torch.nan)
    before = theta.clone()
    loss, gradient = network.loss_and_gradient(theta, images, labels, allowed, factors, out)
    assert gradient is out
    assert torch.equal(theta, before)
    fresh_loss, fresh = network.loss_and_gradient(theta, images, labels, allowed, factors)
    assert torch.equal(fresh, gradient)
    assert torch.equal(fresh_loss, loss)
    module = plain(name, SHAPE, CLASSES)
    for r in range(3):
        vector_to_parameters(theta[r].clone(), module.parameters())
        logits = module(images[r], None if factors is None else factors[r])
        if allowed is not None:
            logits = logits.masked_fill(~allowed.expand(3, BATCH, -1)[r], -torch.inf)
        expected = cross_entropy(logits, labels[r])
        parts = torch.autograd.grad(expected, list(module.parameters()))
        torch.testing.assert_close(loss[r], expected.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient[r], parameters_to_vector(parts), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp-8-4", "resnet18-2", "stable-resnet-2"])
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    network = build(name, SHAPE, CLASSES)
    theta, images, labels = batch(network, 2)
    _, gradient = network.loss_and_gradient(theta, images, labels)
    way = torch.randn(theta.shape, generator=stream(1, "way"), dtype=torch.float64)
    step = 1e-6
    ahead, _ = network.loss_and_gradient(theta + step * way, images, labels)
    behind, _ = network.loss_and_gradient(theta - step * way, images, labels)
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close(slope, (gradient * way).sum(dim=1), rtol=1e-4, atol=1e-6)


def test_single_precision_follows_double_precision() -> None:
    network = build("mlp-8-4", SHAPE, CLASSES)
    theta, images, labels = batch(network, 2)
    _, double = network.loss_and_gradient(theta, images, labels)
    _, single = network.loss_and_gradient(theta.float(), images.float(), labels)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "at_most"), [("mlp-64-32", 0.1), ("resnet18-8", 0.5), ("stable-resnet-8", 0.5)]
)
def test_bfloat16_is_for_the_products_only(name: str, at_most: float) -> None:
    """Part of the gradient is rounded off, more where a small batch normalises what was rounded.

    What goes in and comes out is as it was.
    """
    half, single = (build(each, SHAPE, CLASSES) for each in (f"{name}-bf16", name))
    assert half.name == f"{name}-bf16"
    theta, images, labels = (
        each.float() if each.is_floating_point() else each for each in batch(single, 3, 40)
    )
    factors = None
    if units := sum(half.hidden):
        factors = Dropout([0, 1, 2], torch.full((3,), 0.3)).factors(("test",), 40, units)
    out = torch.full_like(theta, torch.nan)
    loss, rounded = half.loss_and_gradient(theta, images, labels, MASKS["task"], factors, out)
    expected_loss, exact = single.loss_and_gradient(theta, images, labels, MASKS["task"], factors)
    assert rounded is out
    assert rounded.dtype == loss.dtype == torch.float32
    error = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
    assert bool((error > 1e-4).all()), "nothing was rounded"
    assert bool((error < at_most).all())
    torch.testing.assert_close(loss, expected_loss, rtol=0.02, atol=0)
    alone, _ = half.loss_and_gradient(
        theta[1:2],
        images[1:2],
        labels[1:2],
        MASKS["task"],
        None if factors is None else factors[1:2],
    )
    torch.testing.assert_close(alone, loss[1:2], rtol=1e-3, atol=0)
    assert torch.equal(half.logits(theta, images), single.logits(theta, images))
    squares = [each.squared_gradients(theta, images, labels) for each in (half, single)]
    assert torch.equal(*squares)
    fine, _ = half.loss_and_gradient(theta.double(), images.double(), labels)
    assert fine.dtype == torch.float64


# --- J ------------------------------------------------------------------------------------------


class Connection:
    """What one step on J in task 2 did to one replica, and what it saw."""

    def __init__(self, network: str = "mlp-16-8", family: str = "rotated", **changes: Any) -> None:
        self.seed, place = 5, setting(family, network, tasks=2)
        # A step at rate 1 from rest: the gradient is what the step took away.
        one = {"connect_steps": 1, "connect_learning_rate": 1.0, "connect_batch_size": 24}
        self.h = values("mcsgd", **(one | {"learning_rate": 0.2} | changes))
        learner = ModeConnectivitySGD(place, [self.h], [self.seed])
        learner.learn(1)
        self.before = learner.tensors["connected"][0]  # w̄_1
        learner.learn(2)
        self.end = learner.tensors["inner"][0]  # ŵ_2
        self.start = self.before + self.h.init_position * (self.end - self.before)
        self.gradient = self.start - learner.tensors["connected"][0]
        self.lone = Lone(place, self.h, self.seed)
        remembered, current = self.lone.remembered(1), current_examples(self.lone, 2)
        self.memory, self.current = joint_batches(self.lone, remembered, current, 2, 0)

    def check(self, expected: Tensor, tolerance: float = 1e-11) -> None:
        assert expected.abs().max() > 1e-4, "nothing to compare"
        torch.testing.assert_close(self.gradient, expected, rtol=0, atol=tolerance)

    def point_gradients(self, start: Tensor, batch: Points) -> list[Tensor]:
        """A clean gradient at each α_k of the line from `start`."""
        found = []
        for k in range(self.h.line_samples + 1):
            alpha = k / self.h.line_samples
            here = (start + alpha * (self.start - start)).requires_grad_()
            found += torch.autograd.grad(self.lone.loss_at(here, batch), [here])
        return found

    def buffers(self, start: Tensor, batch: Points) -> list[Tensor]:
        """What lies in the module's .grad after each point, if nobody clears it."""
        found = []
        for k in range(self.h.line_samples + 1):
            self.lone.load(start + k / self.h.line_samples * (self.start - start))
            self.lone.loss(batch).backward()
            found.append(self.lone.flat_grad())
        return found


@pytest.mark.parametrize(
    ("network", "family"),
    [
        ("mlp-16-8", "rotated"),
        ("mlp-16-8", "split"),
        ("resnet18-2", "split"),
        ("stable-resnet-2", "split"),
    ],
)
def test_gradient_of_j_through_the_interpolation(network: str, family: str) -> None:
    found = Connection(network, family)
    w = found.start.clone().requires_grad_()
    j = formula(found.lone, w, found.before, found.end, found.memory, found.current)
    (expected,) = torch.autograd.grad(j, [w])
    found.check(expected, 1e-8 if "resnet" in network else 1e-11)


@given(
    line_samples=st.integers(1, 7),
    init_position=st.floats(0, 1),
    dropout=st.sampled_from([0.0, 0.3]),
    memory_per_class=st.integers(1, 3),
    connect_batch_size=st.sampled_from([4, 24, 90]),
)
@settings(max_examples=15, deadline=None)
def test_gradient_of_j_whatever_the_numbers(**changes: Any) -> None:
    found = Connection(**changes)
    w = found.start.clone().requires_grad_()
    j = formula(found.lone, w, found.before, found.end, found.memory, found.current)
    found.check(torch.autograd.grad(j, [w])[0])


REDUCTIONS = [("mean", 1 / 4), ("sum", 1.0)]  # line_samples = 3: four points


@pytest.mark.parametrize(("reduction", "share"), REDUCTIONS)
def test_exact_weight(reduction: str, share: float) -> None:
    found = Connection(path_weight="exact", path_reduction=reduction, line_samples=3)
    w = found.start.clone().requires_grad_()
    j = formula(found.lone, w, found.before, found.end, found.memory, found.current)
    (expected,) = torch.autograd.grad(j, [w])
    found.check(4 * expected * share)


@pytest.mark.parametrize(("reduction", "share"), REDUCTIONS)
def test_uniform_weight(reduction: str, share: float) -> None:
    """Every point's gradient counts once, without the chain rule's α."""
    found = Connection(path_weight="uniform", path_reduction=reduction, line_samples=3)
    memory = found.point_gradients(found.before, found.memory)
    current = found.point_gradients(found.end, found.current)
    found.check(torch.stack(memory + current).sum(dim=0) * share)


@pytest.mark.parametrize(("reduction", "share"), REDUCTIONS)
def test_cumulative_weight(reduction: str, share: float) -> None:
    """Nobody clears .grad between the points of a line; it is cleared between the lines."""
    found = Connection(path_weight="cumulative", path_reduction=reduction, line_samples=3)
    memory = found.buffers(found.before, found.memory)
    found.lone.module.zero_grad()
    current = found.buffers(found.end, found.current)
    found.check(torch.stack(memory + current).sum(dim=0) * share)


@pytest.mark.parametrize(("reduction", "share"), REDUCTIONS)
def test_carried_weight(reduction: str, share: float) -> None:
    """As cumulative, and the memory line's gradient is still there on the current line."""
    found = Connection(path_weight="carried", path_reduction=reduction, line_samples=3)
    memory = found.buffers(found.before, found.memory)
    current = found.buffers(found.end, found.current)
    found.check(torch.stack(memory + current).sum(dim=0) * share)


def test_loss_scale_per_example() -> None:
    """Each batch's mean is divided by the batch's size once more: small batches weigh more."""
    found = Connection(loss_scale="per_example", connect_learning_rate=10.0)
    assert len(found.memory.labels) == 10
    assert len(found.current.labels) == 24
    memory = found.point_gradients(found.before, found.memory)
    current = found.point_gradients(found.end, found.current)
    n, total = found.h.line_samples, torch.zeros_like(found.start)
    for k in range(n + 1):
        total += k / n * (memory[k] / len(found.memory.labels))
        total += k / n * (current[k] / len(found.current.labels))
    found.check(10 * total / (n + 1))


@pytest.mark.parametrize("weight", ["exact", "uniform", "cumulative", "carried"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_uniform_alpha_instead_of_the_grid(weight: str, reduction: str) -> None:
    found = Connection(
        path_sampling="uniform", path_weight=weight, path_reduction=reduction, line_samples=7
    )
    path = ("path-sampling", 2, 0)
    alpha = torch.rand(1, generator=stream(found.seed, *path), dtype=torch.float64)
    w = found.start.clone().requires_grad_()
    on_memory = found.lone.loss_at(found.before + alpha * (w - found.before), found.memory)
    on_current = found.lone.loss_at(found.end + alpha * (w - found.end), found.current)
    factor = 1 if weight == "exact" else 1 / float(alpha)  # undoes the chain rule
    (of_memory,) = torch.autograd.grad(on_memory, [w])
    (of_current,) = torch.autograd.grad(on_current, [w])
    # With a single point, what is not cleared still carries the memory into the current line.
    found.check(factor * of_memory * (2 if weight == "carried" else 1) + factor * of_current)


def test_uniform_alphas_cover_the_line() -> None:
    """A fresh α in (0, 1) for every step, seed and task."""
    place = setting(tasks=3)
    h = values("mcsgd", path_sampling="uniform")
    learner = ModeConnectivitySGD(place, [h] * 20, list(range(20)))
    alphas = torch.cat([learner._alphas(task, s) for task in (2, 3) for s in range(10)])
    assert alphas.shape == (20, 20)
    assert len(alphas.flatten().unique()) == 400
    assert alphas.min() >= 0
    assert alphas.max() < 1
    assert float(alphas.mean()) == pytest.approx(0.5, abs=5 * 0.289 / 20)


def test_dropout_on_the_path() -> None:
    """With `path_dropout` each point and line has factors of its own; without, there are none."""
    off, on = Connection(dropout=0.4), Connection(dropout=0.4, path_dropout=True)
    total = torch.zeros_like(on.start)
    lone, n = on.lone, on.h.line_samples
    for line, start, batch in (
        ("memory", on.before, on.memory),
        ("current", on.end, on.current),
    ):
        for k in range(n + 1):
            lone.module.zero_grad()
            lone.load(start + k / n * (on.start - start))
            lone.loss(batch, lone.factors(batch, "path-dropout", line, 2, 0, k)).backward()
            total += k / n * lone.flat_grad()
    on.check(total / (n + 1))
    assert not torch.allclose(on.gradient, off.gradient, atol=1e-4)
    none, zero = Connection(dropout=0.0), Connection(dropout=0.0, path_dropout=True)
    assert torch.equal(none.gradient, zero.gradient)


def test_path_dropout_on_a_network_without_dropout() -> None:
    off = Connection("resnet18-2", "split", path_dropout=False)
    on = Connection("resnet18-2", "split", path_dropout=True)
    assert torch.equal(on.gradient, off.gradient)
