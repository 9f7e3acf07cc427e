"""Finds the images that a benchmark's name means: a known source, or a folder of the user's."""

import os
from pathlib import Path

from lmc_ray.benchmarks import catalog, cifar, digits, folder, idx, parquet
from lmc_ray.benchmarks.download import downloaded
from lmc_ray.benchmarks.source import Found, Source, opened, reading
from lmc_ray.errors import UserError, unknown
from lmc_ray.home import expanded

_RAW_FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}


def parse(name: str) -> tuple[str, str]:
    """Family and source of a benchmark's name, e.g. ``split`` and ``/home/me/flowers``.

    Raises:
        UserError: the name has no known family.
    """
    family, _, word = name.partition("-")
    if family not in catalog.FAMILIES or not word:
        raise unknown("benchmark", name, catalog.names())
    return family, word


def find_source(name: str, data: str | None) -> tuple[str, Source]:
    """The short name and the images of the source that benchmark `name` is made of.

    Args:
        name: a benchmark's name.
        data: folder with images; None downloads a known source into the cache folder.

    Raises:
        UserError: there is no such source, or its files are missing or bad.
    """
    with reading(name):
        return _find_source(name, data)


def _find_source(name: str, data: str | None) -> tuple[str, Source]:
    family, word = parse(name)
    root = None if data is None else expanded(data)
    if word in catalog.SOURCES:
        source = opened(_known(word, root))
        _check_known(word, source)
        return word, source
    if is_path(word):
        path = expanded(word).resolve()
        return path.name, opened(_own(path))
    if root is not None and (root / word).is_dir():
        return word, opened(_own(root / word))
    own = [f"{family}-{each}" for each in _folders_with_images(root)]
    near = unknown("benchmark", name, [*catalog.names(), *own])
    raise UserError(f"{near} (images of your own: {family}-/path/to/folder)")


def _folders_with_images(root: Path | None) -> list[str]:
    if root is None or not root.is_dir():
        return []
    folders = [each for each in root.iterdir() if each.is_dir()]
    return [each.name for each in folders if _with_images(each)]


def is_path(word: str) -> bool:
    """Whether a benchmark's second part is the path of a folder, and no name below --data."""
    return os.sep in word or word.startswith(("~", "."))


def _own(path: Path) -> Found:
    """Images in the user's own folder, or in its folder ``data`` as the Hub lays them out."""
    if not path.is_dir():
        raise UserError(f"no folder {path}: check the path")
    if found := _with_images(path):
        return (parquet if parquet.held_by(found) else folder).find(found)
    raise UserError(
        f"{path} holds no images: put train-*.parquet and test-*.parquet there, or the folders "
        "train/<class> and test/<class>"
    )


def _with_images(path: Path) -> Path | None:
    """Where the images of a folder lie: in itself, or in ``data`` as the Hub has them."""
    return next((each for each in (path, path / "data") if _has_images(each)), None)


def _has_images(path: Path) -> bool:
    return parquet.held_by(path) or folder.held_by(path)


def _known(word: str, root: Path | None) -> Found:
    if word == "digits":
        return digits.find()
    if root is None:
        return _in_torchvision_layout(word, downloaded(word))
    if not root.is_dir():
        raise UserError(f"no data folder {root}: check --data (LMC_DATA)")
    if _with_images(root / word):
        return _own(root / word)
    torchvision_folder = root / (_RAW_FOLDERS | cifar.FOLDERS)[word]
    if torchvision_folder.is_dir():
        return _in_torchvision_layout(word, root)
    if _has_images(root) and root.name not in catalog.SOURCES.keys() - {word}:
        return _own(root)
    raise UserError(
        f"no {word} in {root}: expected {word}/train-*.parquet and {word}/test-*.parquet, or "
        f"torchvision's {torchvision_folder.relative_to(root)}; without --data (LMC_DATA) it is "
        "downloaded"
    )


def _in_torchvision_layout(word: str, root: Path) -> Found:
    if word in _RAW_FOLDERS:
        return idx.find(root / _RAW_FOLDERS[word])
    return cifar.find(word, root)


def _check_known(word: str, source: Source) -> None:
    known = catalog.SOURCES[word]
    if (source.classes, source.image_shape) != (known.classes, known.image_shape):
        raise UserError(
            f"the images found are not {word}: {source.classes} classes of {source.image_shape} "
            f"(channels, height, width), expected {known.classes} of {known.image_shape}; check "
            "--data (LMC_DATA)"
        )
