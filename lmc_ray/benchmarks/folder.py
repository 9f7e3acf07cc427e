"""Images as a tree of class folders: ``{train,test}/<class>/<image files>``.

Classes are numbered in the order of their folders' names: as numbers where all names are numbers,
else alphabetically.
"""

from functools import partial
from pathlib import Path

from lmc_ray.benchmarks.pictures import Picture, stacked
from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.benchmarks.source import Found, stat_identity
from lmc_ray.errors import UserError

_ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".jp2"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
}


def held_by(folder: Path) -> bool:
    """Whether `folder` looks like such a tree."""
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def find(folder: Path) -> Found:
    """The images of a tree of class folders.

    Raises:
        UserError: a split is missing, a class is in only one of them, or a class has no images.
    """
    classes = {split: _classes(folder / split) for split in ("train", "test")}
    for split, other in (("train", "test"), ("test", "train")):
        for name in classes[split]:
            if name not in classes[other]:
                raise UserError(
                    f"class '{name}' is in {folder / split} but not in {folder / other}; "
                    "give both the same classes"
                )
    splits = {
        split: [_files(folder / split / name) for name in names] for split, names in classes.items()
    }
    files = [file for split in splits.values() for group in split for file in group]
    return Found(
        str(folder), stat_identity(files), partial(_decode, splits["train"], splits["test"])
    )


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"missing folder {folder}: put one folder a class there, with its images")
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise UserError(f"{folder} has no class folders: put one folder a class there")
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _ENDINGS and not file.name.startswith(".")
    ]
    if not files:
        raise UserError(f"{folder} has no images: add some, or remove the folder from both splits")
    return sorted(files)


def _decode(train: list[list[Path]], test: list[list[Path]]) -> tuple[Arrays, Arrays]:
    return _read(train), _read(test)


def _read(classes: list[list[Path]]) -> Arrays:
    pictures = (
        Picture(str(file), file, label) for label, files in enumerate(classes) for file in files
    )
    return stacked(pictures, sum(len(files) for files in classes))
