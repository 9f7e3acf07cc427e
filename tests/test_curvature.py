"""Largest eigenpairs of Hessians, against Hessians that are written out."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import plain
from scipy.sparse.linalg import eigsh
from small import setting
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from lmc_ray.benchmarks import Examples
from lmc_ray.connectivity.curvature import hessian_product, overlaps, top_eigenpairs
from lmc_ray.learners import Setting
from lmc_ray.randomness import stream
from lmc_ray.sweep.analyses import Connectivity

TASK = 2
# (benchmark, network, examples, examples a group): the last group is smaller than the others.
SMALL = [("rotated", "mlp-4-6", 30, 12), ("split", "mlp-4", 30, 30), ("split", "resnet18-1", 9, 5)]
SMALL += [("split", "resnet18-1", 9, 9), ("split", "stable-resnet-1", 9, 5)]


def few(place: Setting, count: int) -> Examples:
    every = place.benchmark.examples(TASK, "test")
    return Examples(every.images[:count], every.labels[:count])


def somewhere(place: Setting, replicas: int) -> Tensor:
    """Not at a minimum: no formula here asks for one, and there are negative eigenvalues too."""
    noise = torch.randn(
        replicas, place.network.layout.size, generator=stream(0, "noise"), dtype=torch.float64
    )
    return place.initial(range(replicas)) + 0.1 * noise


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch normalisation in small operations: forward over reverse through torch's is wrong."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    y = (x - mean) / (variance + norm.eps).sqrt()
    return y * norm.weight[:, None, None] + norm.bias[:, None, None] if norm.affine else y


@cache
def written_out(family: str, name: str, count: int, group: int) -> tuple[Tensor, Tensor]:
    """θ and the Hessian at it, of the plain module's loss, by forward over reverse mode."""
    place = setting(family, name)
    theta, examples, allowed = somewhere(place, 1)[0], few(place, count), place.allowed(TASK)
    module = plain(name, place.benchmark.image_shape, place.benchmark.classes)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.forward = partial(normalised, part)
    shapes = {key: value.shape for key, value in module.named_parameters()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        weights = {key: part.view(shapes[key]) for key, part in zip(shapes, parts, strict=True)}
        total = flat.new_zeros(())
        for images, labels in zip(
            examples.images.split(group), examples.labels.split(group), strict=True
        ):
            logits = functional_call(module, weights, (images.double() / 255,))
            if allowed is not None:
                logits = logits.masked_fill(~allowed[0], -torch.inf)
            total = total + cross_entropy(logits, labels, reduction="sum")
        return total / count

    return theta, hessian(loss)(theta)


def product_of(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("rij,rj->ri", matrices, vectors)


def largest(matrices: Tensor, count: int, **options: float) -> tuple[Tensor, Tensor, Tensor]:
    size = matrices.shape[-1]
    start = torch.randn(size, generator=stream(0, "start"), dtype=torch.float64)
    found = top_eigenpairs(
        partial(product_of, matrices),
        start.expand(len(matrices), -1),
        count,
        tolerance=options.get("tolerance", 0.0),
        max_steps=int(options.get("max_steps", size)),
    )
    return found.eigenvalues, found.vectors, found.residuals


# --- products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("small", SMALL, ids=str)
def test_products_are_those_of_the_written_out_hessian(small: tuple[str, str, int, int]) -> None:
    family, name, count, group = small
    place = setting(family, name)
    theta, matrix = written_out(*small)
    vectors = torch.randn(3, len(theta), generator=stream(1, "v"), dtype=torch.float64)
    product = hessian_product(
        place.network, theta.expand(3, -1), few(place, count), place.allowed(TASK), group
    )
    product(vectors.flip(0))  # the first product leaves nothing behind for the second
    found = product(vectors)
    size = float(matrix.abs().max())
    torch.testing.assert_close(found, vectors @ matrix, rtol=1e-9, atol=1e-9 * max(1, size))
    assert not found.requires_grad


def test_groups_bound_memory_and_do_not_change_what_has_no_batch_normalisation() -> None:
    place = setting()
    theta = somewhere(place, 2)
    vectors = torch.randn(theta.shape, generator=stream(1, "v"), dtype=torch.float64)
    whole, parts = (
        hessian_product(place.network, theta, few(place, 30), None, group)(vectors)
        for group in (100, 7)
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp-4-6", "resnet18-1", "stable-resnet-1"])
def test_each_replica_has_its_own_weights_and_vector(name: str) -> None:
    place = setting("split", name)
    theta, examples, allowed = somewhere(place, 3), few(place, 8), place.allowed(TASK)
    vectors = torch.randn(theta.shape, generator=stream(1, "v"), dtype=torch.float64)
    product_at = partial(hessian_product, place.network)
    every = product_at(theta, examples, allowed, 8)(vectors)
    for r in range(3):
        one = slice(r, r + 1)
        alone = product_at(theta[one], examples, allowed, 8)(vectors[one])
        torch.testing.assert_close(alone[0], every[r], rtol=1e-9, atol=1e-9)


# --- eigenpairs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("small", SMALL, ids=str)
def test_the_largest_are_those_that_arpack_finds(small: tuple[str, str, int, int]) -> None:
    family, name, count, group = small
    place = setting(family, name)
    theta, matrix = written_out(*small)
    found = top_eigenpairs(
        hessian_product(place.network, theta[None], few(place, count), place.allowed(TASK), group),
        torch.randn(1, len(theta), generator=stream(0, "start"), dtype=torch.float64),
        4,
        tolerance=1e-9,
        max_steps=80,
    )
    values, vectors = eigsh(matrix.numpy(), k=4, which="LA", v0=np.ones(len(theta)))
    scale = values[-1]
    assert found.eigenvalues[0].tolist() == pytest.approx(values[::-1], abs=1e-8 * scale)
    cosines = torch.linalg.vecdot(found.vectors[0], torch.tensor(vectors.T[::-1].copy())).abs()
    assert cosines.tolist() == pytest.approx([1] * 4, abs=1e-8)
    assert float(found.residuals.max()) < 1e-7 * scale


def with_eigenvalues(values: list[float], seed: int) -> Tensor:
    size = len(values)
    square = torch.randn(size, size, generator=stream(seed, "matrix"), dtype=torch.float64)
    q = torch.linalg.qr(square).Q
    matrix = q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T
    return (matrix + matrix.T) / 2


symmetric = st.tuples(
    st.lists(st.sampled_from([-3.0, 0.0, 0.0, 0.5, 2.0, 2.0, 7.0]), min_size=1, max_size=9),
    st.integers(0, 1_000),
)
"""Few different eigenvalues: most are repeated, and many of these matrices are rank-deficient."""


@given(symmetric, st.data())
@settings(max_examples=100)
def test_eigenpairs_of_any_symmetric_matrix(
    drawn: tuple[list[float], int], data: st.DataObject
) -> None:
    matrix = with_eigenvalues(*drawn)
    size = len(matrix)
    count = data.draw(st.integers(1, size))
    values, vectors, residuals = largest(matrix[None], count)
    every = torch.linalg.eigvalsh(matrix).flip(0)
    torch.testing.assert_close(values[0], every[:count], rtol=0, atol=1e-10)
    gram = vectors[0] @ vectors[0].T
    torch.testing.assert_close(gram, torch.eye(count).double(), rtol=0, atol=1e-10)
    assert (residuals < 1e-10).all()
    by_hand = vectors[0] @ matrix - values[0][:, None] * vectors[0]
    torch.testing.assert_close(residuals[0], by_hand.norm(dim=1), rtol=0, atol=1e-12)


@given(st.lists(symmetric, min_size=2, max_size=4), st.sampled_from([0.0, 1e-3]))
@settings(max_examples=30)
def test_a_replica_is_the_same_alone_and_in_a_stack(
    drawn: list[tuple[list[float], int]], tolerance: float
) -> None:
    """Also where its neighbours break down, or converge sooner or later than it does."""
    matrices = [with_eigenvalues(*each) for each in drawn]
    size = min(len(matrix) for matrix in matrices)
    stack = torch.stack([matrix[:size, :size] for matrix in matrices])
    values, vectors, _ = largest(stack, 1, tolerance=tolerance)
    for r in range(len(stack)):
        alone, direction, _ = largest(stack[r : r + 1], 1, tolerance=tolerance)
        torch.testing.assert_close(alone[0], values[r], rtol=0, atol=1e-10)
        if float(torch.linalg.eigvalsh(stack[r])[-2:].diff().sum()) > 1e-3 or size == 1:
            cosine = torch.dot(direction[0, 0], vectors[r, 0]).abs()
            assert float(cosine) == pytest.approx(1, abs=1e-8)


def test_it_stops_when_the_pairs_are_good_enough() -> None:
    generator = stream(3, "wide")
    rest = torch.rand(198, generator=generator, dtype=torch.float64)
    matrix = with_eigenvalues([10.0, 30.0, *rest.tolist()], 3)
    asked = []

    def product(v: Tensor) -> Tensor:
        asked.append(v)
        return product_of(matrix[None], v)

    start = torch.randn(1, 200, generator=generator, dtype=torch.float64)
    found = top_eigenpairs(product, start, 2, tolerance=1e-4, max_steps=200)
    assert len(asked) < 100
    assert found.eigenvalues[0].tolist() == pytest.approx([30, 10], abs=1e-4)
    assert (found.residuals <= 30 * 1.1e-4).all()
    first = len(asked)
    short = top_eigenpairs(product, start, 2, tolerance=0, max_steps=4)
    assert len(asked) - first == 4 + 2
    assert float(short.residuals.max()) > float(found.residuals.max()), "and it says so"


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_none_of_the_largest_is_passed_over(power: float) -> None:
    """Krylov's space has good pairs on both sides of one before it has that one, at many starts."""
    every = torch.arange(1, 401, dtype=torch.float64) ** -power
    starts = torch.randn(60, 400, generator=stream(0, "starts"), dtype=torch.float64)
    how = Connectivity()
    found = top_eigenpairs(
        lambda v: v * every, starts, 20, tolerance=how.tolerance, max_steps=how.max_steps
    )
    gap = float(every[19] - every[20])
    torch.testing.assert_close(found.eigenvalues, every[:20].expand(60, -1), rtol=0, atol=gap / 2)


def test_single_precision_is_as_good_as_it_can_be() -> None:
    matrix = with_eigenvalues([5.0, 4.0, *torch.linspace(-1, 1, 60).tolist()], 1).float()
    start = torch.randn(1, 62, generator=stream(0, "start"))
    found = top_eigenpairs(
        partial(product_of, matrix[None]), start, 2, tolerance=1e-5, max_steps=62
    )
    assert found.vectors.dtype == torch.float32
    assert found.eigenvalues[0].tolist() == pytest.approx([5, 4], abs=1e-5)
    assert float(found.residuals.max()) < 1e-4


@pytest.mark.parametrize(("count", "steps"), [(0, 3), (4, 3), (6, 9)])
def test_more_eigenpairs_than_dimensions(count: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"cannot find {count} eigenpairs"):
        largest(torch.eye(5, dtype=torch.float64)[None], count, max_steps=steps)


# --- overlaps -----------------------------------------------------------------------------------


def test_overlaps_by_hand() -> None:
    vectors = torch.eye(3, dtype=torch.float64)[None, :2].expand(2, -1, -1)
    way = torch.tensor([[3.0, -4.0, 0.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    found = overlaps(vectors, way)
    torch.testing.assert_close(
        found, torch.tensor([[0.6, 0.8], [0.5**0.5, 0.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(found.square().sum(dim=1), torch.tensor([1.0, 0.5]).double())


def test_no_way_has_no_direction() -> None:
    vectors = torch.eye(3, dtype=torch.float64)[None, :2]
    assert overlaps(vectors, torch.zeros(1, 3, dtype=torch.float64)).isnan().all()


@given(symmetric, st.integers(0, 99), st.floats(-1e3, 1e3).filter(lambda f: abs(f) > 1e-3))
@settings(max_examples=30)
def test_shares_of_a_whole_basis_sum_to_one(
    drawn: tuple[list[float], int], seed: int, factor: float
) -> None:
    matrix = with_eigenvalues(*drawn)
    _, vectors, _ = largest(matrix[None], len(matrix))
    way = torch.randn(1, len(matrix), generator=stream(seed, "way"), dtype=torch.float64)
    found = overlaps(vectors, way)
    assert float(found.square().sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(overlaps(vectors, factor * way), found, rtol=0, atol=1e-9)
