"""Known sources that torchvision downloads into the cache folder, once a node."""

from functools import partial
from pathlib import Path

from lmc_ray.benchmarks import cache
from lmc_ray.errors import UnavailableError


def downloaded(word: str) -> Path:
    """The folder with torchvision's own folder of source `word`, downloaded if it is not there.

    Raises:
        UserError: the cache folder cannot be written.
        UnavailableError: the download failed; the same may do later.
    """
    folder = cache.root() / "downloads" / word
    return cache.read_or_build(folder, partial(Path.resolve, strict=True), partial(_download, word))


def _download(word: str, folder: Path) -> None:
    from torchvision import datasets

    kinds = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }
    try:
        kinds[word](folder, download=True)
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"cannot download {word} ({' '.join(str(error).split())}); connect to the internet, or "
            "name a folder that has it with --data (LMC_DATA)"
        ) from error
