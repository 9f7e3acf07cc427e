"""What is visible in a results root at one moment: one whole row set per cell.

Files are immutable and the marks are listed before the files they mark, so a snapshot stays true
while others write: it may be a moment old, never half of something.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import DataFile, is_data, list_folder
from lmc_ray.store.parquet import Content, Damaged, Written, read, read_all
from lmc_ray.store.schemas import CELL_TABLES, TABLES

_log = logging.getLogger(__name__)

Owner = tuple[str, str]  # sweep, attempt


@dataclass(frozen=True)
class Snapshot:
    """The visible rows of every cell.

    Attributes:
        runs: one row per visible cell.
        tables: the other tables of cells, read from their files when somebody asks.
    """

    runs: pa.Table
    tables: Mapping[str, ds.Dataset]


def cells(filesystem: fs.FileSystem, base: str, sweep: str | None) -> Snapshot:
    """The cells that can be seen of one sweep, or of all.

    Raises:
        UserError: a file comes from a newer lmc-ray or cannot be reached.
    """
    marks, damaged = read_all(filesystem, "runs", data_files(filesystem, base, "runs", sweep))
    files = {
        table: {(f.sweep, f.attempt): f for f in data_files(filesystem, base, table, sweep)}
        for table in CELL_TABLES
    }
    whole = []
    for mark in marks:
        torn = _torn(filesystem, mark, files)
        damaged += torn
        if not torn:
            whole.append(mark)
    _warn(damaged)
    runs = _first_of("runs", [mark.rows for mark in whole])
    tables = {
        table: _cell_table(filesystem, table, files[table], whole, runs) for table in CELL_TABLES
    }
    return Snapshot(runs, tables)


def loose(filesystem: fs.FileSystem, base: str, table: str, sweep: str | None) -> pa.Table:
    """The visible rows of a table without cells, of one sweep or of all; the same errors."""
    found, damaged = read_all(filesystem, table, data_files(filesystem, base, table, sweep))
    _warn(damaged)
    return _first_of(table, [content.rows for content in found])


def data_files(
    filesystem: fs.FileSystem, base: str, table: str, sweep: str | None
) -> list[DataFile]:
    """The files of a table that readers look at."""
    folder = f"{base}/{table}" if sweep is None else f"{base}/{table}/sweep={sweep}"
    return [file for file in list_folder(filesystem, folder) if is_data(file)]


def _first_of(table: str, parts: list[pa.Table]) -> pa.Table:
    """For every key of a sweep the row of the smallest attempt."""
    rows = pa.concat_tables([TABLES[table].schema.empty_table(), *parts])
    key = ["sweep", *TABLES[table].key]
    order = [*key, "attempt"]
    number = pa.array(range(len(rows)), pa.int64())
    numbered = pa.table({name: rows[name] for name in order} | {"row": number})
    ordered = numbered.sort_by([(name, "ascending") for name in order])
    firsts = ordered.group_by(key, use_threads=False).aggregate([("row", "first")])
    return rows.take(firsts["row_first"])


def _warn(damaged: list[Damaged]) -> None:
    if damaged:
        _log.warning(
            "%d damaged file(s) left out, with the attempts they belong to, the first %s: "
            "`lmc-ray verify` lists them",
            len(damaged),
            damaged[0].file.path,
        )


def _torn(
    filesystem: fs.FileSystem, mark: Content, files: Mapping[str, Mapping[Owner, DataFile]]
) -> list[Damaged]:
    """The files of an attempt that are not what its mark says."""
    torn = []
    for table, written in mark.manifest.items():
        file = files.get(table, {}).get((mark.file.sweep, mark.file.attempt))
        if file is None:
            torn.append(Damaged(mark.file, f"its file of {table} is missing"))
        elif reason := _unlike(filesystem, table, file, written):
            torn.append(Damaged(file, reason))
    return torn


def _unlike(filesystem: fs.FileSystem, table: str, file: DataFile, written: Written) -> str | None:
    """Why a file is not the one its mark lists.

    Its size tells without opening it; one that somebody wrote anew with the same rows will do.
    """
    if file.size == written.bytes:
        return None
    content = read(filesystem, table, file)
    if isinstance(content, Damaged):
        return content.reason
    if len(content.rows) != written.rows:
        return f"{len(content.rows)} rows instead of {written.rows}"
    return None


def _cell_table(
    filesystem: fs.FileSystem,
    table: str,
    files: Mapping[Owner, DataFile],
    whole: list[Content],
    runs: pa.Table,
) -> ds.Dataset:
    """A table's visible rows, read only when a query needs them.

    Nearly every attempt wins all its cells or none. Where one wins some, the rest is cut away here,
    so that a query sees one plain table and needs no join.
    """
    schema = TABLES[table].schema
    won: dict[Owner, list[str]] = {}
    for sweep, attempt, cell in zip(
        *(runs[name].to_pylist() for name in ("sweep", "attempt", "cell_id")), strict=True
    ):
        won.setdefault((sweep, attempt), []).append(cell)
    parquet = ds.ParquetFileFormat()
    fragments, cut = [], [schema.empty_table()]
    for mark in whole:
        owner = (mark.file.sweep, mark.file.attempt)
        if owner not in won or owner not in files:
            continue
        file = files[owner]
        if len(won[owner]) == len(mark.rows):
            fragments.append(parquet.make_fragment(file.path, filesystem))
            continue
        content = read(filesystem, table, file)
        if isinstance(content, Damaged):
            raise UserError(f"{file.path} is damaged ({content.reason}): see lmc-ray verify")
        cut.append(content.rows.filter(pc.field("cell_id").isin(won[owner])))
    in_files = ds.FileSystemDataset(fragments, schema, parquet, filesystem)
    return ds.dataset([in_files, ds.dataset(pa.concat_tables(cut))])
