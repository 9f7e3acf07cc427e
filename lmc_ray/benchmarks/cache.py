"""The node's cache: arrays as ``.npy`` files that all workers of a node map into memory.

A file or folder appears under its final name whole or not at all (temporary name, fsync, rename),
so a killed builder leaves nothing that a reader can see. The lock only saves work: where the file
system has none, two builders write the same bytes twice.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lmc_ray.benchmarks import protocol
from lmc_ray.errors import UserError
from lmc_ray.home import expanded

Result = TypeVar("Result")


def root() -> Path:
    """``LMC_CACHE`` (default ``~/.cache/lmc-ray``); it need not exist yet."""
    return expanded(os.environ.get("LMC_CACHE") or "~/.cache/lmc-ray").absolute()


def place() -> Path:
    """Where this protocol version keeps its files."""
    return root() / f"protocol-{protocol.VERSION}"


@contextmanager
def _writing() -> Iterator[None]:
    """Turns a cache that cannot be written into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {root()}: {error.strerror or error}; "
            "set LMC_CACHE to a folder that you may write to and that has room"
        ) from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Holds the builders' lock of `target` (released by the system when a builder dies)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("a") as lock:
        with suppress(OSError):  # a network file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in target.parent.glob(f".{target.name}.*.tmp"):
                _remove(stale)
        yield


def read_or_build(
    target: Path, read: Callable[[Path], Result], build: Callable[[Path], None]
) -> Result:
    """What `read` makes of `target`, built first where it is missing or damaged.

    Args:
        target: final path of a file or folder.
        read: raises OSError or ValueError if what is there cannot be used.
        build: writes a whole new file or folder at the temporary path that it is given.

    Raises:
        UserError: the cache folder cannot be written.
    """
    with suppress(OSError, ValueError):
        return read(target)
    with _writing(), _locked(target):
        with suppress(OSError, ValueError):
            return read(target)  # built by another process in the meantime
        _remove(target)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        try:
            build(temporary)
            _rename(temporary, target)
        finally:
            _remove(temporary)
        return read(target)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():  # else: built twice for want of a lock, and equal
            raise
    _sync(target.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_array(
    path: Path, shape: tuple[int, ...], dtype: str, chunks: Iterable[np.ndarray]
) -> None:
    """Writes an ``.npy`` file chunk by chunk, so that a large array is never whole in memory."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=dtype).data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a small JSON file, on disk when this returns."""
    with path.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def read_array(path: Path) -> np.ndarray:
    """An ``.npy`` file mapped copy-on-write: shared pages, and no writer can change the file.

    Raises:
        OSError: it is not there.
        ValueError: it is damaged.
    """
    try:
        return np.load(path, mmap_mode="c")
    except EOFError as error:
        raise ValueError(f"{path} is empty") from error
