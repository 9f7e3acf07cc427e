"""Rotated tasks: task t shows all images turned by (t − 1)·angle degrees (Mirzadeh et al. 2021)."""

import math

import numpy as np
from jaxtyping import Int64


def index_map(height: int, width: int, degrees: float) -> Int64[np.ndarray, " pixels"]:
    """Which old pixel each new one shows after a counter-clockwise turn; −1 outside the image.

    Nearest neighbour about the centre, in the order and precision (float32) of torchvision's
    ``rotate``, so that pixels half-way between two old ones fall to the same side as there.
    """
    cosine, sine = math.cos(math.radians(-degrees)), math.sin(math.radians(-degrees))
    x = np.arange(0.5 - width / 2, width / 2, dtype=np.float32)[None, :]
    y = np.arange(0.5 - height / 2, height / 2, dtype=np.float32)[:, None]
    column = _nearest(x, y, cosine, sine, width)
    row = _nearest(x, y, -sine, cosine, height)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.where(inside, row * width + column, -1).ravel()


def _nearest(x: np.ndarray, y: np.ndarray, a: float, b: float, size: int) -> np.ndarray:
    """The pixel nearest to a·x + b·y along an axis of `size` pixels whose centre is 0."""
    half = np.float32(size / 2)
    position = x * (np.float32(a) / half) + y * (np.float32(b) / half)  # −1 … 1 across the image
    pixel = ((position + np.float32(1)) * np.float32(size) - np.float32(1)) / np.float32(2)
    return np.rint(pixel).astype(np.int64)
