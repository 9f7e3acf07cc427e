"""Randomness as a tree: (seed, purpose, task, …) names a stream, whatever else is going on.

The same seed gives the same initialisation and the same data order to every method, so methods are
compared in pairs, and a replica's numbers do not depend on its neighbours in the stack.
"""

import hashlib

import torch
from jaxtyping import Float, Int32
from torch import Tensor


def _digest(seed: int, path: tuple[str | int, ...]) -> bytes:
    name = "/".join(str(part) for part in (seed, *path))
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def stream(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for one node of the tree, e.g. ``stream(seed, "order", task, epoch)``."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(seed, path), "little") >> 1)


def permutations(seeds: list[int], size: int, *path: str | int, count: int | None = None) -> Tensor:
    """One permutation of ``range(size)`` a seed: [replicas, size], or its first `count` entries."""
    rows = [torch.randperm(size, generator=stream(seed, *path))[:count] for seed in seeds]
    return torch.stack(rows)


def dropout_factors(
    seeds: list[int],
    path: tuple[str | int, ...],
    shape: tuple[int, int],
    drop: Float[Tensor, " replicas"],
) -> Float[Tensor, "replicas examples units"]:
    """What inverted dropout multiplies each unit by: 0, or 1/(1-p) with probability 1-p.

    A counter-based hash, the same on every device: each pair of neighbouring units shares one
    32-bit word, an integer hash of its counter (example, unit) under 64 bits of key from
    (seed, path), and each unit reads 16 of its bits.

    Args:
        seeds: one a replica.
        path: what the factors are for, down to the step.
        shape: (examples, units); units must be even.
        drop: probability p that a unit is dropped, resolved to 1/65536.
    """
    examples, units = shape
    if units % 2:
        raise ValueError(f"dropout needs an even number of units, got {units}")
    digests = b"".join(_digest(seed, path) for seed in seeds)
    keys = torch.frombuffer(bytearray(digests), dtype=torch.int32).view(len(seeds), 2)
    counter = torch.arange(examples * units // 2, dtype=torch.int32, device=drop.device)
    words = _hash(counter, keys.to(drop.device))
    bits = words.view(torch.int16).view(len(seeds), examples, units).to(drop.dtype)
    threshold = (drop * 65536 - 32768).round()[:, None, None]
    return bits.ge_(threshold).mul_((1 / (1 - drop))[:, None, None])


def _hash(
    counter: Int32[Tensor, " words"], keys: Int32[Tensor, "replicas two"]
) -> Int32[Tensor, "replicas words"]:
    # Xor-shift-multiply rounds; `>>` on int32 copies the sign, hence the `&` after it.
    x = (counter ^ keys[:, :1]).mul_(0x7FEB352D).add_(keys[:, 1:])
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= -2071885173  # 0x846CA68B as a signed word
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x
