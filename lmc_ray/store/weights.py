"""The weights of kept minima: `ROOT/weights/sweep=<name>/<attempt>/<file>.safetensors`.

An attempt writes them before its tables, so that a row of `minima` that can be seen has its file.
"""

import pyarrow as pa
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import list_folder, one_line, write_whole
from lmc_ray.store.parquet import digest

FOLDER = "weights"


def uri(sweep: str, attempt: str, name: str) -> str:
    """Where an attempt keeps a file of this name, relative to the root."""
    return f"{FOLDER}/sweep={sweep}/{attempt}/{name}.safetensors"


def write(filesystem: fs.FileSystem, base: str, where: str, data: bytes) -> None:
    """Write one file.

    Raises:
        OSError: it could not be written; then no file of that name came to be.
    """
    write_whole(filesystem, f"{base}/{where}", data)


def read(filesystem: fs.FileSystem, base: str, where: str, sha256: str) -> bytes:
    """The file as it was written.

    Raises:
        UserError: it is missing, cannot be read, or is not what it was.
    """
    try:
        with filesystem.open_input_file(f"{base}/{where}") as file:
            data = file.read()
    except (OSError, pa.ArrowException) as problem:
        raise UserError(f"its file {where} cannot be read ({one_line(problem)})") from None
    if digest(data) != sha256:
        raise UserError(f"its file {where} was altered after it was written")
    return data


def listed(filesystem: fs.FileSystem, base: str) -> dict[str, int]:
    """The size of every file of weights in the root, by its place relative to the root."""
    found = list_folder(filesystem, f"{base}/{FOLDER}")
    return {file.path.removeprefix(f"{base}/"): file.size for file in found}
