"""The randomness tree: names decide, neighbours do not, and dropout is as good as coin tosses."""

from hashlib import blake2b
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmc_ray.randomness import Dropout, permutations, stream

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def factors(
    seeds: list[int], drop: float, *path: str | int, examples: int = 64, units: int = 128
) -> Tensor:
    """Factors of equal dropout for all seeds."""
    each = torch.full((len(seeds),), drop, dtype=torch.float64)
    return Dropout(seeds, each).factors(path or ("dropout", 1, 0), examples, units)


def draws(seed: int, *path: str | int) -> list[float]:
    return torch.rand(4, generator=stream(seed, *path)).tolist()


def correlation(kept: Tensor, other: Tensor, drop: float) -> float:
    """Correlation of two masks in standard errors: about a standard normal if independent."""
    scale = drop * (1 - drop) * sqrt(kept.numel())
    return float(((kept - (1 - drop)) * (other - (1 - drop))).sum() / scale)


def test_a_stream_is_its_name() -> None:
    assert draws(3, "order", 2, 0) == draws(3, "order", 2, 0)
    names = [(3, "order", 2, 0), (4, "order", 2, 0), (3, "memory", 2, 0), (3, "order", 0, 2)]
    names += [(3, "order", 2), (3, "order", 20), (32, "order", 0), (-3, "order", 2, 0)]
    seen = {tuple(draws(seed, *path)) for seed, *path in names}
    assert len(seen) == len(names)


def test_a_stream_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stream(1, "order").seed()
    permutations([1, 2], 10, "order")
    factors([1, 2], 0.5)
    assert torch.equal(torch.rand(3), expected)


def test_equal_seeds_share_their_draws() -> None:
    """A packed stack has each seed several times: every replica gets what it would get alone."""
    seeds = [7, 3, 7, 7, 5, 3]
    orders, masks = permutations(seeds, 20, "order"), factors(seeds, 0.3)
    for replica, seed in enumerate(seeds):
        assert torch.equal(orders[replica], permutations([seed], 20, "order")[0])
        assert torch.equal(masks[replica], factors([seed], 0.3)[0])


@given(
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    size=st.integers(1, 60),
    count=st.integers(1, 80),
)
@settings(max_examples=50, deadline=None)
def test_permutations(seeds: list[int], size: int, count: int) -> None:
    every = permutations(seeds, size, "order", 1)
    assert every.sort(dim=1).values.tolist() == [list(range(size))] * len(seeds)
    first = permutations(seeds, size, "order", 1, count=count)
    assert torch.equal(first, every[:, :count])
    for seed, row in zip(seeds, every, strict=True):
        assert torch.equal(permutations([seed], size, "order", 1)[0], row)


@pytest.mark.parametrize("drop", [0.0, 0.05, 0.25, 0.5, 0.9])
def test_dropout_rate_and_scale(drop: float) -> None:
    found = factors(list(range(8)), drop, units=512)
    kept = found > 0
    assert torch.equal(found[kept], torch.full_like(found[kept], 1 / (1 - drop)))
    # Every seed by itself, and all together, within five standard errors of 1 - p.
    for share in [*kept.double().flatten(1), kept.double().flatten()]:
        error = sqrt(drop * (1 - drop) / share.numel())
        assert abs(float(share.mean()) - (1 - drop)) <= 5 * error


def test_dropout_differs_by_replica() -> None:
    seeds, drop = [5, 6, 7], torch.tensor([0.0, 0.5, 0.25], dtype=torch.float64)
    stack = Dropout(seeds, drop).factors(("dropout", 1, 0), 32, 64)
    assert torch.equal(stack[0], torch.ones(32, 64))
    for row, seed in enumerate(seeds):
        alone = Dropout([seed], drop[row : row + 1]).factors(("dropout", 1, 0), 32, 64)
        assert torch.equal(alone[0], stack[row])
    assert not Dropout(seeds, torch.zeros(3)).active
    assert Dropout(seeds, torch.tensor([0.0, 0.1, 0.0])).active


def test_dropout_is_reproducible_however_it_is_asked_for() -> None:
    drop = torch.tensor([0.3], dtype=torch.float64)
    dropout = Dropout([9], drop)
    large = dropout.factors(("dropout", 2, 7), 20, 24)
    small = dropout.factors(("dropout", 2, 7), 5, 24)  # a last, smaller batch of the same step
    assert torch.equal(small, large[:, :5])
    assert torch.equal(Dropout([9], drop).factors(("dropout", 2, 7), 20, 24), large)
    single = Dropout([9], drop.float()).factors(("dropout", 2, 7), 20, 24)
    assert single.dtype == torch.float32
    assert torch.equal(single > 0, large > 0)


def test_dropout_needs_pairs_of_units() -> None:
    with pytest.raises(ValueError, match="even number of units, got 7"):
        factors([0], 0.5, units=7)


@pytest.mark.parametrize("drop", [0.5, 0.2])
def test_dropout_is_independent_across_the_tree(drop: float) -> None:
    """Seeds, tasks, steps and purposes: pairwise correlations look like standard normals."""
    masks = [factors([seed], drop, "dropout", 1, 0) > 0 for seed in range(12)]
    masks += [factors([0], drop, "dropout", 1, step) > 0 for step in range(1, 12)]
    masks += [factors([0], drop, "dropout", task, 0) > 0 for task in range(2, 12)]
    masks += [factors([0], drop, "multitask-dropout", 1, step) > 0 for step in range(6)]
    found = torch.tensor(
        [correlation(a.double(), b.double(), drop) for i, a in enumerate(masks) for b in masks[:i]]
    )
    assert found.abs().max() < 5
    assert 0.85 < found.square().mean().sqrt() < 1.15


@pytest.mark.parametrize("drop", [0.5, 0.2])
def test_dropout_is_independent_across_units_and_examples(drop: float) -> None:
    """At no distance, within an example or across examples, do two factors know of each other."""
    seeds, examples, units = list(range(200)), 32, 512
    size = examples * units
    kept = (factors(seeds, drop, examples=examples, units=units) > 0).double().flatten(1)
    centred = (kept - (1 - drop)) / sqrt(drop * (1 - drop))
    spectrum = torch.fft.rfft(centred, n=2 * size).abs().square()
    at_distance = torch.fft.irfft(spectrum, n=2 * size)[:, 1 : size // 2]
    normal = at_distance / (size - torch.arange(1, size // 2)).sqrt()
    # Over 200 seeds the root mean square of a standard normal is 1 ± 0.05; the largest of 8,191
    # distances stays below 1.25.
    rms = normal.square().mean(dim=0).sqrt()
    worst = int(rms.argmax())
    assert rms[worst] < 1.3, f"factors {worst + 1} apart are correlated"


@pytest.mark.parametrize("drop", [0.5, 0.2])
def test_no_place_is_favoured(drop: float) -> None:
    kept = (factors(list(range(400)), drop, examples=16, units=64) > 0).double()
    normal = (kept.mean(dim=0) - (1 - drop)) / sqrt(drop * (1 - drop) / 400)
    assert normal.abs().max() < 5
    assert 0.9 < normal.std() < 1.1


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_bits_are_those_of_the_documented_hash(device: str) -> None:
    """Two xor-shift-multiply rounds on 32-bit words, in plain integers; part of the protocol."""
    examples, units, low = 5, 6, 0xFFFFFFFF
    key = blake2b(b"7/dropout/2/3", digest_size=8).digest()
    first, second = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")
    bits = []
    for counter in range(examples * units // 2):
        x = ((counter ^ first) * 0x7FEB352D + second) & low
        x ^= x >> 15
        x = (x * 0x846CA68B) & low
        x ^= x >> 16
        bits += [x & 0xFFFF, x >> 16]
    signed = torch.tensor([b - 65536 if b >= 32768 else b for b in bits]).view(examples, units)
    drop = torch.tensor([0.375], device=device)
    found = Dropout([7], drop).factors(("dropout", 2, 3), examples, units)[0].cpu()
    assert torch.equal(found > 0, signed >= 0.375 * 65536 - 32768)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_bits_are_the_same_on_every_device(device: str) -> None:
    drop = torch.tensor([0.1, 0.5])
    here = Dropout([1, 2], drop).factors(("dropout", 1, 0), 33, 50)
    there = Dropout([1, 2], drop.to(device)).factors(("dropout", 1, 0), 33, 50)
    assert torch.equal(there.cpu(), here)
