"""CIFAR-10 and CIFAR-100 in torchvision's layout: pickled batches, read by torchvision itself."""

from functools import partial
from pathlib import Path

import numpy as np

from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.benchmarks.source import Found, stat_identity
from lmc_ray.errors import UserError

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def find(word: str, root: Path) -> Found:
    """The images of torchvision's folder for `word` (``cifar10`` or ``cifar100``) in `root`."""
    folder = root / FOLDERS[word]
    return Found(str(folder), stat_identity(sorted(folder.iterdir())), partial(_decode, word, root))


def _decode(word: str, root: Path) -> tuple[Arrays, Arrays]:
    return _read(word, root, train=True), _read(word, root, train=False)


def _read(word: str, root: Path, *, train: bool) -> Arrays:
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity

    kind = CIFAR10 if word == "cifar10" else CIFAR100
    checksums = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    for name, md5 in checksums:
        file = root / FOLDERS[word] / name
        if not file.is_file():
            raise UserError(f"missing file {file}: copy the whole folder again")
        if not check_integrity(file, md5):
            raise UserError(f"{file} is damaged: its checksum is not {word}'s; copy it again")
    dataset = kind(root, train=train)
    images = np.ascontiguousarray(np.asarray(dataset.data).transpose(0, 3, 1, 2))
    return Arrays(images, np.array(dataset.targets, dtype=np.int64))
