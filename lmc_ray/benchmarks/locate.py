"""Finds the images that a benchmark's name means: a known source, or a folder of the user's."""

from pathlib import Path

from lmc_ray.benchmarks import catalog, digits, idx
from lmc_ray.benchmarks.source import Found, Source, opened
from lmc_ray.errors import UserError, unknown

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
    _, word = parse(name)
    if word in catalog.SOURCES:
        source = opened(_find_known(word, data))
        _check_known(word, source)
        return word, source
    raise unknown("benchmark", name, catalog.names())


def _find_known(word: str, data: str | None) -> Found:
    if word == "digits":
        return digits.find()
    folder = Path(data or ".").expanduser()
    return idx.find(folder / _RAW_FOLDERS[word])


def _check_known(word: str, source: Source) -> None:
    known = catalog.SOURCES[word]
    if (source.classes, source.image_shape) != (known.classes, known.image_shape):
        raise UserError(
            f"these images are not {word}: {source.classes} classes of {source.image_shape} "
            f"(channels, height, width), expected {known.classes} of {known.image_shape}; "
            f"check the data folder"
        )
