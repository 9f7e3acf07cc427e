"""Tasks, parts and the node's cache."""

import hashlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_sources import random_split, real_data, write_tree
from torch import Tensor

from lmc_ray.benchmarks import Benchmark, cache, defaults, describe, load, protocol, rotated
from lmc_ray.benchmarks.gather import gathered
from lmc_ray.errors import UserError

PARTS = ("train", "validation", "full", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def big_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("big-cache")


@pytest.fixture
def flowers(tmp_path: Path) -> str:
    train, test = random_split(1, per_class=20), random_split(2, per_class=5)
    return str(write_tree(tmp_path / "flowers", train, test))


def rows(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def bits(benchmark: Benchmark) -> str:
    """A hash of everything that a benchmark gives out."""
    digest = hashlib.sha256()
    for task in range(1, benchmark.tasks + 1):
        for part in PARTS:
            examples = benchmark.examples(task, part)
            digest.update(examples.images.numpy().tobytes())
            digest.update(examples.labels.numpy().tobytes())
    return digest.hexdigest()


def reported(call, *arguments, **options) -> str:
    """The one line that a mistake is reported with."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Rotation and permutation


def torchvision_index(height: int, width: int, degrees: float) -> np.ndarray:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    places = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    turned = rotate(places, degrees, interpolation=InterpolationMode.NEAREST)
    return turned.long().flatten().numpy() - 1


@pytest.mark.parametrize("size", [8, 28, 32])
def test_rotation_is_torchvisions_for_all_whole_degrees(size: int) -> None:
    for degrees in map(float, range(360)):
        ours = rotated.index_map(size, size, degrees)
        assert np.array_equal(ours, torchvision_index(size, size, degrees)), degrees


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    degrees=st.floats(0, 360, allow_nan=False) | st.integers(0, 24).map(lambda k: 15.0 * k),
)
@example(height=7, width=7, degrees=60.0)  # pixels half-way between two others
@example(height=28, width=28, degrees=45.0)
def test_rotation_is_torchvisions_for_any_angle_and_size(height, width, degrees) -> None:
    ours = rotated.index_map(height, width, degrees)
    assert np.array_equal(ours, torchvision_index(height, width, degrees))


def test_rotated_images_are_torchvisions_rotated_images() -> None:
    from torchvision.transforms.functional import rotate

    benchmark = load("rotated-digits", tasks=5, angle=30.0)
    for part in PARTS:
        upright = benchmark.examples(1, part).images
        for task in range(2, 6):
            turned = rotate(upright, (task - 1) * 30.0)
            assert torch.equal(benchmark.examples(task, part).images, turned)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 3, 3)
    (turned,) = gathered(image, rotated.index_map(3, 3, 90.0))
    assert turned.reshape(3, 3).tolist() == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]


def test_pixels_from_outside_the_image_are_black() -> None:
    image = np.full((2, 3, 9, 9), 200, dtype=np.uint8)
    (turned,) = gathered(image, rotated.index_map(9, 9, 45.0))
    assert turned.shape == (2, 3, 81)
    assert set(np.unique(turned)) == {0, 200}
    assert (turned.reshape(2, 3, 9, 9)[:, :, [0, 0, 8, 8], [0, 8, 0, 8]] == 0).all()


@given(pixels=st.integers(1, 900), task=st.integers(2, 1000))
def test_permutations_are_bijections(pixels: int, task: int) -> None:
    order = protocol.shuffled(pixels, "pixels", task)
    assert np.array_equal(np.sort(order), np.arange(pixels))


def test_permuted_tasks_move_the_pixels_of_every_image_alike(flowers: str) -> None:
    benchmark = load(f"permuted-{flowers}", tasks=3)
    first = benchmark.examples(1, "full").images
    orders = []
    for task in (2, 3):
        moved = benchmark.examples(task, "full").images
        # A pixel's place is known by its values over all images; they are random here.
        old = {
            column: place for place, column in enumerate(rows(first.flatten(2).permute(2, 0, 1)))
        }
        order = [old[column] for column in rows(moved.flatten(2).permute(2, 0, 1))]
        assert sorted(order) == list(range(30))
        assert order != sorted(order)
        orders.append(order)
        assert torch.equal(moved.flatten(2), first.flatten(2)[:, :, order])
    assert orders[0] != orders[1]


def test_the_first_task_is_neither_rotated_nor_permuted() -> None:
    from sklearn.datasets import load_digits

    original = {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    for name in ("rotated-digits", "permuted-digits"):
        benchmark = load(name)
        found = set()
        for part in ("full", "test"):
            examples = benchmark.examples(1, part)
            found |= set(zip(rows(examples.images), examples.labels.tolist(), strict=True))
        assert found == original


# Parts


def test_digits_have_the_parts_of_the_protocol() -> None:
    benchmark = load("rotated-digits")
    sizes = {part: len(benchmark.examples(1, part).labels) for part in PARTS}
    assert sizes == {"train": 1257, "validation": 180, "full": 1437, "test": 360}
    assert (benchmark.classes, benchmark.image_shape) == (10, (1, 8, 8))
    for part, size in sizes.items():
        shares = torch.bincount(benchmark.examples(1, part).labels) / size
        whole = torch.bincount(benchmark.examples(1, "full").labels) / sizes["full"]
        assert (shares - whole).abs().max() < 0.01


@pytest.mark.parametrize(("family", "tasks"), [("rotated", 2), ("split", 5), ("split", 2)])
def test_the_smallest_class_of_the_tasks(family: str, tasks: int) -> None:
    benchmark = load(f"{family}-digits", tasks=tasks)
    labels = torch.cat([benchmark.examples(t, "train").labels for t in range(1, tasks + 1)])
    copies = tasks if family == "rotated" else 1
    assert benchmark.smallest_class == int(labels.unique(return_counts=True)[1].min()) // copies


@pytest.mark.parametrize("name", ["rotated-digits", "permuted-digits", "split-digits"])
def test_full_is_train_then_validation_without_a_copy(name: str) -> None:
    benchmark = load(name)
    for task in range(1, benchmark.tasks + 1):
        train, validation, full = (benchmark.examples(task, part) for part in PARTS[:3])
        assert torch.equal(torch.cat([train.images, validation.images]), full.images)
        assert torch.equal(torch.cat([train.labels, validation.labels]), full.labels)
        for examples in (train, validation, full):
            base = examples.images._base
            assert base is not None
            assert len(base) == len(full.images)
            assert examples.images.is_contiguous()


@pytest.mark.parametrize("name", ["rotated", "permuted", "split"])
def test_parts_are_disjoint_and_stratified(name: str, flowers: str) -> None:
    benchmark = load(f"{name}-{flowers}", tasks=2)
    for task in (1, 2):
        sets = {part: set(rows(benchmark.examples(task, part).images)) for part in PARTS}
        assert not sets["train"] & sets["validation"]
        assert not sets["full"] & sets["test"]
        for part, per_class in (("train", 18), ("validation", 2), ("full", 20), ("test", 5)):
            labels = benchmark.examples(task, part).labels
            counts = torch.bincount(labels, minlength=4)
            present = benchmark.task_classes(task) or range(4)
            assert [int(counts[c]) for c in present] == [per_class] * len(present)
            assert int(counts.sum()) == per_class * len(present)


def test_an_image_is_held_out_in_all_tasks_or_in_none(flowers: str) -> None:
    plain = load(f"permuted-{flowers}", tasks=2)
    held_out = set(rows(plain.examples(1, "validation").images))
    tasks = load(f"split-{flowers}")
    split = [image for t in (1, 2) for image in rows(tasks.examples(t, "validation").images)]
    assert set(split) == held_out
    for part in PARTS:
        assert torch.equal(plain.examples(1, part).labels, plain.examples(2, part).labels)


def test_parts_lie_in_a_shuffled_order_not_by_class() -> None:
    for name in ("rotated-digits", "split-digits"):
        for part in PARTS:
            labels = load(name).examples(1, part).labels
            changes = (labels[1:] != labels[:-1]).float().mean()
            assert changes > 0.35


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=12),
    share=st.floats(0.05, 0.5),
)
def test_stratified_choices_are_in_proportion(counts: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = round(share * len(labels))
    chosen = np.bincount(labels[protocol.stratified(labels, wanted, "test")], minlength=len(counts))
    for got, size in zip(chosen, counts, strict=True):
        exact = size * wanted / len(labels)
        assert max(1, math.floor(exact)) <= got <= max(1, math.ceil(exact))
    if chosen.min() > 1:
        assert chosen.sum() == wanted


def test_split_tasks_hold_consecutive_classes_with_global_labels() -> None:
    benchmark = load("split-digits")
    assert (benchmark.tasks, benchmark.classes) == (5, 10)
    for task in range(1, 6):
        assert benchmark.task_classes(task) == [2 * task - 2, 2 * task - 1]
        for part in PARTS:
            present = benchmark.examples(task, part).labels.unique().tolist()
            assert present == benchmark.task_classes(task)


def test_split_tasks_together_are_the_whole_source() -> None:
    tasks, whole = load("split-digits"), load("rotated-digits")
    for part in PARTS:
        parts = [row for task in range(1, 6) for row in rows(tasks.examples(task, part).images)]
        assert sorted(parts) == sorted(rows(whole.examples(1, part).images))


def test_rotated_and_permuted_tasks_use_all_classes() -> None:
    assert load("rotated-digits").task_classes(2) is None
    assert load("permuted-digits").task_classes(2) is None


# The protocol's choices never change by accident


def test_the_protocol_is_frozen() -> None:
    benchmark = load("rotated-digits", tasks=3, angle=30.0)
    assert protocol.VERSION == 1
    assert benchmark.fingerprint[:16] == "203b0175e98ce1d0"
    assert bits(benchmark)[:16] == "050719f27a7a6d8c"
    assert bits(load("permuted-digits", tasks=3))[:16] == "ed622f56c2e27190"
    assert bits(load("split-digits"))[:16] == "8db7b740decd36a9"


# Options and descriptions


@pytest.mark.parametrize(
    ("name", "tasks", "angle", "classes_per_task", "network"),
    [
        ("rotated-mnist", 20, 9.0, None, "mlp-256-256"),
        ("permuted-fashion-mnist", 20, None, None, "mlp-256-256"),
        ("split-cifar100", 20, None, 5, "resnet18-20"),
        ("split-cifar10", 5, None, 2, "resnet18-20"),
        ("split-mnist", 5, None, 2, "mlp-256-256"),
    ],
)
def test_defaults(name, tasks, angle, classes_per_task, network) -> None:
    chosen = defaults(name)
    assert (chosen.tasks, chosen.angle, chosen.classes_per_task) == (tasks, angle, classes_per_task)
    assert (chosen.network, chosen.epochs) == (network, 1)


def test_a_benchmark_has_its_defaults() -> None:
    for name in ("rotated-digits", "permuted-digits", "split-digits"):
        benchmark, chosen = load(name), defaults(name)
        assert (benchmark.tasks, benchmark.angle) == (chosen.tasks, chosen.angle)
        assert benchmark.classes_per_task == chosen.classes_per_task


def test_defaults_of_own_images(flowers: str) -> None:
    chosen = defaults(f"split-{flowers}")
    assert (chosen.tasks, chosen.classes_per_task, chosen.network) == (2, 2, "resnet18-20")


def test_a_misspelt_folder_of_own_images(flowers: str) -> None:
    with pytest.raises(UserError, match="did you mean 'split-flowers'"):
        load("split-flower", data=str(Path(flowers).parent))


def test_describe_lists_every_name_and_agrees_with_defaults() -> None:
    lines = {info.name: info for info in describe()}
    assert len(lines) == 15
    for name, info in lines.items():
        assert (info.tasks, info.network) == (defaults(name).tasks, defaults(name).network)
        assert 1 <= info.tasks <= info.most_tasks
    assert lines["split-cifar100"].most_tasks == 20
    assert lines["rotated-mnist"].most_tasks == 40
    assert lines["rotated-digits"].image_shape == (1, 8, 8)


def test_no_rotation_comes_twice() -> None:
    """360 / (360 / 161) is a little more than 161."""
    assert load("rotated-digits", angle=360 / 161, tasks=161).tasks == 161
    with pytest.raises(UserError, match="161"):
        load("rotated-digits", angle=360 / 161, tasks=162)


def test_describe_agrees_with_what_is_loaded() -> None:
    info = {info.name: info for info in describe()}["split-digits"]
    benchmark = load("split-digits")
    assert (benchmark.classes, benchmark.image_shape) == (info.classes, info.image_shape)


def test_fewer_classes_and_tasks_can_be_asked_for() -> None:
    benchmark = load("split-digits", classes_per_task=3)
    assert (benchmark.tasks, benchmark.task_classes(3)) == (3, [6, 7, 8])
    benchmark = load("split-digits", tasks=2)
    assert (benchmark.tasks, benchmark.task_classes(2)) == (2, [2, 3])


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("rotated-mnits", {}, "unknown benchmark 'rotated-mnits': did you mean 'rotated-mnist'? "
         "(images of your own: rotated-/path/to/folder)"),
        ("rotate-mnist", {}, "unknown benchmark 'rotate-mnist': did you mean 'rotated-mnist'?"),
        ("mnist", {}, "unknown benchmark 'mnist': did you mean 'split-mnist'?"),
        ("split-", {}, "unknown benchmark 'split-': did you mean 'split-mnist'?"),
        ("rotated-digits", {"tasks": 0}, "rotated-digits: tasks must be 1 to 12, got 0"),
        ("rotated-digits", {"tasks": 13}, "rotated-digits: tasks must be 1 to 12, got 13"),
        ("rotated-digits", {"tasks": -1}, "rotated-digits: tasks must be 1 to 12, got -1"),
        ("split-digits", {"tasks": 6}, "split-digits: tasks must be 1 to 5, got 6"),
        ("permuted-digits", {"tasks": 1001}, "permuted-digits: tasks must be 1 to 1000, got 1001"),
        ("rotated-digits", {"angle": 0.0},
         "rotated-digits: angle must be more than 0 and less than 360 degrees, got 0.0"),
        ("rotated-digits", {"angle": math.nan},
         "rotated-digits: angle must be more than 0 and less than 360 degrees, got nan"),
        ("split-digits", {"angle": 9.0},
         "split-digits has no angle: leave it out, or use a rotated benchmark"),
        ("rotated-digits", {"classes_per_task": 2},
         "rotated-digits has no classes per task: leave them out, or use a split benchmark"),
        ("split-digits", {"classes_per_task": 1},
         "split-digits: classes per task must be 2 to 10, got 1"),
        ("split-digits", {"classes_per_task": 0},
         "split-digits: classes per task must be 2 to 10, got 0"),
        ("split-digits", {"classes_per_task": 11},
         "split-digits: classes per task must be 2 to 10, got 11"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(name: str, options: dict, line: str) -> None:
    assert reported(load, name, **options) == line


def test_a_task_that_does_not_exist_is_our_bug() -> None:
    benchmark = load("split-digits")
    for task in (0, 6):
        with pytest.raises(ValueError, match="split-digits has tasks 1 to 5"):
            benchmark.examples(task, "train")
        with pytest.raises(ValueError, match="split-digits has tasks 1 to 5"):
            benchmark.task_classes(task)


# The cache


def files_in(folder: Path) -> list[str]:
    """Names of all files that a reader of the cache can see."""
    return sorted(file.name for file in folder.rglob("*") if not file.name.startswith("."))


def test_tasks_are_built_when_first_asked_for(own_cache: Path) -> None:
    benchmark = load("rotated-digits", angle=30.0)
    assert not [name for name in files_in(own_cache) if name.startswith("rotated")]
    benchmark.examples(3, "validation")
    benchmark.examples(3, "train")
    built = [name for name in files_in(own_cache) if name.startswith("rotated")]
    assert built == ["rotated-60.0-train.npy"]


@pytest.mark.parametrize("name", ["rotated-digits", "permuted-digits", "split-digits"])
def test_a_second_load_gives_the_same_bits_without_decoding(name: str, own_cache: Path) -> None:
    first = load(name)
    before = bits(first)
    times = {file: file.stat().st_mtime_ns for file in own_cache.rglob("*")}
    second = load(name)
    assert second == first
    assert bits(second) == before
    assert {file: file.stat().st_mtime_ns for file in own_cache.rglob("*")} == times


def test_a_complete_cache_is_not_written_to(own_cache: Path, monkeypatch) -> None:
    before = bits(load("rotated-digits"))

    def refuse(*_) -> None:
        raise AssertionError("wrote to a complete cache")

    monkeypatch.setattr(cache, "_locked", refuse)
    assert bits(load("rotated-digits")) == before


def test_writing_to_a_tensor_changes_neither_file_nor_other_readers() -> None:
    benchmark = load("rotated-digits")
    examples = benchmark.examples(2, "train")
    before = bits(benchmark)
    examples.images.fill_(7)
    examples.labels.fill_(7)
    assert bits(benchmark) == before


def test_a_benchmark_can_be_pickled_small() -> None:
    benchmark = load("rotated-digits")
    content = pickle.dumps(benchmark)
    assert len(content) < 2000
    assert bits(pickle.loads(content)) == bits(benchmark)


@pytest.mark.parametrize("damage", ["truncated", "empty", "removed"])
@pytest.mark.parametrize("pattern", ["images-train", "labels-test", "rotated-30.0-train", "index"])
def test_a_damaged_cache_is_built_again(own_cache: Path, pattern: str, damage: str) -> None:
    before = bits(load("rotated-digits", angle=30.0))
    if pattern == "index":
        (file,) = own_cache.rglob("index/*.json")
    else:
        (file,) = own_cache.rglob(f"{pattern}.npy")
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else -1])
    assert bits(load("rotated-digits", angle=30.0)) == before


def test_an_unwritable_cache_is_told_in_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMC_CACHE", str(tmp_path / "file" / "cache"))
    assert reported(load, "rotated-digits") == (
        f"cannot write to the cache folder {tmp_path}/file/cache: Not a directory; "
        "set LMC_CACHE to a folder that you may write to and that has room"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to run out of space")
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(own_cache: Path) -> None:
    target = own_cache / "array.npy"

    def build(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        cache.write_array(temporary, (1 << 20,), "uint8", [np.zeros(1 << 20, dtype=np.uint8)])

    line = reported(cache.read_or_build, target, cache.read_array, build)
    assert "No space left on device; set LMC_CACHE to a folder" in line
    assert files_in(own_cache) == []
    assert list(own_cache.glob("*.tmp")) == []


def test_builders_at_once_build_once(own_cache: Path) -> None:
    builds = []

    def build(temporary: Path) -> None:
        builds.append(temporary)
        time.sleep(0.05)
        cache.write_array(temporary, (3,), "uint8", [np.arange(3, dtype=np.uint8)])

    def read() -> None:
        array = cache.read_or_build(own_cache / "array.npy", cache.read_array, build)
        results.append(array.tolist())

    results: list[list[int]] = []
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[0, 1, 2]] * 8
    assert len(builds) == 1


def test_processes_that_build_at_once_agree(own_cache: Path, flowers: str) -> None:
    script = (
        "import sys, hashlib; from lmc_ray.benchmarks import load\n"
        "b = load(sys.argv[1], tasks=12)\n"
        "h = hashlib.sha256()\n"
        "for t in range(1, 13): h.update(b.examples(t, 'full').images.numpy().tobytes())\n"
        "print(h.hexdigest())"
    )
    command = [sys.executable, "-c", script, f"rotated-{flowers}"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1
    assert not [file for file in own_cache.rglob("*") if file.name.endswith(".tmp")]


def test_a_killed_builder_leaves_nothing_visible(own_cache: Path) -> None:
    target = own_cache / "array.npy"
    script = (
        "import pathlib, sys, time\n"
        "from lmc_ray.benchmarks import cache\n"
        "def build(temporary):\n"
        "    temporary.write_bytes(b'half')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "cache.read_or_build(pathlib.Path(sys.argv[1]), cache.read_array, build)"
    )
    command = [sys.executable, "-c", script, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "half\n"
        os.kill(builder.pid, signal.SIGKILL)
    assert files_in(own_cache) == []
    assert len(list(own_cache.glob(".*.tmp"))) == 1

    def build(temporary: Path) -> None:
        cache.write_array(temporary, (1,), "uint8", [np.ones(1, dtype=np.uint8)])

    assert cache.read_or_build(target, cache.read_array, build).tolist() == [1]
    assert list(own_cache.glob(".*.tmp")) == []


# The real MNIST and CIFAR-100


def test_rotated_mnist(big_cache: Path, monkeypatch) -> None:
    from torchvision.datasets import MNIST
    from torchvision.transforms.functional import rotate

    data = real_data("MNIST/raw/train-images-idx3-ubyte")
    monkeypatch.setenv("LMC_CACHE", str(big_cache))
    benchmark = load("rotated-mnist", data=data)
    assert (benchmark.tasks, benchmark.classes, benchmark.image_shape) == (20, 10, (1, 28, 28))
    assert benchmark.fingerprint[:16] == "11c28a19961da725"
    sizes = {part: len(benchmark.examples(1, part).labels) for part in PARTS}
    assert sizes == {"train": 54000, "validation": 6000, "full": 60000, "test": 10000}
    originals = MNIST(data, train=False)
    turned = rotate(originals.data[:, None], 19 * 9.0)
    expected = zip(rows(turned), originals.targets.tolist(), strict=True)
    last = benchmark.examples(20, "test")
    assert sorted(expected) == sorted(zip(rows(last.images), last.labels.tolist(), strict=True))


def test_split_cifar100(big_cache: Path, monkeypatch) -> None:
    data = real_data("cifar100/train-00000-of-00001.parquet")
    monkeypatch.setenv("LMC_CACHE", str(big_cache))
    benchmark = load("split-cifar100", data=data)
    assert (benchmark.tasks, benchmark.classes, benchmark.image_shape) == (20, 100, (3, 32, 32))
    assert benchmark.fingerprint[:16] == "a9b95f19c6cd08a6"
    for task in (1, 20):
        sizes = {part: len(benchmark.examples(task, part).labels) for part in PARTS}
        assert sizes == {"train": 2250, "validation": 250, "full": 2500, "test": 500}
        counts = torch.bincount(benchmark.examples(task, "validation").labels)
        assert counts[counts > 0].tolist() == [50] * 5
    assert load("split-cifar100", data=f"{data}/cifar100") == benchmark
