"""Make the rows of one attempt visible, all of them or none.

Any number of attempts may commit the same cells, at the same time and from several machines, and
any of them may die between two file operations:
1. every table's file, under the attempt's own name: nobody else writes there;
2. `runs` last: the commit mark. It lists the attempt's other files with their sizes and digests,
   so that a reader knows a whole attempt from a torn one.
A file of `trials` or `nights` is a mark of its own and comes after `runs`: a trial that can be seen
has cells that can be seen.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyarrow import fs

from lmc_ray.errors import UserError, unknown
from lmc_ray.store.files import COMPACTED, SUFFIX, write_whole
from lmc_ray.store.parquet import Written, digest, encode
from lmc_ray.store.schemas import CELL_TABLES, LOOSE_TABLES, TABLES

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by table

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def check_sweep_name(name: str) -> str:
    """The name itself, if it can be a folder's name everywhere.

    Raises:
        UserError: it is no plain name.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise UserError(
            f"'{name}' is no plain sweep name: use up to 100 letters, digits, '.', '_' and '-', "
            "not starting with a dot or a dash"
        )
    return name


def commit(filesystem: fs.FileSystem, base: str, sweep: str, attempt: str, rows: Rows) -> None:
    """Write the files of one attempt; see `Store.commit`."""
    check_sweep_name(sweep)
    if not _PLAIN_NAME.fullmatch(attempt) or attempt.startswith(COMPACTED):
        raise ValueError(f"attempt '{attempt}' is no plain name")
    _check(rows)
    # Everything is encoded, and so checked, before the first byte is written.
    files: dict[str, bytes] = {}
    manifest: dict[str, Written] = {}
    for table in (*CELL_TABLES, "runs", *LOOSE_TABLES):
        if not rows.get(table):
            continue
        full = [{**row, "sweep": sweep, "attempt": attempt} for row in rows[table]]
        files[table] = encode(table, full, manifest if table == "runs" else {})
        manifest[table] = Written(len(full), len(files[table]), digest(files[table]))
    for table, data in files.items():
        write_whole(filesystem, f"{base}/{table}/sweep={sweep}/{attempt}{SUFFIX}", data)


def _check(rows: Rows) -> None:
    """Refuse what no reader could make sense of.

    Raises:
        ValueError: a row without its cell's row in `runs`, or two rows with one key.
    """
    for table in rows:
        if table not in TABLES:
            raise ValueError(str(unknown("table", table, TABLES)))
    cells = {row.get("cell_id") for row in rows.get("runs", ())}
    if None in cells:
        raise ValueError("a row of runs has no cell_id")
    for table in CELL_TABLES:
        for row in rows.get(table, ()):
            if row.get("cell_id") not in cells:
                raise ValueError(f"a row of {table} has no row in runs: {row.get('cell_id')}")
    for table, given in rows.items():
        seen = set()
        for row in given:
            key = tuple(row.get(name) for name in TABLES[table].key)
            if key in seen:
                raise ValueError(f"two rows of {table} with the key {key}")
            seen.add(key)
