"""What is fixed about the images of every benchmark: their order, the validation split, the name.

Everything here is a function of the decoded examples alone. Examples are ranked by (label, SHA-256
of the pixels) before anything is chosen, so neither the file format nor the order of the rows in a
file decides which images are held out, in which order they lie, or what the fingerprint is. All
random choices come from the raw words of a bit generator, which NumPy keeps the same across
versions and machines.
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


class Arrangement(NamedTuple):
    """Which rows of the decoded splits come first, second, … in every benchmark.

    Attributes:
        train: rows of the training split; the held-out ones are last.
        validation: how many of them are held out.
        test: rows of the test split.
        fingerprint: SHA-256 (hex) of both splits, whatever the order of their rows.
    """

    train: Int64[np.ndarray, " train"]
    validation: int
    test: Int64[np.ndarray, " test"]
    fingerprint: str


def shuffled(count: int, purpose: str, *path: int) -> Int64[np.ndarray, " count"]:
    """A fixed permutation of ``range(count)``, one for each (purpose, path)."""
    words = np.random.PCG64([SEED, zlib.crc32(purpose.encode()), *path]).random_raw(count)
    return np.argsort(words, kind="stable")


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


def arrange(train: Arrays, test: Arrays, validation: int) -> Arrangement:
    """Ranks the examples, holds out `validation` of the training ones, shuffles every part."""
    train_rank, train_identity = _ranked(train)
    test_rank, test_identity = _ranked(test)
    held_out = stratified(train.labels[train_rank], validation, "validation")
    kept = _shuffled_rows(train_rank[~held_out], "train")
    held = _shuffled_rows(train_rank[held_out], "held out")
    return Arrangement(
        train=np.concatenate([kept, held]),
        validation=len(held),
        test=_shuffled_rows(test_rank, "test"),
        fingerprint=hashlib.sha256(train_identity + test_identity).hexdigest(),
    )


def _ranked(split: Arrays) -> tuple[Int64[np.ndarray, " examples"], bytes]:
    """Rows by (label, SHA-256 of the pixels), and the split's part of the fingerprint."""
    pixels = [hashlib.sha256(image.tobytes()).digest() for image in split.images]
    digests = np.array(pixels, dtype="S32")
    rows = np.argsort(digests, kind="stable")
    rows = rows[np.argsort(split.labels[rows], kind="stable")]
    shape = np.array(split.images.shape, dtype="<i8")
    labels = split.labels[rows].astype("<i8")
    return rows, shape.tobytes() + labels.tobytes() + digests[rows].tobytes()


def _shuffled_rows(rows: Int64[np.ndarray, " rows"], purpose: str) -> Int64[np.ndarray, " rows"]:
    return rows[shuffled(len(rows), purpose)]
