"""Where images come from: formats, layouts, and every way in which they can be wrong."""

import gzip
import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sources import (
    encoded,
    random_split,
    write_columns,
    write_idx,
    write_parquet,
    write_parquet_folder,
    write_tree,
)
from PIL import Image

from lmc_ray.benchmarks import Benchmark, defaults, load
from lmc_ray.benchmarks.pictures import Picture, stacked
from lmc_ray.benchmarks.protocol import Arrays, arrange
from lmc_ray.errors import UnavailableError, UserError

TRAIN, TEST = random_split(1, per_class=10), random_split(2, per_class=3)
MNIST_TRAIN = random_split(3, per_class=12, classes=10, shape=(28, 28))
MNIST_TEST = random_split(4, per_class=2, classes=10, shape=(28, 28))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMC_CACHE", str(folder))
    return folder


def reported(name: str, data: Path | None = None) -> str:
    """The one line that loading this is refused with."""
    with pytest.raises(UserError) as caught:
        load(name, data=None if data is None else str(data))
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_bits(one: Benchmark, other: Benchmark) -> bool:
    pairs = [
        (one.examples(task, part), other.examples(task, part))
        for task in range(1, one.tasks + 1)
        for part in ("train", "validation", "test")
    ]
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


# The user's own images


def test_a_tree_and_parquet_files_give_the_same_benchmark_whatever_the_order(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    order = np.random.default_rng(0).permutation(len(TRAIN[1]))
    shuffled = TRAIN[0][order], TRAIN[1][order]
    parquet = write_parquet_folder(tmp_path / "parquet", shuffled, TEST)
    one, other = load(f"split-{tree}"), load(f"split-{parquet}")
    assert one.fingerprint == other.fingerprint
    assert same_bits(one, other)
    assert (one.name, other.name) == ("split-tree", "split-parquet")
    assert (one.tasks, one.classes, one.image_shape) == (2, 4, (3, 6, 5))


def test_own_images_keep_pixels_and_labels(tmp_path) -> None:
    benchmark = load(f"permuted-{write_tree(tmp_path / 'tree', TRAIN, TEST)}", tasks=1)
    for part, (images, labels) in (("full", TRAIN), ("test", TEST)):
        examples = benchmark.examples(1, part)
        expected = zip((i.transpose(2, 0, 1).tolist() for i in images), labels, strict=True)
        found = zip(examples.images.tolist(), examples.labels.tolist(), strict=True)
        assert sorted(expected) == sorted(found)


@pytest.mark.parametrize("family", ["rotated", "permuted", "split"])
def test_own_images_by_name_path_and_relative_path(tmp_path, monkeypatch, family) -> None:
    write_tree(tmp_path / "flowers", TRAIN, TEST)
    by_path = load(f"{family}-{tmp_path}/flowers", tasks=2)
    by_name = load(f"{family}-flowers", tasks=2, data=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    relative = load(f"{family}-./flowers", tasks=2)
    assert by_path == by_name == relative
    assert by_path.name == f"{family}-flowers"


def test_own_images_in_the_hubs_data_folder(tmp_path) -> None:
    write_parquet_folder(tmp_path / "flowers" / "data", TRAIN, TEST)
    assert load(f"split-{tmp_path}/flowers").name == "split-flowers"


def test_several_numbered_files_are_read_as_one(tmp_path) -> None:
    whole = write_parquet_folder(tmp_path / "whole", TRAIN, TEST)
    parts = write_parquet_folder(tmp_path / "parts", TRAIN, TEST)
    (parts / "train-00000-of-00001.parquet").unlink()
    for number, rows in enumerate((slice(0, 25), slice(25, None))):
        write_parquet(
            parts / f"train-0000{number}-of-00002.parquet", (TRAIN[0][rows], TRAIN[1][rows])
        )
    assert load(f"split-{parts}").fingerprint == load(f"split-{whole}").fingerprint


@pytest.mark.parametrize("image_column", ["img", "image"])
@pytest.mark.parametrize("label_column", ["fine_label", "label"])
def test_the_hubs_column_names(tmp_path, image_column: str, label_column: str) -> None:
    for name, split in (("train", TRAIN), ("test", TEST)):
        write_parquet(tmp_path / f"own/{name}.parquet", split, image_column, label_column)
    assert load(f"split-{tmp_path}/own").classes == 4


def test_fine_labels_go_before_others_and_plain_bytes_are_images(tmp_path) -> None:
    for name, (images, labels) in (("train", TRAIN), ("test", TEST)):
        columns = {
            "label": [0] * len(labels),
            "image": [encoded(image) for image in images],
            "fine_label": labels.tolist(),
        }
        write_columns(tmp_path / f"own/{name}.parquet", columns)
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    assert load(f"split-{tmp_path}/own").fingerprint == load(f"split-{tree}").fingerprint


def test_classes_named_by_numbers_are_in_the_order_of_the_numbers(tmp_path) -> None:
    train, test = (random_split(seed, per_class=3, classes=12) for seed in (1, 2))
    names = [str(number) for number in range(12)]
    tree = write_tree(tmp_path / "tree", train, test, names)
    parquet = write_parquet_folder(tmp_path / "parquet", train, test)
    assert load(f"split-{tree}").fingerprint == load(f"split-{parquet}").fingerprint


def test_classes_named_by_words_are_in_alphabetical_order(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST, ["ant", "bee", "cat", "dog"])
    parquet = write_parquet_folder(tmp_path / "parquet", TRAIN, TEST)
    assert load(f"split-{tree}").fingerprint == load(f"split-{parquet}").fingerprint


def test_grey_images_have_one_channel(tmp_path) -> None:
    train, test = (random_split(seed, per_class=4, shape=(7, 6)) for seed in (1, 2))
    benchmark = load(f"rotated-{write_tree(tmp_path / 'grey', train, test)}", tasks=2)
    assert benchmark.image_shape == (1, 7, 6)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_kinds_of_images(tmp_path, mode: str, channels: int) -> None:
    ending = "tiff" if mode == "CMYK" else "png"
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "own" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{number}.{ending}")
    assert load(f"split-{tmp_path}/own").image_shape == (channels, 4, 4)


def test_other_files_in_a_tree_are_left_alone(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    before = load(f"split-{tree}").fingerprint
    photo = tree / "train" / "c0" / "0000.png"
    photo.rename(photo.with_suffix(".jfif"))  # whatever the ending says: it is an image
    (tree / "train" / "c0" / "notes.txt").write_text("not an image")
    (tree / "train" / "c0" / ".hidden.png").write_text("not an image")
    (tree / "train" / ".cache").mkdir()
    assert load(f"split-{tree}").fingerprint == before


# The fingerprint


def arrays(split) -> Arrays:
    return Arrays(split[0].transpose(0, 3, 1, 2), split[1])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_changed_pixel_or_label_changes_the_fingerprint(data) -> None:
    train, test = arrays(TRAIN), arrays(TEST)
    before = arrange(train, test, 4).fingerprint
    position = tuple(data.draw(st.integers(0, size - 1)) for size in train.images.shape)
    images = train.images.copy()
    images[position] ^= data.draw(st.integers(1, 255))
    assert arrange(Arrays(images, train.labels), test, 4).fingerprint != before
    labels = train.labels.copy()
    labels[position[0]] = (labels[position[0]] + 1) % 4
    assert arrange(Arrays(train.images, labels), test, 4).fingerprint != before
    assert arrange(test, train, 4).fingerprint != before


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    train, test = arrays(TRAIN), arrays(TEST)
    rows = np.random.default_rng(seed).permutation(len(train.labels))
    moved = Arrays(train.images[rows], train.labels[rows])
    one, other = arrange(train, test, 4), arrange(moved, test, 4)
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(train.images[one.train], moved.images[other.train])
    assert np.array_equal(train.labels[one.train], moved.labels[other.train])


def test_the_shape_enters_the_fingerprint() -> None:
    train, test = arrays(TRAIN), arrays(TEST)
    turned = [Arrays(s.images.reshape(-1, 3, 5, 6), s.labels) for s in (train, test)]
    assert arrange(*turned, 4).fingerprint != arrange(train, test, 4).fingerprint


def test_a_changed_file_is_noticed_on_the_next_load(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    before = load(f"split-{tree}")
    file = tree / "train" / "c0" / "0000.png"
    pixels = TRAIN[0][0].copy()
    pixels[0, 0, 0] ^= 1
    file.write_bytes(encoded(pixels))
    after = load(f"split-{tree}")
    assert after.fingerprint != before.fingerprint
    file.write_bytes(encoded(TRAIN[0][0]))
    assert load(f"split-{tree}") == before


# Known sources


def write_mnist(root: Path, folder: str = "MNIST") -> Path:
    return write_idx(root / folder / "raw", MNIST_TRAIN, MNIST_TEST)


def test_mnist_in_all_layouts_is_the_same(tmp_path) -> None:
    write_mnist(tmp_path / "torchvision")
    write_parquet_folder(tmp_path / "hub" / "mnist", MNIST_TRAIN, MNIST_TEST)
    write_parquet_folder(tmp_path / "bare", MNIST_TRAIN, MNIST_TEST)
    names = [str(number) for number in range(10)]
    write_tree(tmp_path / "trees" / "mnist", MNIST_TRAIN, MNIST_TEST, names)
    folders = ("torchvision", "hub", "bare", "trees")
    benchmarks = [load("split-mnist", data=str(tmp_path / folder)) for folder in folders]
    assert all(benchmark == benchmarks[0] for benchmark in benchmarks)


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    assert load("rotated-fashion-mnist", data=str(tmp_path), tasks=2).image_shape == (1, 28, 28)


def write_cifar(root: Path, monkeypatch) -> Path:
    """A small CIFAR-100 in torchvision's layout, with torchvision told its checksums."""
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    checksums = {}
    for name, per_class in (("train", 3), ("test", 1), ("meta", 0)):
        images, labels = random_split(per_class, per_class, classes=100, shape=(3, 32, 32))
        content = {"data": images.reshape(-1, 3072), "fine_labels": labels.tolist()}
        content["fine_label_names"] = [str(number) for number in range(100)]
        (folder / name).write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", checksums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", checksums["test"]]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": checksums["meta"]}
    monkeypatch.setattr(CIFAR100, "meta", meta)
    return folder


def test_cifar_in_torchvisions_layout_equals_parquet(tmp_path, monkeypatch) -> None:
    write_cifar(tmp_path / "torchvision", monkeypatch)
    images, labels = random_split(3, 3, classes=100, shape=(3, 32, 32))
    test_images, test_labels = random_split(1, 1, classes=100, shape=(3, 32, 32))
    train = images.transpose(0, 2, 3, 1), labels
    test = test_images.transpose(0, 2, 3, 1), test_labels
    write_parquet_folder(tmp_path / "hub" / "cifar100", train, test)
    one = load("split-cifar100", data=str(tmp_path / "torchvision"))
    assert one == load("split-cifar100", data=str(tmp_path / "hub"))
    assert (one.tasks, one.image_shape) == (20, (3, 32, 32))


def test_damaged_and_missing_cifar_files_are_named(tmp_path, monkeypatch) -> None:
    folder = write_cifar(tmp_path, monkeypatch)
    (folder / "test").write_bytes((folder / "test").read_bytes()[:-1])
    line = f"{folder}/test is damaged: its checksum is not cifar100's; copy it again"
    assert reported("split-cifar100", tmp_path) == line
    (folder / "test").unlink()
    line = f"missing file {folder}/test: copy the whole folder again"
    assert reported("split-cifar100", tmp_path) == line


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A local mirror that torchvision downloads a small MNIST from."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for file in sorted(write_mnist(tmp_path / "original").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        yield folder
        server.shutdown()


def test_without_a_data_folder_torchvision_downloads_once(tmp_path, own_cache, mirror) -> None:
    downloaded = load("split-mnist")
    assert downloaded == load("split-mnist", data=str(tmp_path / "original"))
    for file in mirror.iterdir():
        file.unlink()
    assert load("split-mnist") == downloaded
    assert (own_cache / "downloads" / "mnist" / "MNIST" / "raw").is_dir()


def test_a_failed_download_is_told_in_one_line_and_leaves_nothing(own_cache, mirror) -> None:
    (mirror / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UnavailableError):  # a night is tried again
        load("split-mnist")
    line = reported("split-mnist")
    assert line.startswith("cannot download mnist (")
    assert line.endswith("connect to the internet, or name a folder that has it with --data "
                         "(LMC_DATA)")  # fmt: skip
    assert [file.name for file in (own_cache / "downloads").iterdir()] == [".mnist.lock"]


# What can be wrong


def test_a_source_that_is_not_in_the_data_folder(tmp_path) -> None:
    assert reported("split-cifar10", tmp_path) == (
        f"no cifar10 in {tmp_path}: expected cifar10/train-*.parquet and cifar10/test-*.parquet, "
        "or torchvision's cifar-10-batches-py; without --data (LMC_DATA) it is downloaded"
    )


def test_a_data_folder_that_does_not_exist(tmp_path) -> None:
    line = f"no data folder {tmp_path}/none: check --data (LMC_DATA)"
    assert reported("rotated-mnist", tmp_path / "none") == line


def test_images_of_another_source(tmp_path) -> None:
    write_parquet_folder(tmp_path, TRAIN, TEST)
    assert reported("split-mnist", tmp_path) == (
        "the images found are not mnist: 4 classes of (3, 6, 5) (channels, height, width), "
        "expected 10 of (1, 28, 28); check --data (LMC_DATA)"
    )


def test_the_folder_of_another_source(tmp_path) -> None:
    """MNIST's images have the shape and the number of classes that Fashion-MNIST's have."""
    write_parquet_folder(tmp_path / "mnist", TRAIN, TEST)
    assert "no fashion-mnist in" in reported("rotated-fashion-mnist", tmp_path / "mnist")
    assert "are not mnist" in reported("rotated-mnist", tmp_path / "mnist"), "looked at, at least"


def test_a_folder_that_does_not_exist_or_has_no_images(tmp_path) -> None:
    assert reported(f"split-{tmp_path}/none") == f"no folder {tmp_path}/none: check the path"
    (tmp_path / "empty").mkdir()
    assert reported(f"split-{tmp_path}/empty") == (
        f"{tmp_path}/empty holds no images: put train-*.parquet and test-*.parquet there, or the "
        "folders train/<class> and test/<class>"
    )


def test_missing_idx_file(tmp_path) -> None:
    raw = write_mnist(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    line = f"missing file {raw}/t10k-labels-idx1-ubyte: copy all four IDX files there, unpacked"
    assert reported("split-mnist", tmp_path) == line


@pytest.mark.parametrize("kept", [-1, 10_000, 20])
def test_truncated_idx_file(tmp_path, kept: int) -> None:
    raw = write_mnist(tmp_path)
    file = raw / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    size = len(whole[:kept])
    assert reported("split-mnist", tmp_path) == (
        f"{file} is damaged: {size:,} bytes, expected {len(whole):,}; copy it again"
    )


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08packed", b"\0\0\x08\x01\0\0\0\0"])
def test_a_file_that_is_no_idx_file(tmp_path, content: bytes) -> None:
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(content)
    line = f"{file} is not an IDX file of bytes; copy it again, unpacked"
    assert reported("split-mnist", tmp_path) == line


def test_idx_files_that_do_not_belong_together(tmp_path) -> None:
    raw = write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    line = f"{raw}/train-images-idx3-ubyte: 120 images but 20 labels; copy the files again"
    assert reported("split-mnist", tmp_path) == line


def test_missing_splits(tmp_path) -> None:
    parquet = write_parquet_folder(tmp_path / "parquet", TRAIN, TEST)
    (parquet / "test-00000-of-00001.parquet").unlink()
    line = f"{parquet} has no test split: add test-*.parquet"
    assert reported(f"split-{parquet}") == line
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    (tree / "test").rename(tree / "valid")
    line = f"missing folder {tree}/test: put one folder a class there, with its images"
    assert reported(f"split-{tree}") == line
    (tree / "test").mkdir()
    line = f"{tree}/test has no class folders: put one folder a class there"
    assert reported(f"split-{tree}") == line


def test_a_missing_numbered_file(tmp_path) -> None:
    folder = write_parquet_folder(tmp_path / "own", TRAIN, TEST)
    (folder / "train-00000-of-00001.parquet").rename(folder / "train-00001-of-00003.parquet")
    line = f"missing file {folder}/train-00000-of-00003.parquet: copy all 00003 parts there"
    assert reported(f"split-{folder}") == line


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_parquet_file(tmp_path, kept: int) -> None:
    folder = write_parquet_folder(tmp_path / "own", TRAIN, TEST)
    file = folder / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:kept])
    line = reported(f"split-{folder}")
    assert line.startswith(f"{file} is not a readable Parquet file (")
    assert line.endswith("); copy it again")


def test_a_parquet_file_damaged_in_the_middle(tmp_path) -> None:
    folder = write_parquet_folder(tmp_path / "own", TRAIN, TEST)
    file = folder / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[4:40] = bytes(36)
    file.write_bytes(content)
    assert reported(f"split-{folder}").startswith(str(file))


def test_missing_columns(tmp_path) -> None:
    write_parquet_folder(tmp_path, TRAIN, TEST)
    for columns, choices, found in (
        ({"picture": [b""], "label": [0]}, "'img' or 'image'", "picture, label"),
        ({"image": [b""], "class": [0]}, "'fine_label' or 'label'", "image, class"),
    ):
        file = tmp_path / "train-00000-of-00001.parquet"
        write_columns(file, columns)
        line = f"{file} has no column {choices}, only {found}; rename yours"
        assert reported(f"split-{tmp_path}") == line


def test_rows_that_cannot_be_used(tmp_path) -> None:
    good = encoded(TRAIN[0][0])
    file = write_parquet_folder(tmp_path, TRAIN, TEST) / "train-00000-of-00001.parquet"
    for image, label, told in (
        ({"bytes": None, "path": "a.png"}, 0, "no encoded image; store PNG or JPEG bytes in the "
         "file"),
        (None, 0, "no encoded image; store PNG or JPEG bytes in the file"),
        ({"bytes": good, "path": None}, None, "the label is None; make it the class's number, "
         "from 0 on"),
    ):  # fmt: skip
        rows = [{"bytes": good, "path": None}, image]
        write_columns(file, {"image": rows, "label": [0, label]})
        assert reported(f"split-{tmp_path}") == f"{file} row 1: {told}"
    write_columns(file, {"image": [good], "label": ["cat"]})
    line = f"{file} row 0: the label is 'cat'; make it the class's number, from 0 on"
    assert reported(f"split-{tmp_path}") == line
    beyond = pa.array([2**64 - 1], pa.uint64())  # what -1 becomes in an unsigned column
    write_columns(file, {"image": [good], "label": beyond})
    assert f"{file} row 0: the label is {2**64 - 1};" in reported(f"split-{tmp_path}")


def test_the_same_files_sorted_otherwise_by_links_are_another_set(tmp_path) -> None:
    """Fine and coarse classes of one store of pictures, decoded one after the other."""
    tree = write_tree(tmp_path / "all", TRAIN, TEST)
    for name, classes in (("fine", (0, 1, 2, 3)), ("coarse", (0, 0, 1, 1))):
        for split in ("train", "test"):
            for label, linked in enumerate(classes):
                folder = tmp_path / name / split / f"c{linked}"
                folder.mkdir(parents=True, exist_ok=True)
                for file in (tree / split / f"c{label}").iterdir():
                    (folder / f"{label}-{file.name}").symlink_to(file)
    fine, coarse = (load(f"split-{tmp_path}/{name}") for name in ("fine", "coarse"))
    assert (fine.classes, coarse.classes) == (4, 2)
    assert fine.fingerprint != coarse.fingerprint


@pytest.mark.parametrize("left", ["train-00000-of-00001.parquet", "train.parquet"])
def test_files_of_two_exports(tmp_path, left: str) -> None:
    """Images twice, and validation images among those trained on."""
    folder = write_parquet_folder(tmp_path / "own", TRAIN, TEST)
    (folder / "train-00000-of-00001.parquet").rename(folder / left)
    for number in (0, 1):
        write_parquet(folder / f"train-0000{number}-of-00002.parquet", TRAIN)
    assert "has train*.parquet of several exports" in reported(f"split-{folder}")


def test_a_link_to_nowhere_is_named(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    link = tree / "test" / "c2" / "0007.png"
    link.unlink()
    link.symlink_to(tmp_path / "gone.png")
    assert reported(f"split-{tree}") == (
        f"cannot read {link}: No such file or directory; check the file and its permissions"
    )


def test_a_folder_that_is_called_digits_is_not_the_digits(tmp_path) -> None:
    folder = write_tree(tmp_path / "digits", TRAIN, TEST)
    assert load(f"rotated-{folder}").angle == 9
    assert defaults(f"rotated-{folder}") == defaults("rotated-cifar10")


def test_names_of_files_that_are_no_utf_8(tmp_path) -> None:
    plain = load(f"split-{write_tree(tmp_path / 'tree', TRAIN, TEST)}")
    file = tmp_path / "tree" / "train" / "c1" / "0010.png"
    file.rename(file.with_name(os.fsdecode(b"0010\xff.png")))
    assert same_bits(plain, load(f"split-{tmp_path / 'tree'}"))


@pytest.mark.parametrize("kept", [0, 30, 60, -30])
def test_a_damaged_image_in_a_tree_is_named(tmp_path, kept: int) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    file = tree / "test" / "c2" / "0007.png"
    file.write_bytes(file.read_bytes()[:kept])
    line = reported(f"split-{tree}")
    assert line.startswith(f"{file}: damaged image (")
    assert line.endswith("); replace it or take it out")


def test_a_damaged_jpeg_in_a_parquet_file_is_named(tmp_path) -> None:
    file = write_parquet_folder(tmp_path, TRAIN, TEST) / "test-00000-of-00001.parquet"
    whole = encoded(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8), "JPEG")
    write_columns(file, {"image": [whole, whole[:-60]], "label": [0, 1]})
    line = reported(f"split-{tmp_path}")
    assert line.startswith(f"{file} row 1: damaged image (")


@settings(max_examples=60, deadline=None)
@given(place=st.integers(8, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_of_a_png_gives_the_same_pixels_or_is_told(place: int, flip: int) -> None:
    content = bytearray(encoded(TRAIN[0][0]))
    content[place % len(content)] ^= flip
    with suppress(UserError):
        images, _ = stacked([Picture("here", bytes(content), 0)], 1)
        assert np.array_equal(images[0].transpose(1, 2, 0), TRAIN[0][0])


def test_images_of_unequal_sizes_and_kinds(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    first, odd = tree / "train" / "c0" / "0000.png", tree / "train" / "c3" / "0030.png"
    advice = "bring all images to one size and kind"
    for image, kind in ((np.zeros((6, 6, 3)), "6×6 colour"), (np.zeros((6, 5)), "5×6 grey")):
        odd.write_bytes(encoded(image.astype(np.uint8)))
        line = f"{odd}: the image is {kind}, but {first} is 5×6 colour; {advice}"
        assert reported(f"split-{tree}") == line


def test_images_with_16_bits(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    file = tree / "train" / "c0" / "0000.png"
    file.write_bytes(encoded(np.zeros((6, 5), dtype=np.uint16)))
    line = f"{file}: pixels of kind 'I;16'; save the image with 8 bits a channel"
    assert reported(f"split-{tree}") == line


def test_splits_of_unequal_sizes(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, random_split(2, 3, shape=(8, 5, 3)))
    assert reported(f"split-{tree}") == (
        f"{tree}: training images are 5×6 with 3 channels, test images 5×8 with 3 channels; "
        "resize them to one size"
    )


def test_classes_that_differ_between_train_and_test(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, random_split(2, 3, classes=3))
    assert reported(f"split-{tree}") == (
        f"class 'c3' is in {tree}/train but not in {tree}/test; give both the same classes"
    )
    parquet = write_parquet_folder(tmp_path / "parquet", TRAIN, random_split(2, 3, classes=5))
    assert reported(f"split-{parquet}") == (
        f"{parquet}: class 4 is in only one of train and test; give both splits the same classes"
    )


def test_a_class_folder_without_images(tmp_path) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    for split in ("train", "test"):
        (tree / split / "empty").mkdir()
    assert reported(f"split-{tree}") == (
        f"{tree}/train/empty has no images: add some, or remove the folder from both splits"
    )


def test_labels_with_gaps(tmp_path) -> None:
    for first in (1, -1):
        split = TRAIN[0], np.where(TRAIN[1] == 0, first * 9, TRAIN[1])
        folder = write_parquet_folder(tmp_path / f"own{first}", split, TEST)
        low, high = (1, 9) if first == 1 else (-9, 3)
        assert reported(f"split-{folder}") == (
            f"{folder}: the training labels are 4 numbers from {low} to {high}; number the classes "
            "0 to 3 without gaps"
        )


def test_too_few_classes_or_images(tmp_path) -> None:
    one = write_tree(tmp_path / "one", *(random_split(s, 3, classes=1) for s in (1, 2)))
    assert reported(f"split-{one}") == f"{one}: only one class; a benchmark needs at least 2"
    few = write_tree(tmp_path / "few", *(random_split(s, 1) for s in (1, 2)))
    assert reported(f"split-{few}") == (
        f"{few}: class 0 has one training image; it needs at least 2, for training and for "
        "validation"
    )
    empty = write_parquet_folder(tmp_path / "empty", TRAIN, (TEST[0][:0], TEST[1][:0]))
    assert reported(f"split-{empty}") == f"{empty}: the test split has no images; add some"


def test_bad_files_leave_nothing_in_the_cache(tmp_path, own_cache) -> None:
    tree = write_tree(tmp_path / "tree", TRAIN, TEST)
    (tree / "train" / "c0" / "0000.png").write_bytes(b"")
    reported(f"split-{tree}")
    left = [file for file in own_cache.rglob("*") if file.is_file()]
    assert all(file.name.endswith(".lock") for file in left)
