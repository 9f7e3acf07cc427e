"""Images in Parquet files with the Hub's columns: encoded bytes beside an integer label.

The image column is ``img`` or ``image`` (a struct with a field ``bytes``, or plain bytes), the
label column ``fine_label`` or ``label``. The files are named ``train.parquet`` or
``train-*.parquet``, and likewise for ``test``; other splits are not read.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lmc_ray.benchmarks.pictures import Picture, stacked
from lmc_ray.benchmarks.protocol import Arrays
from lmc_ray.benchmarks.source import Found, stat_identity
from lmc_ray.errors import UserError

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")
_BATCH = 512  # encoded images in memory at a time


def held_by(folder: Path) -> bool:
    """Whether `folder` has training or test images as Parquet files."""
    return bool(_names(folder, "train") or _names(folder, "test"))


def find(folder: Path) -> Found:
    """The images of a folder of Parquet files.

    Raises:
        UserError: a split or one of its numbered files is missing.
    """
    train, test = _files(folder, "train"), _files(folder, "test")
    return Found(str(folder), stat_identity([*train, *test]), partial(_decode, train, test))


def _names(folder: Path, split: str) -> list[str]:
    names = sorted(file.name for file in folder.glob("*.parquet"))
    return [name for name in names if re.fullmatch(rf"{split}(-.*)?\.parquet", name)]


def _files(folder: Path, split: str) -> list[Path]:
    names = _names(folder, split)
    if not names:
        raise UserError(f"{folder} has no {split} split: add {split}-*.parquet")
    exports: dict[str, set[str]] = {}
    for name in names:
        shard = _SHARD.search(name)
        stem = name[: shard.start()] if shard else name.removesuffix(".parquet")
        exports.setdefault(stem, set()).add(shard[2] if shard else "1")
    for stem, totals in exports.items():
        if len(totals) > 1:
            counts = " and in ".join(sorted(totals))
            raise UserError(
                f"{folder} has {stem}*.parquet of several exports, in {counts} parts: leave those"
                " of one, or images would be there twice"
            )
    for name in names:
        if shard := _SHARD.search(name):
            digits, total = len(shard[1]), shard[2]
            for number in range(int(total)):
                part = f"{name[: shard.start()]}-{number:0{digits}}-of-{total}.parquet"
                if part not in names:
                    raise UserError(f"missing file {folder / part}: copy all {total} parts there")
    return [folder / name for name in names]


def _decode(train: list[Path], test: list[Path]) -> tuple[Arrays, Arrays]:
    return _read(train), _read(test)


def _read(files: list[Path]) -> Arrays:
    count = sum(_rows(file) for file in files)
    return stacked((picture for file in files for picture in _pictures(file)), count)


def _rows(file: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _pictures(file: Path) -> Iterator[Picture]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        names = parquet.schema_arrow.names
        image = _column(file, names, ("img", "image"))
        label = _column(file, names, ("fine_label", "label"))
        for batch in parquet.iter_batches(_BATCH, columns=[image, label]):
            contents, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
            for content, number in zip(contents, labels, strict=True):
                yield _picture(f"{file} row {row}", content, number)
                row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _column(file: Path, names: list[str], choices: tuple[str, str]) -> str:
    for choice in choices:
        if choice in names:
            return choice
    raise UserError(
        f"{file} has no column '{choices[0]}' or '{choices[1]}', only {', '.join(names)}; "
        "rename yours"
    )


def _picture(where: str, content: object, label: object) -> Picture:
    encoded = content.get("bytes") if isinstance(content, dict) else content
    if not isinstance(encoded, bytes):
        raise UserError(f"{where}: no encoded image; store PNG or JPEG bytes in the file")
    if not isinstance(label, int) or label >= 2**63:
        raise UserError(f"{where}: the label is {label!r}; make it the class's number, from 0 on")
    return Picture(where, encoded, label)


def _damaged(file: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{file} is not a readable Parquet file ({reason}); copy it again")
