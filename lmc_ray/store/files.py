"""The few file operations the store is made of, for every kind of file system.

A data file appears whole or not at all, and never changes afterwards:
- local disk: a temporary name that no reader looks at, fsync, rename, fsync of the folder;
- object stores: one stream, whose object exists from the moment it is closed;
- anything else that pyarrow opens: a temporary name, then the file system's own move.
"""

import os
import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.home import expanded

SUFFIX = ".parquet"
TEMPORARY = ".tmp"
COMPACTED = "compacted-"
"""How the name of every file of a compaction begins; no attempt's does."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
_SECRET = re.compile("key|secret|token|password|credential|signature", re.IGNORECASE)


_MISTAKEN = (PermissionError, FileExistsError, FileNotFoundError, NotADirectoryError)
_REFUSED = re.compile(
    "NO_SUCH_BUCKET|Bucket .* not found|ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|Forbidden"
)
"""What no second try would find otherwise; and how object stores call it."""


class GoneError(UserError):
    """A file that was listed a moment ago is no longer there: a compaction replaced it."""


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
    def table(self) -> str:
        """The table whose folder holds the file."""
        return self.path.split("/")[-3]

    @property
    def sweep(self) -> str:
        """The sweep whose folder holds the file."""
        return self.path.split("/")[-2].removeprefix("sweep=")

    @property
    def attempt(self) -> str:
        """The attempt or the compaction that wrote the file."""
        return self.path.split("/")[-1].removesuffix(SUFFIX)

    @property
    def owner(self) -> tuple[str, str]:
        """Sweep and attempt: what the files of one commit have in common."""
        return self.sweep, self.attempt

    @property
    def compacted(self) -> bool:
        """Whether a compaction wrote it, not an attempt."""
        return self.attempt.startswith(COMPACTED)


def open_root(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of a results root and the root's path in it.

    Args:
        root: a folder, or a URI such as `s3://bucket/results` or `file:///results`.

    Raises:
        UserError: no file system can be made from the URI, or it carries a secret.
        UnavailableError: the file system does not answer.
    """
    if not root:
        raise UserError("the results root is empty: give a folder or a URI such as s3://bucket/lmc")
    if not (scheme := urlsplit(root).scheme):
        return fs.LocalFileSystem(), expanded(root).absolute().as_posix()
    if _carries_secret(root):
        # A root is printed, and written into Ray's and other people's logs.
        raise UserError(
            f"the results root {scheme}://… carries a key or a password: take it out, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or what your store reads) in the "
            "environment instead"
        )
    uri = root
    if scheme == "s3" and "allow_delayed_open" not in root:
        # An object in one request, where pyarrow would start a multipart upload for every one.
        uri += ("&" if "?" in root else "?") + "allow_delayed_open=true"
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as problem:
        what = f"cannot open the results root {root}: {one_line(problem)}"
        raise kind_of(problem)(what) from None
    if not path.strip("/") and not isinstance(filesystem, fs.LocalFileSystem):
        raise UserError(f"the results root {root} names no bucket: is a variable in it empty?")
    return filesystem, path.rstrip("/")


def _carries_secret(uri: str) -> bool:
    """Whether a URI has anything in it that could be a credential, well formed or not."""
    scheme, _, rest = uri.partition("://")
    place, _, options = rest.partition("?")
    before, at, _ = place.rpartition("@")
    # `gs://anonymous@bucket` and `abfs://container@account…` name nothing secret.
    named = bool(at) and (scheme == "s3" or ":" in before)
    return named or any(_SECRET.search(name) for name, _ in parse_qsl(options, True))


def workers(filesystem: fs.FileSystem) -> ThreadPoolExecutor:
    """Threads for many small files: as many as there are cores, more where they mostly wait."""
    cores = os.cpu_count() or 1
    local = isinstance(filesystem, fs.LocalFileSystem)
    return ThreadPoolExecutor(cores if local else max(24, cores))


def one_line(problem: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(problem).split()) or type(problem).__name__


def kind_of(problem: Exception) -> type[UserError]:
    """Of error: whether the same command may find the file system willing later."""
    refused = isinstance(problem, _MISTAKEN) or _REFUSED.search(str(problem))
    away = isinstance(problem, OSError) and not refused
    return UnavailableError if away else UserError


def list_folder(filesystem: fs.FileSystem, folder: str) -> list[DataFile]:
    """Every file below a folder by path, temporary ones included; none where it is missing.

    Raises:
        UserError: the folder cannot be listed: no permission.
        UnavailableError: nor reached.
    """
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    try:
        found = [i for i in filesystem.get_file_info(selector) if i.type == fs.FileType.File]
    except OSError as problem:
        raise kind_of(problem)(f"cannot list {folder}: {one_line(problem)}") from None
    return sorted((DataFile(i.path, i.size) for i in found), key=lambda f: f.path)


def is_data(file: DataFile) -> bool:
    """Whether readers look at the file."""
    name = file.path.split("/")[-1]
    folder = file.path.split("/")[-2]
    return name.endswith(SUFFIX) and not name.startswith(".") and folder.startswith("sweep=")


def missing(filesystem: fs.FileSystem, paths: Iterable[str]) -> bool:
    """Whether any of these files is not there, as far as the file system can tell."""
    try:
        infos = filesystem.get_file_info(list(paths))
    except OSError:
        return False
    return any(info.type == fs.FileType.NotFound for info in infos)


def remove_all(filesystem: fs.FileSystem, paths: Iterable[str]) -> None:
    """Remove files; one that somebody else has removed already is fine.

    Raises:
        OSError: one could not be removed.
    """

    def remove(path: str) -> None:
        try:
            filesystem.delete_file(path)
        except OSError:
            if not missing(filesystem, [path]):
                raise

    with workers(filesystem) as pool:
        list(pool.map(remove, paths))


def write_whole(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Make a file that is whole from the moment anyone can see it, and survives a power cut.

    Raises:
        OSError: it could not be written; then no file of that name came to be.
    """
    folder, name = path.rsplit("/", 1)
    # Two writers of one name, such as two attempts at a checkpoint, must not meet in one file.
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}{TEMPORARY}"
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
        try:
            _write_stream(filesystem, temporary, data)
            filesystem.move(temporary, path)
        except OSError:
            with suppress(OSError):
                filesystem.delete_file(temporary)
            raise


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
