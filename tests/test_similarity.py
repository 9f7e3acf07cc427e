"""Distances, cosines and CKA, against numpy and by their invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import PlainMLP, PlainResNet, plain
from small import setting
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from lmc_ray.connectivity.similarity import (
    activation_cka,
    cosines,
    distances,
    linear_cka,
)
from lmc_ray.models import build
from lmc_ray.randomness import stream

SHAPE, CLASSES = (3, 8, 8), 5
MLP_LAYERS = ["0", "1", "2"]
RESNET_LAYERS = ["stem", "0.0", "0.1", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "head"]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=stream(seed, "normal"), dtype=torch.float64)


def by_gram_matrices(x: Tensor, y: Tensor) -> float:
    """CKA as Kornblith et al. 2019 write it."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = (h @ (each.numpy() @ each.numpy().T) @ h for each in (x, y))

    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.trace(one @ other)) / (n - 1) ** 2

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


# --- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers"), [("mlp-6-4", MLP_LAYERS), ("resnet18-2", RESNET_LAYERS)]
)
def test_every_parameter_belongs_to_one_layer(name: str, layers: list[str]) -> None:
    network = build(name, SHAPE, CLASSES)
    assert list(network.layers) == layers
    ones = torch.ones(1, network.layout.size, dtype=torch.float64)
    found = distances(network, ones, torch.zeros_like(ones))
    assert list(found) == [*layers, "all"]
    sizes = {layer: round(float(value) ** 2) for layer, value in found.items()}
    assert sizes.pop("all") == sum(sizes.values()) == network.layout.size
    if name == "mlp-6-4":
        assert sizes == {"0": 192 * 6 + 6, "1": 6 * 4 + 4, "2": 4 * 5 + 5}
    else:
        assert sizes["stem"] == 3 * 2 * 9 + 4
        assert sizes["1.0"] == 2 * 4 * 9 + 8 + 4 * 4 * 9 + 8 + 2 * 4
        assert sizes["head"] == 16 * 5 + 5


@pytest.mark.parametrize("name", ["mlp-6-4", "resnet18-2"])
def test_features_are_what_the_plain_modules_layers_hand_on(name: str) -> None:
    network = build(name, SHAPE, CLASSES)
    theta = torch.stack([network.initial(stream(seed, "initial")) for seed in range(3)])
    theta += 0.1 * normal(0, *theta.shape)
    images = torch.rand(3, 7, *SHAPE, generator=stream(0, "images"), dtype=torch.float64)
    found, module = network.features(theta, images), plain(name, SHAPE, CLASSES)
    outputs: list[Tensor] = []

    def keep(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output.detach().flatten(1))

    if isinstance(module, PlainMLP):
        parts = list(module.layers)
    else:
        assert isinstance(module, PlainResNet)
        parts = [module.bn, *module.blocks, module.head]
    for part in parts:
        part.register_forward_hook(keep)
    for r in range(3):
        outputs.clear()
        vector_to_parameters(theta[r].clone(), module.parameters())
        logits = module(images[r])
        hooked = [x.relu() for x in outputs[:-1]] + [logits]
        for layer, expected in zip(network.layers, hooked, strict=True):
            torch.testing.assert_close(found[layer][r], expected, rtol=0, atol=1e-10)
    assert torch.equal(found[network.layers[-1]], network.logits(theta, images))


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp-6-4", "resnet18-2"])
def test_distances_and_cosines_are_numpys(name: str) -> None:
    network = build(name, SHAPE, CLASSES)
    a, b = normal(0, 2, network.layout.size), normal(1, 2, network.layout.size)
    apart, angle = distances(network, a, b), cosines(network, a, b)
    ours, theirs = network.layout.views(a), network.layout.views(b)
    for r in range(2):
        for layer in (*network.layers, "all"):
            names = [n for n in ours if layer == "all" or n.startswith(layer + ".") or n == layer]
            x, y = (
                np.concatenate([views[n][r].numpy().ravel() for n in names])
                for views in (ours, theirs)
            )
            assert float(apart[layer][r]) == pytest.approx(np.linalg.norm(x - y))
            cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            assert float(angle[layer][r]) == pytest.approx(cosine)


@given(st.floats(0.01, 100), st.integers(0, 99))
def test_what_scaling_does_to_weights(factor: float, seed: int) -> None:
    network = build("mlp-4", SHAPE, CLASSES)
    a = normal(seed, 1, network.layout.size)
    for layer, value in cosines(network, a, factor * a).items():
        assert float(value) == pytest.approx(1), layer
    for layer, value in cosines(network, a, -factor * a).items():
        assert float(value) == pytest.approx(-1), layer
    assert all(float(value) == 0 for value in distances(network, a, a).values())


def test_a_layer_of_zeros_has_no_direction() -> None:
    network = build("mlp-4", SHAPE, CLASSES)
    a = normal(0, 1, network.layout.size)
    b = a.clone()
    network.layout.views(b)["1.weight"].zero_()
    network.layout.views(b)["1.bias"].zero_()
    found = cosines(network, a, b)
    assert found["1"].isnan().all()
    assert float(found["0"]) == pytest.approx(1)


# --- CKA ----------------------------------------------------------------------------------------

matrices = st.tuples(
    st.integers(0, 999), st.integers(3, 12), st.integers(1, 15), st.integers(1, 15)
)


@given(matrices)
def test_cka_is_that_of_the_centred_gram_matrices(drawn: tuple[int, int, int, int]) -> None:
    """In both forms: with fewer features than examples, and with more."""
    seed, examples, p, q = drawn
    x, y = normal(seed, examples, p) + 3, normal(seed + 1, examples, q) - 2
    found = float(linear_cka(x, y))
    assert found == pytest.approx(by_gram_matrices(x, y), rel=1e-9, abs=1e-12)
    assert -1e-12 < found < 1 + 1e-12
    assert float(linear_cka(y, x)) == pytest.approx(found, abs=1e-12)


@given(matrices)
def test_both_forms_agree(drawn: tuple[int, int, int, int]) -> None:
    """Features that are always 0 change nothing but the form."""
    seed, examples, p, q = drawn
    x, y = normal(seed, examples, p), normal(seed + 1, examples, q)
    wide = torch.cat([x, torch.zeros(examples, examples, dtype=x.dtype)], dim=1)
    assert float(linear_cka(wide, y)) == pytest.approx(float(linear_cka(x, y)), abs=1e-12)


@given(matrices, st.floats(0.01, 100), st.floats(-100, 100))
def test_what_cka_does_not_see(
    drawn: tuple[int, int, int, int], factor: float, shift: float
) -> None:
    seed, examples, p, q = drawn
    x, y = normal(seed, examples, p), normal(seed + 1, examples, q)
    turn = torch.linalg.qr(normal(seed + 2, p, p)).Q
    moved = factor * x @ turn + shift * normal(seed + 3, p)
    assert float(linear_cka(moved, y)) == pytest.approx(float(linear_cka(x, y)), abs=1e-8)
    assert float(linear_cka(x, moved)) == pytest.approx(1, abs=1e-8)
    assert float(linear_cka(x, x)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("examples", "units"), [(30, 4), (5, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_are_always_the_same(examples: int, units: int, dtype: torch.dtype) -> None:
    constant = normal(0, 1, units).to(dtype).expand(examples, -1)
    assert linear_cka(constant, normal(1, examples, units).to(dtype)).isnan()
    assert linear_cka(constant, constant).isnan()


@pytest.mark.parametrize(("family", "name"), [("rotated", "mlp-16-8"), ("split", "resnet18-2")])
def test_cka_of_networks_layer_by_layer(family: str, name: str) -> None:
    place = setting(family, name)
    a, b = place.initial([0, 1]), place.initial([2, 3])
    images = place.benchmark.examples(1, "test").images
    found = activation_cka(place.network, a, b, images, 12)
    assert list(found) == list(place.network.layers)
    for r in range(2):
        parts = [
            [place.network.features(w[r : r + 1], x[None].double() / 255) for w in (a, b)]
            for x in images.split(12)
        ]
        for layer in place.network.layers:
            x, y = (torch.cat([part[k][layer][0] for part in parts]) for k in (0, 1))
            assert float(found[layer][r]) == pytest.approx(by_gram_matrices(x, y), rel=1e-7)
    same = activation_cka(place.network, a, a, images, 12)
    assert all(value.tolist() == pytest.approx([1, 1]) for value in same.values())


def test_a_dead_layer_gives_no_number() -> None:
    place = setting()
    a = place.initial([0, 1])
    dead = a.clone()
    place.network.layout.views(dead)["1.bias"][0] = -1e9
    found = activation_cka(place.network, a, dead, place.benchmark.examples(1, "test").images, 30)
    assert found["1"].isnan().tolist() == [True, False]
    assert found["2"].isnan().tolist() == [True, False], "and what follows is its bias alone"
    assert float(found["0"][0]) == pytest.approx(1)
