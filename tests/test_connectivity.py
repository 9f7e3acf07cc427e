"""Linear paths and their heights, where the loss along the line is known in closed form."""

import time
from math import exp, log
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import plain
from small import Recorder, benchmark, setting
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from lmc_ray.benchmarks import Examples
from lmc_ray.connectivity.paths import (
    CONNECTED_BELOW,
    Curve,
    Path,
    barriers,
    linear_path,
    own_paths,
    trio_paths,
)
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.models import build
from lmc_ray.models.layout import Layout
from lmc_ray.randomness import stream


class Constant:
    """Logits that are the parameters themselves, whatever the image; remembers what it was."""

    name, hidden, multiply_adds, layers = "constant", (), (0,), ("logits",)
    layout, symmetries = Layout({"logits": (2,)}), ()

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def initial(self, generator: torch.Generator) -> Tensor:
        return torch.rand(2, generator=generator, dtype=torch.float64)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        self.asked.append(theta.clone())
        return theta[:, None].expand(-1, images.shape[1], -1)

    def features(self, theta: Tensor, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits(theta, images)}

    def loss_and_gradient(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        allowed: Tensor | None = None,
        factors: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        raise AssertionError("a path needs no gradient")

    def squared_gradients(
        self, theta: Tensor, images: Tensor, labels: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError


def two_classes(zeros: int, ones: int) -> Examples:
    size = zeros + ones
    labels = torch.tensor([0] * zeros + [1] * ones)
    return Examples(torch.zeros(size, 1, 2, 2, dtype=torch.uint8), labels)


def curve(loss: list[float], accuracy: list[float] | None = None) -> Curve:
    accuracy = [1.0] * len(loss) if accuracy is None else accuracy
    alphas = torch.linspace(0, 1, len(loss), dtype=torch.float64)
    return Curve(
        alphas,
        torch.tensor([accuracy], dtype=torch.float64),
        torch.tensor([loss], dtype=torch.float64),
    )


# --- paths --------------------------------------------------------------------------------------


def test_the_line_in_closed_form() -> None:
    network, examples = Constant(), two_classes(3, 1)
    start = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    end = torch.tensor([[-2.5, 0.0], [0.0, 4.0]], dtype=torch.float64)
    found = linear_path(network, start, end, 4, examples, None, group=3)
    assert found.alphas.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for replica, margins in enumerate(([2, 0.5, -1, -2.5], [0, -4 / 3, -8 / 3, -4])):
        # With logits (m, 0): class 0 costs log(1 + e^-m), class 1 log(1 + e^m).
        losses = [(3 * log(1 + exp(-m)) + log(1 + exp(m))) / 4 for m in margins]
        assert found.loss[replica].tolist() == pytest.approx(losses, abs=1e-12)
        right = [0.75 if m >= 0 else 0.25 for m in margins]  # the first class wins a draw
        assert found.accuracy[replica].tolist() == pytest.approx(right)


@given(
    a=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    b=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    points=st.integers(2, 50),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60, deadline=None)
def test_the_ends_are_the_minima_to_the_last_bit(
    a: list[float], b: list[float], points: int, dtype: torch.dtype
) -> None:
    network = Constant()
    start, end = torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype)
    linear_path(network, start, end, points, two_classes(1, 1), None, 10)
    (line,) = network.asked
    assert len(line) == points
    assert torch.equal(line[0], start[0])
    assert torch.equal(line[-1], end[0])
    alphas = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    expected = (1 - alphas) * start.double() + alphas * end.double()
    scale = 1e-5 if dtype == torch.float32 else 1e-14
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(line.double(), expected, rtol=0, atol=scale * size)


@pytest.mark.parametrize(("family", "network"), [("rotated", "mlp-16-8"), ("split", "resnet18-2")])
def test_a_path_is_what_its_points_are_evaluated_to(family: str, network: str) -> None:
    place = setting(family, network)
    start, end = place.initial([0, 1]), place.initial([2, 3])
    examples, allowed = place.benchmark.examples(2, "test"), place.allowed(2)
    found = linear_path(place.network, start, end, 5, examples, allowed, 20)
    for i, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
        point = (1 - alpha) * start + alpha * end
        accuracy, loss = evaluate(place.network, point, examples, allowed, 20)
        torch.testing.assert_close(found.loss[:, i], loss, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.accuracy[:, i], accuracy, rtol=0, atol=1e-12)


def test_a_path_from_a_minimum_to_itself_is_flat() -> None:
    place = setting()
    w = place.initial([0])
    found = linear_path(place.network, w, w, 7, place.benchmark.examples(1, "test"), None, 20)
    heights = barriers(found, 0, same_task=True)
    assert heights.loss_rise == pytest.approx(0, abs=1e-12)
    assert heights.error_barrier == heights.error_rise == heights.instability == 0
    assert heights.connected


# --- heights ------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 1)),
        min_size=2,
        max_size=30,
    ),
    st.booleans(),
)
def test_heights_by_their_definitions(points: list[tuple[float, float]], same_task: bool) -> None:
    loss, accuracy = (list(each) for each in zip(*points, strict=True))
    error = [1 - a for a in accuracy]
    last = len(points) - 1

    def barrier(value: list[float]) -> float:
        return max(
            v - ((1 - i / last) * value[0] + i / last * value[last]) for i, v in enumerate(value)
        )

    found = barriers(curve(loss, accuracy), 0, same_task=same_task)
    assert found.loss_rise == pytest.approx(max(loss) - loss[0], abs=1e-12)
    assert found.error_rise == pytest.approx(max(error) - error[0], abs=1e-12)
    assert found.connected == (found.error_rise < 0.02)
    assert found.loss_barrier == pytest.approx(barrier(loss), abs=1e-12)
    assert found.error_barrier == pytest.approx(barrier(error), abs=1e-12)
    assert found.max_loss == max(loss)
    assert found.mean_loss == pytest.approx(sum(loss) / len(loss), abs=1e-12)
    assert loss[round(found.argmax_alpha * last)] == max(loss)
    if same_task:
        expected = max(error) - (error[0] + error[last]) / 2
        assert found.instability == pytest.approx(expected, abs=1e-12)
    else:
        assert found.instability is None
    # Ends lie on the path, so neither is ever below it.
    for height in (found.loss_rise, found.error_rise, found.loss_barrier, found.error_barrier):
        assert height >= 0


@given(st.lists(st.floats(0, 5), min_size=3, max_size=20))
def test_a_convex_climb_has_no_barrier_but_rises(steps: list[float]) -> None:
    """As ŵ_1→ŵ_T on task 1: the loss climbs, ever steeper, and stays under its chord."""
    slopes = torch.tensor(sorted(steps), dtype=torch.float64)
    loss = torch.cat([torch.zeros(1, dtype=torch.float64), slopes.cumsum(0)]) + 0.13
    found = barriers(curve(loss.tolist()), 0, same_task=False)
    assert found.loss_barrier == pytest.approx(0, abs=1e-9)
    assert found.loss_rise == pytest.approx(float(slopes.sum()), abs=1e-9)
    if found.loss_rise > 1e-6:
        assert found.argmax_alpha == pytest.approx(1) or slopes[-1] == 0


def test_a_straight_climb_has_no_barrier_but_rises() -> None:
    found = barriers(curve([0.5, 1.0, 1.5, 2.0], [0.9, 0.7, 0.5, 0.3]), 0, same_task=False)
    assert found.loss_barrier == pytest.approx(0, abs=1e-12)
    assert found.error_barrier == pytest.approx(0, abs=1e-12)
    assert found.loss_rise == pytest.approx(1.5)
    assert found.error_rise == pytest.approx(0.6)
    assert not found.connected


def test_a_hill_by_hand() -> None:
    found = barriers(curve([1.0, 4.0, 2.0], [0.8, 0.5, 0.9]), 0, same_task=True)
    assert found.loss_rise == pytest.approx(3.0)
    assert found.loss_barrier == pytest.approx(4 - 1.5)
    assert found.error_rise == pytest.approx(0.3)
    assert found.error_barrier == pytest.approx(0.5 - 0.15)
    assert found.instability == pytest.approx(0.5 - 0.15)
    assert (found.max_loss, found.argmax_alpha) == (4.0, 0.5)
    assert found.mean_loss == pytest.approx(7 / 3)


def test_instability_is_not_the_barrier() -> None:
    """On a slope the error barrier is 0, instability half the difference of the ends."""
    found = barriers(curve([1, 1, 1], [0.9, 0.8, 0.7]), 0, same_task=True)
    assert found.error_barrier == pytest.approx(0, abs=1e-12)
    assert found.instability == pytest.approx(0.1)


@pytest.mark.parametrize("images", [50, 100, 150, 200, 360, 500, 10_000])
def test_connected_at_exactly_two_points(images: int) -> None:
    """An error that rises by exactly 2 % is not connected, one image less is: no rounding."""
    assert CONNECTED_BELOW == 0.02
    lost = images * 2 / 100
    for right in range(int(lost), images + 1, max(1, images // 97)):
        down = (right - lost) / images
        exact = barriers(curve([1, 1], [right / images, down]), 0, same_task=False)
        if lost == int(lost):
            assert not exact.connected, f"{right} → {right - lost} of {images}"
        nearly = barriers(curve([1, 1], [right / images, down + 1 / images]), 0, same_task=False)
        assert nearly.connected


def test_each_replica_has_its_own_heights() -> None:
    both = Curve(
        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.float64),
        torch.tensor([[1.0, 5.0, 1.0], [2.0, 1.0, 0.0]], dtype=torch.float64),
    )
    assert barriers(both, 0, same_task=False).loss_rise == 4
    assert barriers(both, 1, same_task=False).loss_rise == 0


# --- which paths --------------------------------------------------------------------------------


def test_the_paths_of_a_trio() -> None:
    assert trio_paths(20) == [
        Path("sequential", 1, "sequential", 20, eval_task=1),
        Path("sequential", 1, "multitask", 20, eval_task=1),
        Path("connected", 1, "connected", 20, eval_task=1),
        Path("connected", 19, "connected", 20, eval_task=19),
        Path("sequential", 20, "multitask", 20, eval_task=20),
    ]
    assert trio_paths(1) == []


def test_two_tasks_have_no_path_twice() -> None:
    assert trio_paths(2) == [
        Path("sequential", 1, "sequential", 2, eval_task=1),
        Path("sequential", 1, "multitask", 2, eval_task=1),
        Path("connected", 1, "connected", 2, eval_task=1),
        Path("sequential", 2, "multitask", 2, eval_task=2),
    ]


def test_the_path_of_sequential_sgd() -> None:
    assert own_paths("averaged", 5) == [Path("averaged", 1, "averaged", 5, eval_task=1)]
    assert own_paths("sequential", 1) == []


@pytest.mark.parametrize("tasks", [2, 3, 7, 20])
def test_paths_are_named_apart(tasks: int) -> None:
    paths = trio_paths(tasks)
    assert len({(path.path_id, path.eval_task) for path in paths}) == len(paths)
    assert paths[0].path_id == f"sequential:1->sequential:{tasks}"


# --- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 7, 30, 1_000])
@pytest.mark.parametrize("family", ["rotated", "split"])
def test_evaluation_is_that_of_the_plain_module(family: str, group: int) -> None:
    few = benchmark(family)
    network = build("mlp-16-8", few.image_shape, few.classes)
    theta = torch.stack([network.initial(stream(seed, "initial")) for seed in range(3)]) * 2
    examples, place = few.examples(3, "test"), setting(family)
    accuracy, loss = evaluate(network, theta, examples, place.allowed(3), group)
    module, classes = plain("mlp-16-8", few.image_shape, few.classes), few.task_classes(3)
    for r in range(3):
        vector_to_parameters(theta[r].clone(), module.parameters())
        logits = module(examples.images.double() / 255).detach()
        if classes is not None:  # only these two compete
            logits = logits[:, classes]
            labels = torch.tensor([classes.index(int(label)) for label in examples.labels])
        else:
            labels = examples.labels
        assert float(loss[r]) == pytest.approx(float(cross_entropy(logits, labels)), abs=1e-11)
        right = (logits.argmax(dim=1) == labels).double().mean()
        assert float(accuracy[r]) == pytest.approx(float(right), abs=1e-12)


def test_evaluation_groups_are_part_of_the_protocol() -> None:
    """Under batch normalisation: consecutive groups, each normalised by itself."""
    place = setting("split", "resnet18-2")
    theta, examples = place.initial([0]), place.benchmark.examples(1, "test")
    allowed = place.allowed(1)
    _, whole = evaluate(place.network, theta, examples, allowed, 30)
    _, tens = evaluate(place.network, theta, examples, allowed, 10)
    assert abs(float(whole - tens)) > 1e-4
    parts = []
    for start in (0, 10, 20):
        part = Examples(examples.images[start : start + 10], examples.labels[start : start + 10])
        parts.append(evaluate(place.network, theta, part, allowed, 1_000)[1])
    torch.testing.assert_close(tens, torch.stack(parts).mean(dim=0), rtol=0, atol=1e-12)


def test_evaluation_asks_for_no_gradients() -> None:
    place = setting()
    recorder = Recorder(place.network)
    theta = place.initial([0]).requires_grad_()
    _, loss = evaluate(recorder, theta, place.benchmark.examples(1, "test"), None, 30)
    assert recorder.calls == []
    assert not loss.requires_grad


@pytest.mark.soak
def test_a_path_costs_little_more_than_its_matrix_products() -> None:
    """41 points on 10,000 MNIST-sized images: the rest of the pass takes less than half of that."""
    network = build("mlp-256-256", (1, 28, 28), 10)
    images = torch.randint(0, 256, (10_000, 1, 28, 28), dtype=torch.uint8)
    examples = Examples(images, torch.randint(0, 10, (10_000,)))
    start, end = (network.initial(stream(seed, "initial")).float()[None] for seed in (1, 2))
    shapes = [(500, 784, 256), (500, 256, 256), (500, 256, 10)]
    factors = [(torch.rand(41, m, k), torch.rand(41, k, n)) for m, k, n in shapes]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios = []
    try:
        for _ in range(5):
            begin = time.perf_counter()
            for x, w in factors:
                for _ in range(20):
                    torch.bmm(x, w)
            middle = time.perf_counter()
            linear_path(network, start, end, 41, examples, None, 500)
            ratios.append((time.perf_counter() - middle) / (middle - begin))
    finally:
        torch.set_num_threads(threads)
    print(f"\na path takes {median(ratios):.2f} times its matrix products")
    assert median(ratios) < 1.5
