"""A results root: commit what was measured, ask what is there."""

import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lmc_ray.errors import UserError
from lmc_ray.store import commit, snapshot, views, weights
from lmc_ray.store.compact import Compacted, compact
from lmc_ray.store.files import kind_of, one_line, open_root, write_whole
from lmc_ray.store.listing import Listing, data_files, look
from lmc_ray.store.schemas import CELL_TABLES, LOOSE_TABLES, TABLES, with_defaults
from lmc_ray.store.verify import Finding, verify_cells, verify_files, verify_weights

if TYPE_CHECKING:
    import duckdb


class Store:
    """The Parquet files of one results root.

    Attributes:
        root: a folder or a URI that `pyarrow.fs` opens, as the user gave it.
    """

    def __init__(self, root: str) -> None:
        """Open a root; it need not exist yet.

        Raises:
            UserError: the root names no file system that we know.
        """
        self.root = root
        self._filesystem, self._base = open_root(root)

    def check_writable(self) -> None:
        """Write and remove a small file, so that a sweep fails before it trains, not after.

        Raises:
            UserError: the root cannot be written.
        """
        probe = f"{self._base}/.probe-{uuid.uuid4().hex}"
        try:
            write_whole(self._filesystem, probe, b"lmc-ray\n")
            self._filesystem.delete_file(probe)
        except (OSError, pa.ArrowException) as problem:
            raise kind_of(problem)(
                f"cannot write to the results root {self.root} ({one_line(problem)}): "
                "give another with --results, or make this one writable"
            ) from None

    def commit(self, sweep: str, attempt: str, rows: commit.Rows) -> None:
        """Make the rows of one attempt visible, all of them or none.

        Args:
            sweep: a plain name.
            attempt: a name that no other commit has (a UUID).
            rows: by table; `sweep` and `attempt` are added here, a missing column becomes null.
                Every cell needs its row in `runs`. Trials and nights have no cell and may come
                alone.

        Raises:
            ValueError: an unknown table or column, a value of a wrong type, a row of a cell that
                is not in `runs`, two rows of one key. Nothing was written.
            OSError: a file could not be written. Nothing of the cells is visible, unless only the
                file of `trials` or `nights`, the last ones, failed.
        """
        commit.commit(self._filesystem, self._base, sweep, attempt, rows)

    def write_weights(self, where: str, data: bytes) -> None:
        """Keep one file of weights; see `weights.uri` for its place.

        Raises:
            OSError: it could not be written; then no file of that name came to be.
        """
        weights.write(self._filesystem, self._base, where, data)

    def read_weights(self, where: str, sha256: str) -> bytes:
        """A kept file of weights as it was written.

        Raises:
            UserError: it is missing, cannot be read, or is not what it was.
        """
        return weights.read(self._filesystem, self._base, where, sha256)

    def sweeps(self) -> list[str]:
        """The sweeps with anything committed, by name."""
        marks = [
            file.sweep
            for table in ("runs", *LOOSE_TABLES)
            for file in data_files(self._filesystem, self._base, table, None)
        ]
        return sorted(set(marks))

    def database(self, sweep: str | None = None) -> "duckdb.DuckDBPyConnection":
        """The visible rows of every table, as of now, for SQL; with the views of `views`.

        The connection reaches these tables and nothing else: no file, no network, no Python
        variable.

        Args:
            sweep: only this sweep's rows; None for the whole root.

        Raises:
            UserError: a file comes from a newer lmc-ray or cannot be reached.
        """
        # Here, because workers only commit and never need DuckDB; and because what outlives the
        # interpreter (torch keeps some objects) would keep a module's DuckDB, which complains.
        import duckdb

        # Trials first: one that can be seen has cells that can be seen.
        loose = {
            table: snapshot.loose(self._filesystem, self._base, table, sweep)
            for table in LOOSE_TABLES
        }
        seen = snapshot.cells(self._filesystem, self._base, sweep)
        connection = duckdb.connect(config={"python_enable_replacements": "false"})
        for name, rows in {"runs": with_defaults(seen.runs), **seen.tables, **loose}.items():
            connection.register(name, rows)
        views.create(connection)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def committed(self, sweep: str) -> dict[str, dict[str, Any]]:
        """The visible `runs` row of every committed cell of a sweep, by cell id."""
        runs = snapshot.cells(self._filesystem, self._base, sweep).runs
        return {row["cell_id"]: row for row in runs.to_pylist()}

    def find(self, cell_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """The committed cells among these, in whichever sweep of the root they are.

        Where several sweeps have one, the row of the sweep that ran it to its end comes first.
        """
        return _best(snapshot.cells(self._filesystem, self._base, None).runs, cell_ids)

    def reuse(self, sweep: str, attempt: str, cells: Mapping[str, Mapping[str, Any]]) -> None:
        """Commit cells of other sweeps to this one, with all their rows, instead of running them.

        The rows are copied, so that each sweep's tables stay whole by themselves. Kept minima are
        not: their rows say in which sweep's folder the files are.

        Args:
            sweep: the sweep that gains the cells.
            attempt: a name that no other commit has.
            cells: what differs in the new `runs` row (study, trial), by cell id.

        Raises:
            KeyError: a cell that `find` does not find.
        """
        seen = snapshot.cells(self._filesystem, self._base, None)
        found = _best(seen.runs, cells)
        rows: dict[str, list[dict[str, Any]]] = {"runs": []}
        for cell, changes in cells.items():
            origin = found[cell]["reused_from"] or found[cell]["sweep"]
            rows["runs"].append({**found[cell], "reused_from": origin, **changes})
        for table in CELL_TABLES:
            copies = seen.tables[table].to_table(filter=pc.field("cell_id").isin(list(cells)))
            rows[table] = [
                row for row in copies.to_pylist() if row["sweep"] == found[row["cell_id"]]["sweep"]
            ]
        self.commit(sweep, attempt, rows)

    def compact(self, sweep: str) -> Compacted:
        """Merge the small files of a sweep into one a table; the visible rows stay as they are.

        At any time, beside sweeps that write, readers and other compactions; killed at any moment
        it has lost nothing, and the next one finishes.

        Raises:
            UserError: a file comes from a newer lmc-ray, an earlier compaction is damaged, or the
                root cannot be read or written.
        """
        try:
            return compact(self._filesystem, self._base, sweep)
        except (OSError, pa.ArrowException) as problem:
            raise UserError(
                f"cannot compact sweep {sweep} in {self.root} ({one_line(problem)}): "
                "nothing is lost; run it again"
            ) from None

    def verify(self) -> list[Finding]:
        """Everything in the root that is not as a commit leaves it; an empty list is good news."""
        import duckdb

        def moment() -> tuple[Listing, list[Finding]]:
            found = look(self._filesystem, self._base, None, tuple(TABLES))
            return found, verify_files(self._filesystem, self._base, found)

        try:
            listing, findings = snapshot.unless_gone(moment)
        except UserError as problem:
            return [Finding(False, self._base, (), str(problem))]
        try:
            with self.database() as database:
                findings += verify_cells(self._base, listing, database)
                findings += verify_weights(self._filesystem, self._base, database)
        except (UserError, duckdb.Error) as problem:
            # A file of a newer version or with bytes changed in place; it has its own finding.
            findings.append(Finding(True, self._base, (), f"not checked further: {problem}"))
        return findings


def _best(runs: pa.Table, cell_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each of these cells one row: of a sweep that ran it itself, and to its end."""
    rows = runs.filter(pc.field("cell_id").isin(list(cell_ids))).to_pylist()
    rows.sort(key=lambda row: (row["status"] == "pruned", row["reused_from"] or "", row["sweep"]))
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(row["cell_id"], row)
    return best
