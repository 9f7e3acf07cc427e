"""Whether a results root is there, and not an empty folder where it was mounted.

A file system that goes away leaves its mount point behind. Results written there would be hidden as
soon as it comes back, so a sweep writes only where it finds the flag that its driver has planted.
"""

import errno
import os

from pyarrow import fs

from lmc_ray.store.files import open_root, write_whole

FLAG = ".lmc-ray"
_TEXT = b"Sweeps of lmc-ray write to this folder only while they find this file.\n"


def plant_flag(root: str) -> None:
    """Mark a results root as one; it stays so.

    Raises:
        OSError: the root cannot be written.
    """
    filesystem, base = open_root(root)
    if not _stands(filesystem, base):
        write_whole(filesystem, f"{base}/{FLAG}", _TEXT)


def check_flag(root: str) -> None:
    """Make sure that a root with a flag is there.

    Raises:
        FileNotFoundError: it is not, or its flag is gone.
        OSError: nobody can tell: no permission, no connection.
    """
    filesystem, base = open_root(root)
    if not _stands(filesystem, base):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{base}/{FLAG}")


def _stands(filesystem: fs.FileSystem, base: str) -> bool:
    return filesystem.get_file_info(f"{base}/{FLAG}").type == fs.FileType.File
