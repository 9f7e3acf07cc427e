"""What unfinished packs have learned, in the results root, where every worker finds it.

Not Tune's own checkpoints: those are lost with the driver, and a root that is away for a moment
fails the trial. These are only a saving of work: a pack without one starts anew, to the same end,
and so does a block that is packed with others after a restart. Two attempts of one pack may write
the same one: either state leads to the same numbers.
"""

import hashlib
import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs

from lmc_ray.store.files import open_root, write_whole
from lmc_ray.store.presence import check_flag
from lmc_ray.sweep.cells import Pack
from lmc_ray.version import version

FOLDER = ".checkpoints"


class Checkpoints:
    """The checkpoints of one sweep: `ROOT/.checkpoints/<sweep>/<study>-<pack>.pt`."""

    def __init__(self, root: str, sweep: str) -> None:
        self._root = root
        self._filesystem, base = open_root(root)
        self._all = f"{base}/{FOLDER}"
        self._folder = f"{self._all}/{sweep}"

    def save(self, pack: Pack, state: dict[str, Any]) -> None:
        """Keep a state in place of the pack's earlier one.

        Raises:
            OSError: it could not be written; the earlier one is still there.
        """
        data = io.BytesIO()
        torch.save(state, data)
        check_flag(self._root)
        write_whole(self._filesystem, self._path(pack), data.getvalue())

    def load(self, pack: Pack) -> dict[str, Any] | None:
        """The pack's last state; None if there is none, or none that can be reached."""
        try:
            with self._filesystem.open_input_file(self._path(pack)) as file:
                data = file.read()
        except OSError:
            return None
        try:
            return torch.load(io.BytesIO(data), weights_only=False)
        except Exception:  # whatever is wrong with it: it only saves work
            return None

    def remove(self, pack: Pack) -> None:
        """Forget the pack: it is committed."""
        with suppress(OSError):
            self._filesystem.delete_file(self._path(pack))

    def clear(self, studies: Iterable[tuple[str, str]]) -> None:
        """Forget these studies, by benchmark and name: they are done. All others keep theirs."""
        done = {_hashed(*study) for study in studies}
        with suppress(OSError):
            files = self._filesystem.get_file_info(fs.FileSelector(self._folder))
            for file in files:
                if _study(file) in done:
                    self._filesystem.delete_file(file.path)
            if all(_study(file) in done for file in files):
                self._filesystem.delete_dir(self._folder)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            with suppress(OSError):
                Path(self._all).rmdir()  # unless it holds another sweep's

    def _path(self, pack: Pack) -> str:
        # The limits and the code are part of it: others would have led elsewhere.
        blocks = [([cell.id for cell in block.cells], block.prune_below) for block in pack.blocks]
        study = _hashed(pack.cells[0].place.benchmark, pack.blocks[0].study)
        return f"{self._folder}/{study}-{_hashed(blocks, version())}.pt"


def _study(file: fs.FileInfo) -> str:
    """Whose checkpoint it is, also of one that was torn while it was written."""
    return file.base_name.removeprefix(".").partition("-")[0]


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
