"""Weight matching: the function stays, the distance falls, a shuffled copy is put back in order."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmc_ray.connectivity.alignment import align, permute
from lmc_ray.models import Network, build
from lmc_ray.randomness import stream

SHAPE, CLASSES = (3, 8, 8), 5
NETWORKS = ["mlp-6", "mlp-8-6-10", "resnet18-3", "stable-resnet-3"]


def weights(network: Network, seed: int) -> Tensor:
    """Parameters that are nothing special: norms' scales and shifts differ from 1 and 0."""
    theta = network.initial(stream(seed, "initial"))
    return theta + 0.1 * torch.randn(
        theta.shape, generator=stream(seed, "noise"), dtype=theta.dtype
    )


def shuffled(network: Network, theta: Tensor, seed: int) -> Tensor:
    theta, generator = theta.clone(), stream(seed, "shuffle")
    views = {name: view[0] for name, view in network.layout.views(theta[None]).items()}
    for group in network.symmetries:
        permute(group, views, torch.randperm(group.units, generator=generator))
    return theta


def logits(network: Network, theta: Tensor) -> Tensor:
    images = torch.rand(1, 9, *SHAPE, generator=stream(0, "images"), dtype=torch.float64)
    return network.logits(theta[None], images)


# --- what may be reordered ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_symmetries_cover_every_axis_of_hidden_units_once(name: str) -> None:
    network = build(name, SHAPE, CLASSES)
    axes = Counter(pair for group in network.symmetries for pair in group.axes)
    first, *_ = network.layout.shapes
    expected: list[tuple[str, int]] = []
    for parameter, shape in network.layout.shapes.items():
        units = range(min(len(shape), 2))  # the others are pixels of a kernel
        expected += [(parameter, axis) for axis in units]
    last = network.layers[-1]
    fixed = {(first, 1), (f"{last}.weight", 0), (f"{last}.bias", 0)}  # pixels and classes
    assert axes == Counter(pair for pair in expected if pair not in fixed)
    for group in network.symmetries:
        assert {network.layout.shapes[name][axis] for name, axis in group.axes} == {group.units}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_reordering_keeps_the_function(name: str, seed: int) -> None:
    network = build(name, SHAPE, CLASSES)
    theta = weights(network, seed)
    other = shuffled(network, theta, seed)
    assert float((other - theta).norm()) > 1
    assert torch.equal(other.sort().values, theta.sort().values)
    torch.testing.assert_close(logits(network, other), logits(network, theta), rtol=1e-8, atol=1e-8)


# --- alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_alignment_keeps_the_function_and_its_arguments(name: str) -> None:
    network = build(name, SHAPE, CLASSES)
    a, b = weights(network, 0), weights(network, 1)
    before = a.clone(), b.clone()
    found = align(network, a, b, stream(0, "align"))
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert not torch.equal(found, b)
    torch.testing.assert_close(logits(network, found), logits(network, b), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["mlp-6", "mlp-32-16", "mlp-8-6-10", "resnet18-3", "resnet18-8"])
@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_copy_is_put_back_in_order(name: str, seed: int) -> None:
    network = build(name, SHAPE, CLASSES)
    theta = weights(network, seed)
    found = align(network, theta, shuffled(network, theta, seed), stream(seed, "align"))
    assert torch.equal(found, theta)


@given(
    st.sampled_from(["mlp-8-6-10", "stable-resnet-2"]),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40)
def test_alignment_never_leads_away_and_is_done_once(
    name: str, seed: int, order: int, dtype: torch.dtype
) -> None:
    network = build(name, SHAPE, CLASSES)
    a, b = weights(network, seed).to(dtype), weights(network, seed + 1).to(dtype)
    found = align(network, a, b, stream(order, "align"))
    before, after = (b.double() - a.double()).norm(), (found.double() - a.double()).norm()
    assert float(after) <= float(before)
    assert torch.equal(align(network, a, found, stream(order + 1, "align")), found)
    assert torch.equal(align(network, a, a, stream(order, "align")), a)


@given(st.integers(0, 200))
@settings(max_examples=20)
def test_one_layer_is_matched_as_well_as_can_be(seed: int) -> None:
    """With a single group the assignment is exact: no other of the 4! orders is nearer."""
    network = build("mlp-4", SHAPE, CLASSES)
    a, b = weights(network, seed), weights(network, seed + 1)
    (group,) = network.symmetries
    apart: list[float] = []
    for order in permutations(range(4)):
        other = b.clone()
        views = {name: view[0] for name, view in network.layout.views(other[None]).items()}
        permute(group, views, torch.tensor(order))
        apart.append(float((other - a).norm()))
    found = align(network, a, b, stream(seed, "align"))
    assert float((found - a).norm()) == pytest.approx(min(apart), abs=1e-12)


def test_equal_units_do_not_keep_it_busy() -> None:
    """Units without any difference, where every order is as good: it ends and changes nothing."""
    network = build("mlp-6-4", SHAPE, CLASSES)
    a, b = torch.zeros(network.layout.size), torch.full((network.layout.size,), 0.1)
    assert torch.equal(align(network, a, b, stream(0, "align")), b)
    assert torch.equal(align(network, b, b, stream(0, "align")), b)
