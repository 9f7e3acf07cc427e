"""Moves pixels of many images at once through one index map."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt8

_CHUNK = 4096  # images; a few megabytes at a time


def gathered(
    images: UInt8[np.ndarray, "examples channels height width"],
    index: Int64[np.ndarray, " pixels"],
) -> Iterator[UInt8[np.ndarray, "chunk channels pixels"]]:
    """Images whose pixel p is the old pixel ``index[p]``, or black where that is −1; in chunks."""
    examples, channels, height, width = images.shape
    for start in range(0, examples, _CHUNK):
        chunk = images[start : start + _CHUNK].reshape(-1, channels, height * width)
        black = np.zeros((len(chunk), channels, 1), dtype=np.uint8)
        yield np.concatenate([chunk, black], axis=2)[:, :, index]
