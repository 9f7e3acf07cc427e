"""Small image data sets on disk, and where the real ones are."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Split = tuple[np.ndarray, np.ndarray]  # images [examples, height, width(, 3)], labels


def real_data(*needed: str) -> str:
    """The folder with the real MNIST and CIFAR-100; skips the test where files are missing."""
    beside = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("LMC_DATA") or beside).resolve()
    for name in needed:
        if not (folder / name).exists():
            pytest.skip(f"needs the real data: {folder / name} is missing (set LMC_DATA)")
    return str(folder)


def random_split(seed: int, per_class: int, classes: int = 4, shape=(6, 5, 3)) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_tree(folder: Path, train: Split, test: Split, names: list[str] | None = None) -> Path:
    for split, (images, labels) in (("train", train), ("test", test)):
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / split / (names[label] if names else f"c{label}") / f"{row:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(image))
    return folder


def write_parquet(
    file: Path, split: Split, image_column: str = "image", label_column: str = "label"
) -> None:
    images, labels = split
    rows = [{"bytes": encoded(image), "path": None} for image in images]
    write_columns(file, {image_column: rows, label_column: [int(label) for label in labels]})


def write_columns(file: Path, columns: dict[str, list | pa.Array]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def write_parquet_folder(folder: Path, train: Split, test: Split) -> Path:
    write_parquet(folder / "train-00000-of-00001.parquet", train)
    write_parquet(folder / "test-00000-of-00001.parquet", test)
    return folder


def write_idx(folder: Path, train: Split, test: Split) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        header = bytes((0, 0, 8, 3)) + np.array(images.shape, ">u4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = bytes((0, 0, 8, 1)) + np.array(labels.shape, ">u4").tobytes()
        content = header + labels.astype(np.uint8).tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(content)
    return folder
