"""A source of images: decoded once per node, kept in the cache in protocol order."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lmc_ray.benchmarks import cache, protocol
from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.errors import UserError

_DECODER = 1
"""Raised when decoding changes, so that indices written by older code are not followed."""


@dataclass(frozen=True)
class Found:
    """Images that were found but not yet decoded.

    Attributes:
        where: the file or folder, for messages.
        identity: changes when the files change; equal identities are not decoded again.
        decode: returns the training and the test examples; raises UserError on bad files.
        validation: how many training images are held out; None for one in ten.
    """

    where: str
    identity: str
    decode: Callable[[], tuple[Arrays, Arrays]]
    validation: int | None = None


@dataclass(frozen=True)
class Source:
    """Decoded images in the node's cache, in protocol order.

    Attributes:
        fingerprint: SHA-256 (hex) of the decoded examples.
        classes: labels are 0 … classes − 1.
        image_shape: channels, height, width.
        train: images for training, without the held-out ones.
        validation: held-out training images; they lie behind the others.
        test: test images.
    """

    fingerprint: str
    classes: int
    image_shape: tuple[int, int, int]
    train: int
    validation: int
    test: int

    @property
    def folder(self) -> Path:
        """Where the arrays of this source and of its tasks are."""
        return cache.place() / f"{self.fingerprint}-{self.validation}"

    def images(self, split: str) -> np.ndarray:
        """uint8 [examples, channels, height, width] of ``train`` (with validation) or ``test``."""
        return cache.read_array(self.folder / f"images-{split}.npy")

    def labels(self, split: str) -> np.ndarray:
        """int64 [examples], in the order of `images`."""
        return cache.read_array(self.folder / f"labels-{split}.npy")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns a file of the user's that cannot be read into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or where}: {error.strerror or error}; "
            "check the file and its permissions"
        ) from error


def stat_identity(files: Iterable[Path]) -> str:
    """Name, size and modification time of files: unchanged files need no second decoding.

    A link counts by its own name, which may say the class, and by what it leads to.
    """
    parts = []
    for file in files:
        stat = file.stat()
        names = dict.fromkeys((file.absolute(), file.resolve()))
        parts.append("|".join(map(str, (*names, stat.st_size, stat.st_mtime_ns))))
    return "\n".join(parts)


def opened(found: Found) -> Source:
    """The source from the cache, decoded first if this node has not seen these files."""
    # Names of files may be any bytes: `fsencode` gives back those that are no UTF-8.
    seen = os.fsencode(f"{_DECODER}\n{found.validation}\n{found.identity}")
    key = hashlib.sha256(seen).hexdigest()
    index = cache.place() / "index" / f"{key}.json"
    return cache.read_or_build(index, _indexed, partial(_build, found))


def _indexed(index: Path) -> Source:
    about: dict[str, Any] = json.loads(index.read_text())
    about["image_shape"] = tuple(about["image_shape"])
    source = Source(**about)
    return _whole(source, source.folder)


def _whole(source: Source, folder: Path) -> Source:
    """Reads the source's arrays where they are mapped from, so that damage shows."""
    for split, count in (("train", source.train + source.validation), ("test", source.test)):
        shapes = source.images(split).shape, source.labels(split).shape
        if shapes != ((count, *source.image_shape), (count,)):
            raise ValueError(f"{folder}: arrays of {split} have shapes {shapes}")
    return source


def _build(found: Found, index: Path) -> None:
    with reading(found.where):
        train, test = found.decode()
    _check(found.where, train, test)
    validation = round(len(train.labels) / 10) if found.validation is None else found.validation
    arrangement = protocol.arrange(train, test, validation)
    source = Source(
        fingerprint=arrangement.fingerprint,
        classes=int(train.labels.max()) + 1,
        image_shape=train.images.shape[1:],
        train=len(train.labels) - arrangement.validation,
        validation=arrangement.validation,
        test=len(test.labels),
    )
    write = partial(_write, train, test, arrangement)
    cache.read_or_build(source.folder, partial(_whole, source), write)
    cache.write_json(index, asdict(source))


def _write(train: Arrays, test: Arrays, order: protocol.Arrangement, folder: Path) -> None:
    folder.mkdir()
    for name, split, rows in (("train", train, order.train), ("test", test, order.test)):
        shape = (len(rows), *split.images.shape[1:])
        chunks = (split.images[rows[start : start + 4096]] for start in range(0, len(rows), 4096))
        cache.write_array(folder / f"images-{name}.npy", shape, "uint8", chunks)
        cache.write_array(folder / f"labels-{name}.npy", (len(rows),), "<i8", [split.labels[rows]])


def _check(where: str, train: Arrays, test: Arrays) -> None:
    """Refuses labels and sizes that no benchmark can be made of.

    Raises:
        UserError: a class is missing, labels are not 0 … C−1, or the splits differ in image size.
    """
    for split, examples in (("train", train), ("test", test)):
        if len(examples.labels) == 0:
            raise UserError(f"{where}: the {split} split has no images; add some")
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = [_size(examples.images.shape[1:]) for examples in (train, test)]
        raise UserError(
            f"{where}: training images are {sizes[0]}, test images {sizes[1]}; "
            "resize them to one size"
        )
    classes, counts = np.unique(train.labels, return_counts=True)
    if classes[0] != 0 or classes[-1] != len(classes) - 1:
        raise UserError(
            f"{where}: the training labels are {len(classes)} numbers from {classes[0]} to "
            f"{classes[-1]}; number the classes 0 to {len(classes) - 1} without gaps"
        )
    if len(classes) < 2:
        raise UserError(f"{where}: only one class; a benchmark needs at least 2")
    difference = np.setxor1d(classes, test.labels)
    if len(difference):
        raise UserError(
            f"{where}: class {difference[0]} is in only one of train and test; "
            "give both splits the same classes"
        )
    if counts.min() < 2:
        raise UserError(
            f"{where}: class {classes[counts.argmin()]} has one training image; it needs at least "
            "2, for training and for validation"
        )


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
