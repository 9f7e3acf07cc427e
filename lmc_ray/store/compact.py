"""Merge the many small files of a sweep into one a table, while others read and write.

In this order, so that whoever looks at any moment sees the same rows:
1. The visible rows of a snapshot, each with its own `attempt`, go into new files, one a table,
   which nobody looks at yet. Attempts that are torn or changed stay as they are, as evidence.
2. The manifest names these files and those they replace. From the moment it is there, readers take
   the new files instead of the old ones. Both hold the same rows, so whoever still reads the old
   ones is right too; and what is committed meanwhile is in no manifest and stays visible.
3. The replaced files are removed.

Killed in between, it leaves files that count twice nowhere, and the next compaction removes them.

There is no lock, and none is needed. The smallest attempt of a cell wins, and a compaction keeps
its rows: any number of compactions beside any rest of the old files give the same rows. Removing
is safe because every row is in a published compaction by then, and because readers do not depend
on what they have listed. They list files before manifests (see `listing`), and where a file is
gone when its turn to be read comes, they start anew (`snapshot.unless_gone`, `visible`). That takes
no grace period, and so no clock.

Files of a compaction that has no manifest are removed too: most likely it was killed. If it is
merely slow, nothing is lost either. What it merges was there before its files were, these are
looked for before the snapshot is taken, and so the snapshot has all of it. The name goes into the
manifest: should the slow one publish its own after all, nobody will follow that. But where such
files hold cells that are nowhere else, manifests have been lost (a copy without the folder
`compactions`, say), and nothing is done.
"""

import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import COMPACTED, SUFFIX, DataFile, remove_all, workers, write_whole
from lmc_ray.store.listing import Listing, Owner, data_files, look
from lmc_ray.store.manifest import Compaction, publish
from lmc_ray.store.parquet import Content, Written, decode, digest, fetch, read_all
from lmc_ray.store.schemas import CELL_TABLES, LOOSE_TABLES, TABLES
from lmc_ray.store.snapshot import first_rows, parts, unless_gone, whole_marks, winners
from lmc_ray.store.visible import Part

LOST_MANIFEST = (
    "holds cells that nothing else does, and its manifest is missing: bring the folder compactions "
    "back from where this root was copied"
)
"""What is wrong with a file of a compaction that is no leftover."""

_AT_A_TIME = 256  # small files in memory
_ROW_GROUP = 2**17  # rows


@dataclass(frozen=True)
class Compacted:
    """What became of a sweep's data files.

    Attributes:
        merged: whether there was anything to merge.
        cells: visible ones in the merged files.
        before: how many data files there were.
        after: how many are left, those that could not be merged included.
    """

    merged: bool
    cells: int
    before: int
    after: int


@dataclass(frozen=True)
class _Input:
    """What goes into one compaction: the marks of attempts and of earlier compactions."""

    marks: Sequence[Content]
    loose: Mapping[str, Sequence[Content]]
    """Files of tables without cells, by table: each a mark of its own."""

    @property
    def new(self) -> bool:
        """Whether there is anything of attempts among it."""
        every = chain(self.marks, *self.loose.values())
        return any(not content.file.compacted for content in every)

    @property
    def cells(self) -> set[str]:
        """Whose rows its marks have."""
        return {cell for mark in self.marks for cell in mark.rows["cell_id"].to_pylist()}

    def without(self, file: DataFile) -> "_Input":
        """All but the attempt whose file this is.

        Raises:
            UserError: it is a compaction's.
        """
        if file.compacted:
            raise _damaged(file, "was changed")
        return replace(self, marks=[mark for mark in self.marks if mark.file.owner != file.owner])

    def files(self, listing: Listing) -> Iterator[DataFile]:
        """Every file that is merged."""
        for mark in self.marks:
            yield mark.file
            for table in CELL_TABLES:
                if table in mark.manifest:
                    yield listing.files[table][mark.file.owner]
        for content in chain(*self.loose.values()):
            yield content.file


class _ChangedError(Exception):
    """A file has not the bytes that its commit mark or its manifest says."""

    def __init__(self, file: DataFile) -> None:
        super().__init__(file.path)
        self.file = file


def compact(filesystem: fs.FileSystem, base: str, sweep: str) -> Compacted:
    """Compact one sweep; see `Store.compact`."""
    return unless_gone(lambda: _compact(filesystem, base, sweep))


def _compact(filesystem: fs.FileSystem, base: str, sweep: str) -> Compacted:
    begun = {
        file.attempt
        for table in TABLES
        for file in data_files(filesystem, base, table, sweep)
        if file.compacted
    }
    listing = look(filesystem, base, sweep, tuple(TABLES))
    abandoned = [file for file in listing.unpublished if file.attempt in begun]
    before = sum(map(len, listing.files.values())) + len(listing.replaced) + len(abandoned)
    useless = list(listing.replaced)
    manifests = [f for f, each in listing.manifests.items() if each not in listing.live.values()]

    given = _input(filesystem, listing)
    _check_abandoned(filesystem, abandoned, given)
    tables: dict[str, tuple[bytes, Written]] | None = None
    while tables is None and (given.new or len(listing.live) > 1 or abandoned):
        try:
            tables = _merged(filesystem, listing, given)
        except _ChangedError as problem:
            given = given.without(problem.file)
    if tables:
        new = _manifest(sweep, listing, given, abandoned, tables)
        _write(filesystem, base, new, tables)
        useless += [*abandoned, *given.files(listing)]
        manifests = list(listing.manifests)
    remove_all(filesystem, [file.path for file in (*useless, *manifests)])
    after = before - len(useless) + len(tables or ())
    return Compacted(bool(tables), len(given.cells), before, after)


def _input(filesystem: fs.FileSystem, listing: Listing) -> _Input:
    """All that can be merged.

    Raises:
        UserError: a compaction is damaged. What it replaced, if still there, may be worth a look.
    """
    marks, torn = whole_marks(filesystem, listing)
    loose: dict[str, list[Content]] = {}
    for table in LOOSE_TABLES:
        files = list(listing.files[table].values())
        loose[table], unreadable = read_all(filesystem, table, files)
        torn += unreadable
    for damaged in torn:
        # What is torn of an attempt stays as it is.
        if damaged.file.compacted or damaged in listing.damaged:
            raise _damaged(damaged.file, damaged.reason)
    for owner, each in listing.live.items():
        for table in each.files.keys() - CELL_TABLES:  # those are checked when they are merged
            file = listing.files[table][owner]
            if digest(fetch(filesystem, file)) != each.files[table].sha256:
                raise _damaged(file, "was changed")
    return _Input(marks, loose)


def _check_abandoned(
    filesystem: fs.FileSystem, abandoned: Sequence[DataFile], given: _Input
) -> None:
    """Refuse to remove files of a compaction that hold what nothing else does.

    Raises:
        UserError: which file.
    """
    kept = given.cells
    for content in read_all(filesystem, "runs", [f for f in abandoned if f.table == "runs"])[0]:
        if set(content.rows["cell_id"].to_pylist()) - kept:
            raise _damaged(content.file, LOST_MANIFEST)


def _damaged(file: DataFile, reason: str) -> UserError:
    return UserError(
        f"sweep {file.sweep} has a damaged compaction, so nothing of it was changed: {file.path} "
        f"{reason}; see lmc-ray verify"
    )


def _merged(
    filesystem: fs.FileSystem, listing: Listing, given: _Input
) -> dict[str, tuple[bytes, Written]]:
    """The new file of every table that has rows.

    Raises:
        _ChangedError: the file of an attempt is not what its mark says.
    """
    won = winners(given.marks)
    sums = {(m.file.owner, t): written for m in given.marks for t, written in m.manifest.items()}
    files = {"runs": _file("runs", iter([won.runs]))}
    for table, contents in given.loose.items():
        files[table] = _file(table, iter([first_rows(table, [c.rows for c in contents])]))
    for table in CELL_TABLES:
        wanted = parts(table, listing, given.marks, won)
        files[table] = _file(table, _rows(filesystem, table, wanted, sums))
    return {table: file for table, file in files.items() if file[1].rows}


def _rows(
    filesystem: fs.FileSystem,
    table: str,
    wanted: Sequence[Part],
    sums: Mapping[tuple[Owner, str], Written],
) -> Iterator[pa.Table]:
    """The visible rows of some files, each checked against its mark."""

    def load(part: Part) -> pa.Table:
        data = fetch(filesystem, part.file)
        content = decode(table, part.file, data)
        if not isinstance(content, Content) or digest(data) != sums[part.file.owner, table].sha256:
            raise _ChangedError(part.file)
        keep = pc.field("cell_id").isin(list(part.cells))
        return content.rows if part.whole else content.rows.filter(keep)

    with workers(filesystem) as pool:
        for start in range(0, len(wanted), _AT_A_TIME):
            yield pa.concat_tables(pool.map(load, wanted[start : start + _AT_A_TIME]))


def _file(table: str, parts: Iterator[pa.Table]) -> tuple[bytes, Written]:
    """The Parquet file of some rows, in row groups of a good size."""
    schema = TABLES[table].schema
    sink, waiting, rows = io.BytesIO(), schema.empty_table(), 0
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for part in parts:
            waiting = pa.concat_tables([waiting, part])
            rows += len(part)
            if len(waiting) >= _ROW_GROUP:
                writer.write_table(waiting)
                waiting = schema.empty_table()
        writer.write_table(waiting)
    data = sink.getvalue()
    return data, Written(rows, len(data), digest(data))


def _manifest(
    sweep: str,
    listing: Listing,
    given: _Input,
    abandoned: Sequence[DataFile],
    tables: Mapping[str, tuple[bytes, Written]],
) -> Compaction:
    replaced: dict[str, set[str]] = {table: set() for table in TABLES}
    for file in (*given.files(listing), *listing.replaced):
        if not file.compacted:
            replaced[file.table].add(file.attempt)
    earlier = listing.manifests.values()
    return Compaction(
        sweep=sweep,
        name=f"{COMPACTED}{uuid.uuid4().hex}",
        generation=1 + max((each.generation for each in earlier), default=0),
        files={table: written for table, (_, written) in tables.items()},
        replaced={table: frozenset(names) for table, names in replaced.items() if names},
        compactions=frozenset(
            {each.name for each in earlier}
            | {name for each in earlier for name in each.compactions}
            | {file.attempt for file in abandoned}
        ),
    )


def _write(
    filesystem: fs.FileSystem,
    base: str,
    new: Compaction,
    tables: Mapping[str, tuple[bytes, Written]],
) -> None:
    """The files, then the manifest."""
    paths = {table: f"{base}/{table}/sweep={new.sweep}/{new.name}{SUFFIX}" for table in tables}
    try:
        for table, path in paths.items():
            write_whole(filesystem, path, tables[table][0])
    except OSError:
        with suppress(OSError):
            remove_all(filesystem, paths.values())  # nobody knows of them
        raise
    publish(filesystem, base, new)
