"""What the device can do at best, measured now: fp32 matrix products and copies on all cores."""

import time
from collections.abc import Callable
from functools import partial

import torch

SIZES = (512, 1024, 2048, 4096)
_SECONDS = 0.4
"""How long each size is tried."""
_COPIED = 2**28
"""Bytes: far more than any cache holds."""


def matrix_flops(device: str) -> float:
    """FLOP/s of the best fp32 matrix product over several sizes (TF32 is off, as by default)."""
    best = 0.0
    for size in SIZES:
        a, b = torch.randn(2, size, size, device=device)
        out = a @ b
        best = max(best, 2 * size**3 / _least(partial(torch.mm, a, b, out=out), device))
    return best


def copy_bytes(device: str) -> float:
    """Bytes/s, read and written, of a large copy."""
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * _COPIED / _least(lambda: target.copy_(source), device)


def wait(device: str) -> None:
    """Until the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def _least(work: Callable[[], object], device: str) -> float:
    least, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        again = time.perf_counter()
        work()
        wait(device)
        least = min(least, time.perf_counter() - again)
    return least
