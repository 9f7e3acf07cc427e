"""Look at every byte of a results root and say what is wrong with it, file by file.

Readers never need this: they leave out whatever is torn. It answers the question of what was left
out, and why, and finds what no reader can see, such as a file changed after it was committed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import TEMPORARY, DataFile, is_data, list_folder
from lmc_ray.store.parquet import Content, Damaged, decode, digest, fetch
from lmc_ray.store.schemas import CELL_TABLES, TABLES

if TYPE_CHECKING:
    import duckdb

_INCOMPLETE = {
    "its accuracies do not cover every task": """
        SELECT r.sweep, r.attempt, r.cell_id, 'accuracies' FROM runs r
        WHERE r.status = 'finished' AND r.purpose IN ('search', 'confirm', 'nightly')
        AND r.tasks_completed > (
            SELECT count(DISTINCT a.eval_task) FROM accuracies a
            WHERE a.sweep = r.sweep AND a.cell_id = r.cell_id AND a.after_task = r.tasks_completed)
    """,
    "a path has another number of points than its run says": """
        SELECT r.sweep, r.attempt, r.cell_id, 'paths' FROM runs r JOIN (
            SELECT sweep, cell_id, path_id, eval_task, split, count(*) AS points
            FROM paths GROUP BY ALL
        ) p USING (sweep, cell_id) WHERE points <> r.path_points
    """,
    "a path has no row in barriers": """
        SELECT DISTINCT sweep, attempt, cell_id, 'barriers' FROM paths
        ANTI JOIN barriers USING (sweep, cell_id, path_id, eval_task)
    """,
    "a row of barriers has no path": """
        SELECT DISTINCT sweep, attempt, cell_id, 'paths' FROM barriers
        ANTI JOIN paths USING (sweep, cell_id, path_id, eval_task)
    """,
}


@dataclass(frozen=True)
class Finding:
    """Something that is not as a commit leaves it.

    Attributes:
        harmless: what a stopped or a running attempt leaves behind; no reader sees it.
        file: its path in the root's file system.
        cell: the cell it concerns, if it is one cell.
        message: what is wrong.
    """

    harmless: bool
    file: str
    cell: str | None
    message: str


@dataclass(frozen=True)
class _Root:
    """Every file of a root, read: by table and owner (sweep, attempt)."""

    contents: dict[str, dict[tuple[str, str], Content]]
    digests: dict[str, str]
    unreadable: set[str]


def verify_files(filesystem: fs.FileSystem, base: str) -> list[Finding]:
    """What is wrong with single files and single attempts.

    Raises:
        UserError: the root's folders cannot be listed.
    """
    findings: list[Finding] = []
    root = _Root({table: {} for table in TABLES}, {}, set())
    for table in TABLES:
        for file in list_folder(filesystem, f"{base}/{table}"):
            if is_data(file):
                findings += _load(filesystem, table, file, root)
            elif file.path.endswith(TEMPORARY):
                note = "a write that was never finished; delete it when no sweep is running"
                findings.append(Finding(True, file.path, None, note))
    for mark in root.contents["runs"].values():
        findings += _against_mark(base, mark, root)
    for table in CELL_TABLES:
        for owner, content in root.contents[table].items():
            if owner not in root.contents["runs"] and _mark(base, *owner) not in root.unreadable:
                note = "no commit mark: its attempt was stopped, or is still at work; not visible"
                findings.append(Finding(True, content.file.path, None, note))
    for table, by_owner in root.contents.items():
        for content in by_owner.values():
            findings += _rows(table, content)
    return findings


def verify_cells(base: str, database: "duckdb.DuckDBPyConnection") -> list[Finding]:
    """Which visible cells lack rows that they should have."""
    return [
        Finding(False, f"{base}/{table}/sweep={sweep}/{attempt}.parquet", cell, message)
        for message, sql in _INCOMPLETE.items()
        for sweep, attempt, cell, table in database.sql(sql).fetchall()
    ]


def _load(filesystem: fs.FileSystem, table: str, file: DataFile, root: _Root) -> Iterator[Finding]:
    try:
        data = fetch(filesystem, file)
        content = decode(table, file, data)
    except UserError as problem:
        root.unreadable.add(file.path)
        yield Finding(False, file.path, None, str(problem))
        return
    if isinstance(content, Damaged):
        root.unreadable.add(file.path)
        yield Finding(False, file.path, None, f"cannot be used: {content.reason}")
        return
    root.contents[table][(file.sweep, file.attempt)] = content
    root.digests[file.path] = digest(data.to_pybytes())


def _against_mark(base: str, mark: Content, root: _Root) -> Iterator[Finding]:
    """What an attempt's files are, beside what its commit mark says they are."""
    owner = (mark.file.sweep, mark.file.attempt)
    for table, written in mark.manifest.items():
        path = f"{base}/{table}/sweep={owner[0]}/{owner[1]}.parquet"
        content = root.contents[table].get(owner)
        if path in root.unreadable:
            message = f"its attempt is left out: the file of {table} cannot be read"
            yield Finding(False, mark.file.path, None, message)
        elif content is None:
            message = f"its attempt is left out: the file of {table} is missing"
            yield Finding(False, mark.file.path, None, message)
        elif len(content.rows) != written.rows:
            message = f"partial: {len(content.rows)} rows, its commit mark says {written.rows}"
            yield Finding(False, path, None, message)
        elif root.digests[path] != written.sha256:
            yield Finding(False, path, None, "changed after it was committed")


def _rows(table: str, content: Content) -> Iterator[Finding]:
    """Rows that share a key."""
    rows, file = content.rows, content.file
    key = list(TABLES[table].key)
    counts = rows.group_by(key).aggregate([([], "count_all")])
    for row in counts.filter(pc.field("count_all") > 1).to_pylist():
        which = ", ".join(f"{name} {row[name]}" for name in key if name != "cell_id")
        message = f"{row['count_all']} rows with one key" + (f" ({which})" if which else "")
        yield Finding(False, file.path, row.get("cell_id"), message)


def _mark(base: str, sweep: str, attempt: str) -> str:
    return f"{base}/runs/sweep={sweep}/{attempt}.parquet"
