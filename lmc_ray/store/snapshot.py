"""What is visible in a results root at one moment: one whole row set per cell.

Files are immutable and the marks are listed before the files they mark, so a snapshot stays true
while others write: it may be a moment old, never half of something. Where a compaction removes a
file that a snapshot has listed, the rows are in the compaction's own file: whoever finds a file
gone takes a fresh snapshot.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from lmc_ray.store.files import DataFile, GoneError
from lmc_ray.store.listing import Listing, Owner, look
from lmc_ray.store.parquet import Content, Damaged, Written, read, read_all
from lmc_ray.store.schemas import CELL_TABLES, TABLES
from lmc_ray.store.visible import Part, VisibleRows

_log = logging.getLogger(__name__)

_FRESH_STARTS = 20
"""How often files may go under a reader before it gives up; each time costs a whole compaction."""

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Snapshot:
    """The visible rows of every cell.

    Attributes:
        runs: one row per visible cell.
        tables: the other tables of cells, read from their files when somebody asks.
    """

    runs: pa.Table
    tables: Mapping[str, VisibleRows]


@dataclass(frozen=True)
class Winners:
    """Who wins which cells, among some marks.

    Attributes:
        runs: one row per cell, of the smallest attempt.
        cells: the cells that each owner's files are to be read for.
    """

    runs: pa.Table
    cells: Mapping[Owner, frozenset[str]]


def cells(filesystem: fs.FileSystem, base: str, sweep: str | None) -> Snapshot:
    """The cells that can be seen of one sweep, or of all.

    Raises:
        UserError: a file comes from a newer lmc-ray or cannot be reached.
    """

    def moment() -> tuple[pa.Table, dict[str, list[Part]]]:
        listing = look(filesystem, base, sweep, ("runs", *CELL_TABLES))
        marks, damaged = whole_marks(filesystem, listing)
        _warn(damaged)
        won = winners(marks)
        return won.runs, {table: parts(table, listing, marks, won) for table in CELL_TABLES}

    runs, tables = unless_gone(moment)
    known: dict[str, set[str]] = {}
    for name, cell in zip(runs["sweep"].to_pylist(), runs["cell_id"].to_pylist(), strict=True):
        known.setdefault(name, set()).add(cell)

    def again(table: str) -> list[Part]:
        """The same cells, from the files that have them now."""
        _, fresh = unless_gone(moment)
        return [
            replace(part, cells=part.cells & same, whole=part.whole and part.cells <= same)
            for part in fresh[table]
            if part.cells & (same := known.get(part.file.sweep, set()))
        ]

    return Snapshot(
        runs,
        {table: VisibleRows(table, found, filesystem, again) for table, found in tables.items()},
    )


def loose(filesystem: fs.FileSystem, base: str, table: str, sweep: str | None) -> pa.Table:
    """The visible rows of a table without cells, of one sweep or of all; the same errors."""

    def moment() -> pa.Table:
        listing = look(filesystem, base, sweep, (table,))
        found, damaged = read_all(filesystem, table, list(listing.files[table].values()))
        _warn([*listing.damaged, *damaged])
        return first_rows(table, [content.rows for content in found])

    return unless_gone(moment)


def unless_gone(look_once: Callable[[], _Found]) -> _Found:
    """Look, and look again whenever a compaction removed a file between its listing and reading.

    Raises:
        UserError: from looking; or files go faster than they can be read.
    """
    for _ in range(_FRESH_STARTS):
        try:
            return look_once()
        except GoneError:
            continue
    return look_once()


def whole_marks(filesystem: fs.FileSystem, listing: Listing) -> tuple[list[Content], list[Damaged]]:
    """The marks of attempts and compactions whose files are all there, and what is damaged."""
    marks, damaged = read_all(filesystem, "runs", list(listing.files["runs"].values()))
    damaged += listing.damaged
    whole = []
    for mark in marks:
        if compaction := listing.live.get(mark.file.owner):
            mark = replace(mark, manifest=compaction.files)
        torn = _torn(filesystem, mark, listing.files)
        damaged += torn
        if not torn:
            whole.append(mark)
    return whole, damaged


def winners(marks: Sequence[Content]) -> Winners:
    """The smallest attempt of every cell; where several files have it, the first of the marks."""
    rows, firsts = _first_of("runs", [mark.rows for mark in marks])
    owners = [mark.file.owner for mark in marks for _ in range(len(mark.rows))]
    won: dict[Owner, set[str]] = {}
    for row, cell in zip(firsts.to_pylist(), rows["cell_id"].to_pylist(), strict=True):
        won.setdefault(owners[row], set()).add(cell)
    return Winners(rows, {owner: frozenset(of_owner) for owner, of_owner in won.items()})


def first_rows(table: str, parts: Sequence[pa.Table]) -> pa.Table:
    """For every key of a sweep the row of the smallest attempt."""
    return _first_of(table, parts)[0]


def parts(table: str, listing: Listing, marks: Sequence[Content], won: Winners) -> list[Part]:
    """What is visible of each file of a table of cells."""
    found = []
    for mark in marks:
        cells, file = won.cells.get(mark.file.owner), listing.files[table].get(mark.file.owner)
        if cells and file:
            found.append(Part(file, cells, whole=len(cells) == len(mark.rows)))
    return found


def _first_of(table: str, parts: Sequence[pa.Table]) -> tuple[pa.Table, pa.Array]:
    """Those rows, and their numbers in the rows of all parts, one after the other."""
    rows = pa.concat_tables([TABLES[table].schema.empty_table(), *parts])
    key = ["sweep", *TABLES[table].key]
    order = [*key, "attempt", "row"]
    number = pa.array(range(len(rows)), pa.int64())
    numbered = pa.table({name: rows[name] for name in order[:-1]} | {"row": number})
    ordered = numbered.sort_by([(name, "ascending") for name in order])
    firsts = ordered.group_by(key, use_threads=False).aggregate([("row", "first")])["row_first"]
    return rows.take(firsts), firsts


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
    """The files of an attempt that are not what its mark says, or a compaction's its manifest."""
    torn = []
    for table in CELL_TABLES:
        if (written := mark.manifest.get(table)) is None:
            continue
        file = files[table].get(mark.file.owner)
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
