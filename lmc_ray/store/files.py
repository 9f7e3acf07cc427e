"""The few file operations the store is made of, for every kind of file system.

A data file appears whole or not at all, and never changes afterwards:
- local disk: a temporary name that no reader looks at, fsync, rename, fsync of the folder;
- object stores: one stream, whose object exists from the moment it is closed;
- anything else that pyarrow opens: a temporary name, then the file system's own move.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from lmc_ray.errors import UserError

SUFFIX = ".parquet"
TEMPORARY = ".tmp"
_OBJECT_STORES = ("s3", "gcs", "abfs")


@dataclass(frozen=True)
class DataFile:
    """A file of the root, as a listing shows it.

    Attributes:
        path: where it lies, in the file system's own notation.
        size: bytes.
    """

    path: str
    size: int

    @property
    def sweep(self) -> str:
        """The sweep whose folder holds the file."""
        return self.path.split("/")[-2].removeprefix("sweep=")

    @property
    def attempt(self) -> str:
        """The attempt that wrote the file."""
        return self.path.split("/")[-1].removesuffix(SUFFIX)


def open_root(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a results root and the root's path in it.

    Args:
        root: a folder, or a URI such as `s3://bucket/results` or `file:///results`.

    Raises:
        UserError: no file system can be made from the URI.
    """
    if not root:
        raise UserError("the results root is empty: give a folder or a URI such as s3://bucket/lmc")
    if not urlsplit(root).scheme:
        return fs.LocalFileSystem(), Path(root).expanduser().absolute().as_posix()
    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (OSError, ValueError, pa.ArrowException) as problem:
        raise UserError(f"cannot open the results root {root}: {one_line(problem)}") from None
    return filesystem, path.rstrip("/")


def one_line(problem: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(problem).split()) or type(problem).__name__


def list_folder(filesystem: fs.FileSystem, folder: str) -> list[DataFile]:
    """Every file below a folder by path, temporary ones included; none where it is missing.

    Raises:
        UserError: the folder cannot be listed: no permission, no connection.
    """
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    try:
        found = [i for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
    except OSError as problem:
        raise UserError(f"cannot list {folder}: {one_line(problem)}") from None
    return sorted((DataFile(i.path, i.size) for i in found), key=lambda f: f.path)


def is_data(file: DataFile) -> bool:
    """Whether readers look at the file."""
    name = file.path.split("/")[-1]
    folder = file.path.split("/")[-2]
    return name.endswith(SUFFIX) and not name.startswith(".") and folder.startswith("sweep=")


def write_whole(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Make a file that is whole from the moment anyone can see it, and survives a power cut.

    Raises:
        OSError: it could not be written; then no file of that name came to be.
    """
    folder, name = path.rsplit("/", 1)
    temporary = f"{folder}/.{name}{TEMPORARY}"
    if isinstance(filesystem, fs.LocalFileSystem):
        _make_folder(Path(folder))
        try:
            with Path(temporary).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            with suppress(OSError):
                Path(temporary).unlink()  # on a full disk it would take the room that is missing
            raise
        _sync_folder(Path(folder))
    elif filesystem.type_name in _OBJECT_STORES:
        _write_stream(filesystem, path, data)
    else:
        filesystem.create_dir(folder, recursive=True)
        _write_stream(filesystem, temporary, data)
        filesystem.move(temporary, path)


def _write_stream(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    # No `with`: leaving it on an error would close the stream, and closing is what publishes.
    stream = filesystem.open_output_stream(path)
    stream.write(data)
    stream.close()


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
