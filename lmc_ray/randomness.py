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
    # A packed stack has the same few seeds again and again.
    each = {seed: torch.randperm(size, generator=stream(seed, *path))[:count] for seed in {*seeds}}
    return torch.stack([each[seed] for seed in seeds])


class Dropout:
    """Inverted dropout on a stack by a counter-based hash: the same bits on every device.

    A unit is multiplied by 0, or by 1/(1-p) with probability 1-p. Each pair of neighbouring units
    shares one 32-bit word, an integer hash of its counter (example, unit) under 64 bits of key from
    (seed, path), and each unit reads 16 of its bits.

    Args:
        seeds: one a replica.
        drop: probability p that a unit is dropped, per replica, resolved to 1/65536.
    """

    def __init__(self, seeds: list[int], drop: Float[Tensor, " replicas"]) -> None:
        # A packed stack has the same few seeds again and again: each is hashed once.
        self._different = list(dict.fromkeys(seeds))
        self._which = None
        if len(self._different) < len(seeds):
            places = [self._different.index(seed) for seed in seeds]
            self._which = torch.tensor(places, device=drop.device)
        self.active = bool((drop > 0).any())
        """False: every factor would be 1."""
        self._threshold = (drop * 65536 - 32768).round()[:, None, None]
        self._scale = (1 / (1 - drop))[:, None, None]
        self._counter = torch.empty(0, dtype=torch.int32, device=drop.device)

    def factors(
        self, path: tuple[str | int, ...], examples: int, units: int
    ) -> Float[Tensor, "replicas examples units"]:
        """What each unit is multiplied by; `path` says what for, down to the step."""
        if units % 2:
            raise ValueError(f"dropout needs an even number of units, got {units}")
        device = self._scale.device
        if len(self._counter) < examples * units // 2:
            self._counter = torch.arange(examples * units // 2, dtype=torch.int32, device=device)
        digests = b"".join(_digest(seed, path) for seed in self._different)
        keys = torch.frombuffer(bytearray(digests), dtype=torch.int32).view(-1, 2)
        keys = keys.to(device, non_blocking=True)
        words = _hash(self._counter[: examples * units // 2], keys)
        bits = words.view(torch.int16).view(-1, examples, units).to(self._scale.dtype)
        if self._which is not None:
            bits = bits[self._which]
        return bits.ge_(self._threshold).mul_(self._scale)


# Constants as tensors of the words' own type: Python numbers would be converted at every use.
_FIRST, _SECOND, _BY_15, _BY_16, _LOW_17, _LOW_16 = (
    torch.tensor(value, dtype=torch.int32)
    for value in (0x7FEB352D, 0x846CA68B - 2**32, 15, 16, 0x1FFFF, 0xFFFF)
)


def _hash(
    counter: Int32[Tensor, " words"], keys: Int32[Tensor, "replicas two"]
) -> Int32[Tensor, "replicas words"]:
    # Xor-shift-multiply rounds; `>>` on int32 copies the sign, hence the `&` after it.
    x = (counter ^ keys[:, :1]).mul_(_FIRST).add_(keys[:, 1:])
    x ^= (x >> _BY_15).bitwise_and_(_LOW_17)
    x *= _SECOND
    x ^= (x >> _BY_16).bitwise_and_(_LOW_16)
    return x
