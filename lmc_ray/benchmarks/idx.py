"""MNIST and Fashion-MNIST in torchvision's layout: IDX files under ``ROOT/<name>/raw``."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.benchmarks.source import Found, stat_identity
from lmc_ray.errors import UserError

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find(folder: Path) -> Found:
    """The images of a ``raw`` folder.

    Raises:
        UserError: one of the four files is missing.
    """
    files = [folder / name for name in _FILES]
    for file in files:
        if not file.is_file():
            raise UserError(f"missing file {file}: copy all four IDX files there, unpacked")
    return Found(str(folder), stat_identity(files), partial(_decode, files))


def _decode(files: list[Path]) -> tuple[Arrays, Arrays]:
    train_images, train_labels, test_images, test_labels = (_read(file) for file in files)
    return _paired(files[0], train_images, train_labels), _paired(
        files[2], test_images, test_labels
    )


def _paired(file: Path, images: np.ndarray, labels: np.ndarray) -> Arrays:
    if len(images) != len(labels):
        raise UserError(
            f"{file}: {len(images)} images but {len(labels)} labels; copy the files again"
        )
    return Arrays(images[:, None], labels.astype(np.int64))


def _read(file: Path) -> np.ndarray:
    """One IDX file of bytes: magic 0x08 and the rank, big-endian sizes, then the values."""
    content = file.read_bytes()
    rank = 3 if "idx3" in file.name else 1
    start = 4 + 4 * rank
    if len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise UserError(f"{file} is not an IDX file of bytes; copy it again, unpacked")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=rank, offset=4))
    if len(content) != start + math.prod(shape):
        raise UserError(
            f"{file} is damaged: {len(content):,} bytes, expected {start + math.prod(shape):,}; "
            "copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
