"""All that a report shows of a root, sweep by sweep; what has no rows has no section."""

from typing import TYPE_CHECKING

from lmc_ray.errors import UserError, unknown
from lmc_ray.report.accuracy import accuracy
from lmc_ray.report.exhibits import Chapter
from lmc_ray.report.nights import nights
from lmc_ray.report.paths import paths
from lmc_ray.report.planes import planes
from lmc_ray.report.runs import runs
from lmc_ray.report.search import search
from lmc_ray.report.similarity import similarity
from lmc_ray.report.source import parts
from lmc_ray.report.spectra import spectra
from lmc_ray.tables import accuracy_rows

if TYPE_CHECKING:
    import duckdb

    from lmc_ray.store import Store


def collect(store: "Store", sweep: str | None = None) -> list[Chapter]:
    """A chapter for every sweep, or for one.

    Raises:
        UserError: the root is empty, or has no such sweep.
    """
    known = store.sweeps()
    if not known:
        raise UserError(f"no results in {store.root}: a report needs a sweep's results")
    if sweep is not None and sweep not in known:
        raise unknown("sweep", sweep, known)
    chapters = []
    for name in known if sweep is None else [sweep]:
        with store.database(name) as database:
            chapters.append(_chapter(database, name))
    return chapters


def _chapter(database: "duckdb.DuckDBPyConnection", sweep: str) -> Chapter:
    # Many exhibits ask this view, whose window over all paths takes a while: once is enough.
    database.execute("CREATE TEMP TABLE measured_paths AS SELECT * FROM measured_paths")
    tables = {rows[0].group.setting: rows for rows in accuracy_rows(database)}
    sections = [runs(database, sweep)]
    for part in parts(database):
        sections.append(accuracy(part, tables.get(part.groups[0].setting, [])))
        sections += [section(part) for section in (paths, planes, spectra, similarity)]
    sections += [search(database, sweep), nights(database, sweep)]
    return Chapter(sweep, [section for section in sections if section])
