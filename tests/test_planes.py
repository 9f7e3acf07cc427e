"""The plane through three minima: its geometry, and what is measured on it."""

from itertools import combinations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from small import setting
from torch import Tensor

from lmc_ray.connectivity.planes import MARGIN, axes, measure_plane, plane_points
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.randomness import stream

vectors = st.lists(st.floats(-1e3, 1e3).map(lambda f: round(f, 3)), min_size=3, max_size=3).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)


def corners(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """‖(B - A) × (C - A)‖ / ‖B - A‖: how far C is from the line, in three dimensions."""
    return torch.linalg.cross(b - a, c - a).norm() / (b - a).norm()


@given(vectors, vectors, vectors)
def test_anchors_keep_their_distances(a: Tensor, b: Tensor, c: Tensor) -> None:
    assume(float((b - a).norm()) > 1e-2 and float(corners(a, b, c)) > 1e-2)
    plane = axes(a, b, c)
    assert plane.anchors[0].tolist() == [0, 0]
    assert plane.anchors[1].tolist() == pytest.approx([float((b - a).norm()), 0])
    assert float(plane.anchors[2, 1]) == pytest.approx(float(corners(a, b, c)), rel=1e-6)
    for (i, one), (j, other) in combinations(enumerate((a, b, c)), 2):
        apart = (plane.anchors[i] - plane.anchors[j]).norm()
        assert float(apart) == pytest.approx(float((one - other).norm()))
    found = plane_points(plane, plane.anchors)
    torch.testing.assert_close(found, torch.stack([a, b, c]), rtol=0, atol=1e-9)


@given(
    st.integers(0, 99),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=2),
)
def test_the_plane_is_as_flat_as_the_paper_it_is_drawn_on(
    seed: int, places: list[tuple[float, float]]
) -> None:
    a, b, c = torch.randn(3, 40, generator=stream(seed, "anchors"), dtype=torch.float64)
    plane, here = axes(a, b, c), torch.tensor(places, dtype=torch.float64)
    points = plane_points(plane, here)
    assert float(points.diff(dim=0).norm()) == pytest.approx(
        float(here.diff(dim=0).norm()), abs=1e-12
    )
    spanned = torch.stack([b - a, c - a], dim=1)
    rest = (points - a).T - spanned @ torch.linalg.lstsq(spanned, (points - a).T).solution
    assert float(rest.abs().max()) < 1e-10


@pytest.mark.parametrize(("family", "network"), [("rotated", "mlp-16-8"), ("split", "resnet18-2")])
def test_anchors_score_as_the_minima_do(family: str, network: str) -> None:
    place = setting(family, network, dtype=torch.float32)
    theta, examples = place.initial([0, 1, 2]), place.benchmark.examples(1, "test")
    allowed = place.allowed(1)
    plane = axes(*theta)
    points = plane_points(plane, plane.anchors).to(theta)
    torch.testing.assert_close(points, theta, rtol=0, atol=1e-7)
    for found, expected in zip(
        evaluate(place.network, points, examples, allowed, 20),
        evaluate(place.network, theta, examples, allowed, 20),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_grid_by_hand() -> None:
    """A rectangle of 14×7 around a triangle of 10×5, and one value at each place, row by row."""
    place = setting()
    a, way, up = torch.randn(
        3, place.network.layout.size, generator=stream(0, "anchors"), dtype=torch.float64
    )
    way, up = torch.linalg.qr(torch.stack([way, up], dim=1)).Q.T
    examples = place.benchmark.examples(1, "test")
    b, c = a + 10 * way, a + 4 * way + 5 * up
    found = measure_plane(place.network, a, b, c, 8, examples, None, 20)
    assert MARGIN == 0.2
    expected = torch.tensor([[0, 0], [10, 0], [4, 5]], dtype=torch.float64)
    torch.testing.assert_close(found.anchors, expected, rtol=0, atol=1e-12)
    assert found.xs.tolist() == pytest.approx([-2, 0, 2, 4, 6, 8, 10, 12])
    assert found.ys.tolist() == pytest.approx([-1, 0, 1, 2, 3, 4, 5, 6])
    for i, y in enumerate(found.ys):
        row = a + found.xs[:, None] * way + y * up
        accuracy, loss = evaluate(place.network, row, examples, None, 20)
        torch.testing.assert_close(found.loss[i], loss, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.accuracy[i], accuracy)
    for anchor, (i, j) in ((a, (1, 1)), (b, (1, 6)), (c, (6, 3))):
        _, loss = evaluate(place.network, anchor[None], examples, None, 20)
        assert float(found.loss[i, j]) == pytest.approx(float(loss), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(0, 99), st.floats(-3, 3))
def test_three_on_a_line_span_no_plane(dtype: torch.dtype, seed: int, share: float) -> None:
    a, b = torch.randn(2, 50, generator=stream(seed, "anchors"), dtype=torch.float64).to(dtype)
    with pytest.raises(ValueError, match="lie on one line"):
        axes(a, b, torch.lerp(a, b, share))
    with pytest.raises(ValueError, match="first two minima are the same"):
        axes(a, a.clone(), b)
