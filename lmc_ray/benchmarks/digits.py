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

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]  # stored as 0 … 16
    labels = digits.target.astype(np.int64)
    examples = Arrays(images, labels)
    test = stratified(labels, _TEST, "digits test")
    return examples.take(~test), examples.take(test)
