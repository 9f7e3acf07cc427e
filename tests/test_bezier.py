"""Bézier curves: their ends, the line among them, and the slope that the control point follows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import plain
from small import Recorder, setting
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lmc_ray.benchmarks import Examples
from lmc_ray.connectivity.bezier import bezier_path, bezier_points, factor, fit_control
from lmc_ray.connectivity.paths import linear_path
from lmc_ray.learners import Setting
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.randomness import permutations, stream

SMALL = [("rotated", "mlp-16-8"), ("split", "resnet18-2")]
numbers = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3)


def fitted(place: Setting, a: Tensor, b: Tensor, seeds: list[int], **changes: float) -> Tensor:
    return fit_control(
        place.network,
        a,
        b,
        place.benchmark.examples(1, "train"),
        place.allowed(1),
        seeds=seeds,
        steps=int(changes.get("steps", 9)),
        learning_rate=changes.get("learning_rate", 0.05),
        batch_size=int(changes.get("batch_size", 16)),
    )


# --- the curve ----------------------------------------------------------------------------------


@given(numbers, numbers, numbers, st.sampled_from([torch.float32, torch.float64]))
def test_the_ends_are_the_minima_to_the_last_bit(
    a: list[float], c: list[float], b: list[float], dtype: torch.dtype
) -> None:
    start, control, end = (torch.tensor(each, dtype=dtype) for each in (a, c, b))
    alphas = torch.linspace(0, 1, 9, dtype=torch.float64).to(dtype)[:, None]
    found = bezier_points(start, control, end, alphas)
    assert torch.equal(found[0], start)
    assert torch.equal(found[-1], end)
    # De Casteljau: the same curve by lines between lines.
    lines = torch.lerp(start, control, alphas), torch.lerp(control, end, alphas)
    size = float(torch.stack([start, control, end]).abs().max())
    close = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found, torch.lerp(*lines, alphas), rtol=0, atol=close * (size + 1))


@pytest.mark.parametrize(("family", "network"), SMALL)
def test_with_its_control_in_the_middle_it_is_the_line(family: str, network: str) -> None:
    place = setting(family, network)
    a, b = place.initial([0, 1]), place.initial([2, 3])
    where = place.benchmark.examples(2, "test"), place.allowed(2), 20
    found = bezier_path(place.network, a, (a + b) / 2, b, 5, *where)
    line = linear_path(place.network, a, b, 5, *where)
    assert torch.equal(found.alphas, line.alphas)
    torch.testing.assert_close(found.loss, line.loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.accuracy, line.accuracy, rtol=0, atol=1e-9)


def test_each_replica_has_its_own_curve() -> None:
    place = setting()
    a, c, b = place.initial([0, 1]), place.initial([4, 5]), place.initial([2, 3])
    where = place.benchmark.examples(1, "test"), None, 20
    found = bezier_path(place.network, a, c, b, 4, *where)
    for i, alpha in enumerate((0, 1 / 3, 2 / 3, 1)):
        point = (1 - alpha) ** 2 * a + 2 * alpha * (1 - alpha) * c + alpha**2 * b
        accuracy, loss = evaluate(place.network, point, *where)
        torch.testing.assert_close(found.loss[:, i], loss, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.accuracy[:, i], accuracy, rtol=0, atol=1e-9)


# --- the control point --------------------------------------------------------------------------


def test_no_step_leaves_the_control_in_the_middle() -> None:
    place = setting()
    a, b = place.initial([0, 1]), place.initial([2, 3])
    assert torch.equal(fitted(place, a, b, [0, 1], steps=0), (a + b) / 2)


@pytest.mark.parametrize(("family", "network"), SMALL)
def test_steps_are_those_of_plain_autograd(family: str, network: str) -> None:
    """With torch.optim.SGD on C itself, through the curve: the factor is autograd's."""
    place = setting(family, network)
    a, b, seed, steps = place.initial([0]), place.initial([1]), 7, 9
    found = fitted(place, a, b, [seed], steps=steps)
    examples, allowed = place.benchmark.examples(1, "train"), place.allowed(1)
    module = plain(network, place.benchmark.image_shape, place.benchmark.classes)
    shapes = {name: p.shape for name, p in module.named_parameters()}
    control = ((a + b) / 2)[0].clone().requires_grad_()
    optimiser = torch.optim.SGD([control], lr=0.05, momentum=0.9)
    draw = stream(seed, "bezier-alpha")
    for step in range(steps):
        number, place_in_pass = divmod(step, 80 // 16)
        order = permutations([seed], 80, "bezier-order", number)[0]
        index = order[16 * place_in_pass : 16 * place_in_pass + 16]
        alpha = float(torch.rand(1, generator=draw, dtype=torch.float64))
        flat = (1 - alpha) ** 2 * a[0] + 2 * alpha * (1 - alpha) * control + alpha**2 * b[0]
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        logits = functional_call(module, named, (examples.images[index].double() / 255,))
        if allowed is not None:
            logits = logits.masked_fill(~allowed[0], -torch.inf)
        optimiser.zero_grad()
        cross_entropy(logits, examples.labels[index]).backward()
        optimiser.step()
    torch.testing.assert_close(found[0], control.detach(), rtol=0, atol=1e-9)


@given(st.floats(0, 1))
def test_the_factor_is_the_slope_of_the_curve(alpha: float) -> None:
    ends = torch.tensor([3.0, -2.0], dtype=torch.float64)
    control = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    alphas = torch.tensor([[alpha]], dtype=torch.float64)
    point = bezier_points(ends[:1], control, ends[1:], alphas)
    (slope,) = torch.autograd.grad(point.sum(), control)
    assert float(slope) == pytest.approx(float(factor(alphas)), abs=1e-15)


@pytest.mark.parametrize(("family", "network"), SMALL)
def test_a_replica_is_the_same_alone_and_in_a_stack(family: str, network: str) -> None:
    place = setting(family, network)
    a, b = place.initial([0, 1, 2]), place.initial([3, 4, 5])
    every = fitted(place, a, b, [0, 1, 2], steps=6)
    for r in range(3):
        alone = fitted(place, a[r : r + 1], b[r : r + 1], [r], steps=6)
        torch.testing.assert_close(alone[0], every[r], rtol=0, atol=1e-9)
    again = fitted(place, a[:1], b[:1], [9], steps=6)
    assert not torch.allclose(again[0], every[0], atol=1e-6), "the seed counts"


def test_a_pass_sees_every_example_of_its_full_batches_once() -> None:
    place = setting()
    recorder = Recorder(place.network)
    a, b = place.initial([0]), place.initial([1])
    few = place.benchmark.examples(1, "train")
    examples = Examples(few.images[:10], few.labels[:10])
    options = {"steps": 4, "learning_rate": 0.1, "batch_size": 4}
    fit_control(recorder, a, b, examples, None, seeds=[0], **options)
    assert [call.size for call in recorder.calls] == [4] * 4
    for first, second in (recorder.calls[:2], recorder.calls[2:]):
        seen = torch.cat([first.images[0], second.images[0]]).flatten(1)
        assert len(seen.unique(dim=0)) == 8
    assert all(call.factors is None for call in recorder.calls), "evaluation mode"
    with pytest.raises(ValueError, match="10 examples are less than a batch of 11"):
        fit_control(recorder, a, b, examples, None, seeds=[0], **options | {"batch_size": 11})


def test_it_goes_around_a_hill_on_the_line() -> None:
    """Two networks trained from different starts: a line between them climbs, the curve less."""
    place = setting()
    examples = place.benchmark.examples(1, "train")
    theta = place.initial([0, 1])
    images = (examples.images.double() / 255).expand(2, *examples.images.shape)
    for _ in range(300):
        _, gradient = place.network.loss_and_gradient(theta, images, examples.labels.expand(2, -1))
        theta = theta - 0.3 * gradient
    a, b = theta[:1], theta[1:]
    control = fitted(place, a, b, [0], steps=400, learning_rate=0.1)
    line = linear_path(place.network, a, b, 21, examples, None, 80)
    curve = bezier_path(place.network, a, control, b, 21, examples, None, 80)
    assert float(line.loss.max()) > 1
    assert float(curve.loss.max()) < 0.3 * float(line.loss.max())
