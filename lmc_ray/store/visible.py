"""One table's visible rows as SQL sees them: read when a query asks, whole or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lmc_ray.store.files import DataFile, GoneError, workers
from lmc_ray.store.parquet import fetch
from lmc_ray.store.schemas import TABLES

_FORMAT = ds.ParquetFileFormat()


@dataclass(frozen=True)
class Part:
    """What is visible of one file.

    Attributes:
        file: the file.
        cells: whose rows.
        whole: whether that is all of them.
    """

    file: DataFile
    cells: frozenset[str]
    whole: bool


class VisibleRows(ds.InMemoryDataset):  # pyright: ignore[reportUntypedBaseClass]
    """A table for DuckDB, which knows pyarrow's datasets and calls `scanner` for every query.

    A plain dataset would read its files one by one while the query runs, and fail halfway when a
    compaction removes one. This one first fetches the bytes of all its files (compressed, and so
    small), which it then keeps: only that can find a file gone, and then it starts anew with the
    files that have the rows now.

    Args:
        table: its name.
        parts: its files.
        filesystem: where they lie.
        again: the parts as of now, for the same cells.
    """

    def __init__(
        self,
        table: str,
        parts: Sequence[Part],
        filesystem: fs.FileSystem,
        again: Callable[[str], Sequence[Part]],
    ) -> None:
        super().__init__(TABLES[table].schema.empty_table())
        self._table, self._parts, self._filesystem = table, parts, filesystem
        self._again = again
        self._opened: list[tuple[ds.Dataset, pc.Expression | None]] = []

    def scanner(
        self,
        columns: list[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002 - DuckDB's word
        **options: Any,
    ) -> ds.Scanner:
        """The rows of a query, or of `to_table`.

        Raises:
            UserError: a file cannot be reached.
        """
        if not self._opened:
            self._opened = self._open()
        scanners = [
            rows.scanner(columns=columns, filter=_both(keep, filter), **options)
            for rows, keep in self._opened
        ]
        if len(scanners) == 1:
            return scanners[0]
        batches = chain.from_iterable(each.to_batches() for each in scanners)
        return ds.Scanner.from_batches(batches, schema=scanners[0].projected_schema)

    def _open(self) -> list[tuple[ds.Dataset, pc.Expression | None]]:
        """The files in memory, and which of their rows to keep: of most all, in one data set."""
        files = self._fetched()
        opened = [(self._of([data for part, data in files if part.whole]), None)]
        for part, data in files:
            if not part.whole:
                opened.append((self._of([data]), pc.field("cell_id").isin(list(part.cells))))
        return opened

    def _of(self, files: Sequence[pa.Buffer]) -> ds.FileSystemDataset:
        fragments = [_FORMAT.make_fragment(data) for data in files]
        return ds.FileSystemDataset(fragments, TABLES[self._table].schema, _FORMAT)

    def _fetched(self) -> list[tuple[Part, pa.Buffer]]:
        parts = self._parts
        while True:
            try:
                with workers(self._filesystem) as pool:
                    data = list(pool.map(lambda part: fetch(self._filesystem, part.file), parts))
            except GoneError:
                parts = self._again(self._table)
            else:
                return list(zip(parts, data, strict=True))


def _both(one: pc.Expression | None, other: pc.Expression | None) -> pc.Expression | None:
    return other if one is None else one if other is None else one & other
