"""What is fixed about the images of every benchmark: their order, the validation split, the name.

Everything here is a function of the decoded examples alone. Examples are first sorted by (label,
SHA-256 of the pixels), so neither the file format nor the order of the rows in a file decides which
images are held out, in which order they lie, or what the fingerprint is. All random choices come
from the raw words of a bit generator, which NumPy keeps the same across versions and machines.
"""

import hashlib
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

VERSION = 1
"""Raised when one of the choices in this file changes; part of every cache path."""

SEED = 201004495
"""The constant behind every fixed choice: the arXiv number of Mirzadeh et al. 2021."""


class Arrays(NamedTuple):
    """Decoded images and labels, one row an example."""

    images: UInt8[np.ndarray, "examples channels height width"]
    labels: Int64[np.ndarray, " examples"]

    def take(self, rows: np.ndarray) -> "Arrays":
        """The examples at `rows` (indices or a mask), copied."""
        return Arrays(self.images[rows], self.labels[rows])


class Arranged(NamedTuple):
    """A source in protocol order; the last `validation` rows of `train` are the held-out ones."""

    train: Arrays
    test: Arrays
    validation: int


def shuffled(count: int, purpose: str, *path: int) -> Int64[np.ndarray, " count"]:
    """A fixed permutation of ``range(count)``, one for each (purpose, path)."""
    words = np.random.PCG64([SEED, zlib.crc32(purpose.encode()), *path]).random_raw(count)
    return np.argsort(words, kind="stable")


def canonical(examples: Arrays) -> Arrays:
    """The same examples sorted by (label, SHA-256 of the pixels)."""
    images = np.ascontiguousarray(examples.images)
    digests = np.array([hashlib.sha256(image).digest() for image in images], dtype="S32")
    rows = np.argsort(digests, kind="stable")
    rows = rows[np.argsort(examples.labels[rows], kind="stable")]
    return Arrays(images[rows], examples.labels[rows])


def fingerprint(train: Arrays, test: Arrays) -> str:
    """SHA-256 (hex) of both splits in canonical order: shapes, pixels and labels."""
    digest = hashlib.sha256()
    for part, (images, labels) in (("train", train), ("test", test)):
        digest.update(f"{part} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images))
        digest.update(labels.astype("<i8"))
    return digest.hexdigest()


def stratified(
    labels: Int64[np.ndarray, " examples"], count: int, purpose: str
) -> Bool[np.ndarray, " examples"]:
    """A fixed choice of `count` examples with every class in proportion (largest remainders).

    A class too small for a share of its own still gives one example, beyond `count`.
    """
    sizes = np.bincount(labels)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    largest = np.argsort(quotas - shares, kind="stable")
    quotas[largest[: count - quotas.sum()]] += 1
    chosen = np.zeros(len(labels), dtype=bool)
    for label, quota in enumerate(np.maximum(quotas, 1)):
        members = np.flatnonzero(labels == label)
        chosen[members[shuffled(len(members), purpose, label)[:quota]]] = True
    return chosen


def arranged(train: Arrays, test: Arrays, validation: int) -> Arranged:
    """Canonical examples in protocol order: training, validation and test rows, each shuffled."""
    held_out = stratified(train.labels, validation, "validation")
    parts = []
    for rows, purpose in ((~held_out, "train"), (held_out, "held out")):
        members = np.flatnonzero(rows)
        parts.append(members[shuffled(len(members), purpose)])
    test_order = shuffled(len(test.labels), "test")
    return Arranged(train.take(np.concatenate(parts)), test.take(test_order), len(parts[1]))
