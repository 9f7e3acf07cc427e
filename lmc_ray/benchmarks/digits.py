"""The 1,797 handwritten digits (8×8, grey) that ship inside scikit-learn."""

from importlib.metadata import version

import numpy as np

from lmc_ray.benchmarks.protocol import Arrays, stratified
from lmc_ray.benchmarks.source import Found

_TEST, _VALIDATION = 360, 180


def find() -> Found:
    """The digits; their fixed stratified parts are 1,257 train, 180 validation, 360 test."""
    identity = f"scikit-learn {version('scikit-learn')}"
    return Found("scikit-learn's digits", identity, _decode, validation=_VALIDATION)


def _decode() -> tuple[Arrays, Arrays]:
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)  # stored as 0 … 16
    labels = labels.astype(np.int64)
    test = stratified(labels, _TEST, "digits test")
    return Arrays(images[~test], labels[~test]), Arrays(images[test], labels[test])
