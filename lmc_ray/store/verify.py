"""Look at every byte of a results root and say what is wrong with it, file by file.

Readers never need this: they leave out whatever is torn. It answers the question of what was left
out, and why, and finds what no reader can see, such as a file changed after it was committed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store import weights
from lmc_ray.store.compact import LOST_MANIFEST
from lmc_ray.store.files import SUFFIX, TEMPORARY, DataFile, GoneError, list_folder, workers
from lmc_ray.store.listing import Listing, Owner
from lmc_ray.store.manifest import FOLDER
from lmc_ray.store.parquet import Content, Damaged, Manifest, decode, digest, fetch
from lmc_ray.store.schemas import CELL_TABLES, TABLES

if TYPE_CHECKING:
    import duckdb

_INCOMPLETE = {
    "its accuracies do not cover every task": """
        SELECT r.sweep, r.attempt, r.cell_id, 'accuracies' FROM runs r
        WHERE r.status = 'finished' AND r.purpose IN ('search', 'confirm', 'control', 'nightly')
        AND r.tasks_completed > (
            SELECT count(DISTINCT a.eval_task) FROM accuracies a
            WHERE a.sweep = r.sweep AND a.cell_id = r.cell_id AND a.after_task = r.tasks_completed)
    """,
    "a path has another number of points than its run says": """
        SELECT r.sweep, r.attempt, r.cell_id, 'paths' FROM runs r JOIN (
            SELECT sweep, cell_id, path_id, curve, control, eval_task, split, count(*) AS points
            FROM paths GROUP BY ALL
        ) p USING (sweep, cell_id) WHERE points <> r.path_points
    """,
    "a path has no row in barriers": """
        SELECT DISTINCT sweep, attempt, cell_id, 'barriers' FROM paths
        ANTI JOIN barriers USING (sweep, cell_id, path_id, curve, control, eval_task)
    """,
    "a row of barriers has no path": """
        SELECT DISTINCT sweep, attempt, cell_id, 'paths' FROM barriers
        ANTI JOIN paths USING (sweep, cell_id, path_id, curve, control, eval_task)
    """,
}


@dataclass(frozen=True)
class Finding:
    """Something that is not as a commit or a compaction leaves it.

    Attributes:
        harmless: what a stopped or a running attempt or compaction leaves; no reader sees it.
        file: its path in the root's file system.
        cells: those it concerns, as far as the root can tell.
        message: what is wrong.
    """

    harmless: bool
    file: str
    cells: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class _Read:
    """What is kept of a file that was read.

    Attributes:
        rows: how many; None where the file is of no use.
        cells: whose they are.
        sha256: of its bytes.
        manifest: what a commit mark says of the attempt's other files.
        findings: what is wrong with the file by itself.
    """

    rows: int | None = None
    cells: tuple[str, ...] = ()
    sha256: str = ""
    manifest: Manifest = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


_Files = Mapping[str, Mapping[Owner, _Read]]  # by table


def verify_files(filesystem: fs.FileSystem, base: str, listing: Listing) -> list[Finding]:
    """What is wrong with single files, single attempts and compactions.

    Raises:
        GoneError: a compaction got in between; look again.
        UserError: the root's folders cannot be listed.
    """
    files = _read(filesystem, listing)
    known: dict[Owner, dict[str, None]] = {}
    for by_owner in files.values():
        for owner, file in by_owner.items():
            known.setdefault(owner, {}).update(dict.fromkeys(file.cells))
    findings = list(_unused(filesystem, base, listing, files["runs"]))
    for damaged in listing.damaged:
        cells = tuple(known.get(damaged.file.owner, ()))
        findings.append(Finding(False, damaged.file.path, cells, damaged.reason))
    for by_owner in files.values():
        for owner, file in by_owner.items():
            # What cannot be read says nothing of its cells; the other files of its attempt do.
            findings += [
                Finding(each.harmless, each.file, each.cells or tuple(known[owner]), each.message)
                for each in file.findings
            ]
    for owner in files["runs"].keys() - listing.live.keys():
        findings += _against_mark(base, owner, files, listing)
    findings += _against_manifests(listing, files)
    for table in CELL_TABLES:
        for owner, file in files[table].items():
            if owner not in files["runs"] and owner not in listing.live:
                note = "no commit mark: its attempt was stopped, or is still at work; not visible"
                path = listing.files[table][owner].path
                findings.append(Finding(True, path, file.cells, note))
    return findings


def verify_cells(
    base: str, listing: Listing, database: "duckdb.DuckDBPyConnection"
) -> list[Finding]:
    """Which visible cells lack rows that they should have, or show some twice."""
    findings = []
    for message, sql in _INCOMPLETE.items():
        for sweep, attempt, cell, table in database.sql(sql).fetchall():
            path = _path(base, listing, table, sweep, attempt)
            findings.append(Finding(False, path, (cell,), message))
    for table in ("runs", *CELL_TABLES):
        key = ", ".join(("sweep", *TABLES[table].key))
        sql = f"""
            SELECT sweep, any_value(attempt), cell_id, sum(rows) FROM (
                SELECT any_value(attempt) AS attempt, count(*) AS rows, {key} FROM {table}
                GROUP BY {key} HAVING count(*) > 1
            ) GROUP BY sweep, cell_id
        """
        for sweep, attempt, cell, rows in database.sql(sql).fetchall():
            path = _path(base, listing, table, sweep, attempt)
            findings.append(Finding(False, path, (cell,), f"{rows} visible rows share their keys"))
    return findings


def verify_weights(
    filesystem: fs.FileSystem, base: str, database: "duckdb.DuckDBPyConnection"
) -> list[Finding]:
    """Which kept minima are not what their rows say, and which files belong to no row."""
    findings = []
    sql = "SELECT uri, sha256, list(DISTINCT cell_id ORDER BY cell_id) FROM minima GROUP BY ALL"
    files = database.sql(sql).fetchall()
    for where, sha256, cells in files:
        try:
            weights.read(filesystem, base, where, sha256)
        except UserError as problem:
            findings.append(Finding(False, f"{base}/{where}", tuple(cells), str(problem)))
    loose = weights.listed(filesystem, base).keys() - {where for where, *_ in files}
    for folder, count in sorted(Counter(where.rsplit("/", 1)[0] for where in loose).items()):
        note = f"{count} file(s) of minima that no row names; delete them when no sweep is running"
        findings.append(Finding(True, f"{base}/{folder}", (), note))
    return findings


def _read(filesystem: fs.FileSystem, listing: Listing) -> _Files:
    """Every file that counts, read."""
    every = [(t, file) for t, by_owner in listing.files.items() for file in by_owner.values()]
    with workers(filesystem) as pool:
        read = list(pool.map(lambda each: _read_file(filesystem, *each), every))
    files: dict[str, dict[Owner, _Read]] = {table: {} for table in TABLES}
    for (table, file), found in zip(every, read, strict=True):
        files[table][file.owner] = found
    return files


def _read_file(filesystem: fs.FileSystem, table: str, file: DataFile) -> _Read:
    cells: tuple[str, ...] = ()
    try:
        data = fetch(filesystem, file)
        cells = _cells_in(data)
        content = decode(table, file, data)
    except GoneError:
        raise
    except UserError as problem:
        return _Read(cells=cells, findings=(Finding(False, file.path, cells, str(problem)),))
    if isinstance(content, Damaged):
        message = f"cannot be used: {content.reason}"
        return _Read(cells=cells, findings=(Finding(False, file.path, cells, message),))
    duplicates = tuple(_duplicates(table, content))
    return _Read(len(content.rows), cells, digest(data), content.manifest, duplicates)


def _cells_in(data: pa.Buffer) -> tuple[str, ...]:
    """Whose rows a file has, whichever version wrote it; nobody's where it cannot be read."""
    try:
        rows = pq.ParquetFile(pa.BufferReader(data)).read(columns=["cell_id"])
        return tuple(rows["cell_id"].unique().to_pylist()) if rows.num_columns else ()
    except (OSError, ValueError, pa.ArrowException):
        return ()


def _unused(
    filesystem: fs.FileSystem, base: str, listing: Listing, marks: Mapping[Owner, _Read]
) -> Iterator[Finding]:
    """What lies about in the root and is read by nobody."""
    for folder in (*TABLES, FOLDER):
        for file in list_folder(filesystem, f"{base}/{folder}"):
            if file.path.endswith(TEMPORARY):
                note = "a write that was never finished; delete it when no sweep is running"
                yield Finding(True, file.path, (), note)
    merged = [f for f, each in listing.manifests.items() if each not in listing.live.values()]
    replaced = Counter(f.path.rsplit("/", 1)[0] for f in (*listing.replaced, *merged))
    for folder, count in replaced.items():
        note = f"{count} file(s) that were compacted: `lmc-ray compact` removes them"
        yield Finding(True, folder, (), note)
    known = {(sweep, cell) for (sweep, _), each in marks.items() for cell in each.cells}
    for file in listing.unpublished:
        cells = _read_file(filesystem, "runs", file).cells if file.table == "runs" else ()
        if lost := tuple(cell for cell in cells if (file.sweep, cell) not in known):
            yield Finding(False, file.path, lost, LOST_MANIFEST)
            continue
        note = "a compaction that was stopped, or is still at work: `lmc-ray compact` removes it"
        yield Finding(True, file.path, (), note)


def _against_mark(base: str, owner: Owner, files: _Files, listing: Listing) -> Iterator[Finding]:
    """What an attempt's files are, beside what its commit mark says they are."""
    mark, path_of_mark = files["runs"][owner], listing.files["runs"][owner].path
    for table, written in mark.manifest.items():
        file = files[table].get(owner)
        path = f"{base}/{table}/sweep={owner[0]}/{owner[1]}{SUFFIX}"
        if file is None:
            message = f"its attempt is left out: the file of {table} is missing"
            yield Finding(False, path_of_mark, mark.cells, message)
        elif file.rows is None:
            message = f"its attempt is left out: the file of {table} cannot be read"
            yield Finding(False, path_of_mark, mark.cells, message)
        elif file.rows != written.rows:
            message = f"partial: {file.rows} rows, its commit mark says {written.rows}"
            yield Finding(False, path, mark.cells, message)
        elif file.sha256 != written.sha256:
            yield Finding(False, path, mark.cells, "changed after it was committed")


def _against_manifests(listing: Listing, files: _Files) -> Iterator[Finding]:
    """What the files of compactions are, beside what their manifests say they are."""
    for owner, compaction in listing.live.items():
        for table, written in compaction.files.items():
            file = files[table].get(owner)
            if file and file.rows is not None and file.sha256 != written.sha256:
                path = listing.files[table][owner].path
                yield Finding(False, path, file.cells, "changed after it was compacted")


def _duplicates(table: str, content: Content) -> Iterator[Finding]:
    """Rows that share a key."""
    rows, file = content.rows, content.file
    key = list(TABLES[table].key)
    counts = rows.group_by(key).aggregate([([], "count_all")])
    for row in counts.filter(pc.field("count_all") > 1).to_pylist():
        which = ", ".join(f"{name} {row[name]}" for name in key if name != "cell_id")
        message = f"{row['count_all']} rows with one key" + (f" ({which})" if which else "")
        yield Finding(False, file.path, (row["cell_id"],) if "cell_id" in row else (), message)


def _path(base: str, listing: Listing, table: str, sweep: str, attempt: str) -> str:
    """Where an attempt's rows of a table are, or should be."""
    own = f"{base}/{table}/sweep={sweep}/{attempt}{SUFFIX}"
    if (sweep, attempt) in listing.files["runs"]:
        return own
    owners = [owner for owner in listing.live if owner[0] == sweep]
    return f"{base}/{table}/sweep={sweep}/{owners[0][1]}{SUFFIX}" if owners else own
