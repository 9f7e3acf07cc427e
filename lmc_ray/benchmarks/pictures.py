"""Decodes image files of one size and one kind (grey or colour) into one array."""

import struct
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.errors import UserError

_GREY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV", "LAB"}


class Picture(NamedTuple):
    """One encoded image: where it is (for messages), its bytes or its file, its class."""

    where: str
    content: bytes | Path
    label: int


def stacked(pictures: Iterable[Picture], count: int) -> Arrays:
    """Decodes `count` pictures to uint8 [examples, channels, height, width] and their labels.

    Grey images have one channel; everything else becomes RGB, and transparency is dropped.

    Raises:
        UserError: an image is damaged, of another size than the first, or grey where that is not.
    """
    images = np.empty((0, 0, 0, 0), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    first = ""
    for row, (where, content, label) in enumerate(pictures):
        image = _decoded(where, content)
        if row == 0:
            images, first = np.empty((count, *image.shape), dtype=np.uint8), where
        if image.shape != images.shape[1:]:
            raise UserError(
                f"{where}: the image is {_kind(image.shape)}, but {first} is "
                f"{_kind(images.shape[1:])}; bring all images to one size and kind"
            )
        images[row], labels[row] = image, label
    return Arrays(images, labels)


def _decoded(where: str, content: bytes | Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
            if image.mode in _GREY:
                return np.asarray(image.convert("L"))[None]
            if image.mode in _COLOUR:
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            mode = image.mode
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"{where}: damaged image ({error}); replace it or take it out") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: the image is too large ({error}); make it smaller") from error
    raise UserError(f"{where}: pixels of kind '{mode}'; save the image with 8 bits a channel")


def _kind(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}×{height} {'grey' if channels == 1 else 'colour'}"
