"""The manifest of a compaction: a small JSON file that readers follow from the moment it is there.

`ROOT/compactions/sweep=<name>/<generation>-compacted-<id>.json`. Names sort by generation, one
more than the highest that the compaction saw: a listing in the order of names that comes too late
for a manifest still comes to the one that replaced it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import DataFile, list_folder, write_whole
from lmc_ray.store.parquet import Damaged, Written, fetch
from lmc_ray.store.schemas import SCHEMA_VERSION

FOLDER = "compactions"
_SUFFIX = ".json"


@dataclass(frozen=True)
class Compaction:
    """What one compaction of one sweep has written, and what that replaces.

    Attributes:
        sweep: whose rows it merged.
        name: of its file in every table, without the suffix.
        generation: one more than any that it saw.
        files: its own file, by table.
        replaced: by table, the attempts whose visible rows are in its files.
        compactions: the names of earlier ones whose rows are in its files. They are carried from
            manifest to manifest, for a slow one may publish its manifest after its files are gone.
    """

    sweep: str
    name: str
    generation: int
    files: Mapping[str, Written]
    replaced: Mapping[str, frozenset[str]]
    compactions: frozenset[str]

    def path(self, base: str) -> str:
        """Where the manifest lies in a root."""
        name = f"{self.generation:08d}-{self.name}{_SUFFIX}"
        return f"{base}/{FOLDER}/sweep={self.sweep}/{name}"


def publish(filesystem: fs.FileSystem, base: str, compaction: Compaction) -> None:
    """Make a compaction what readers see; all its files must be there.

    Raises:
        OSError: the manifest could not be written; then nothing has changed for readers.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        **asdict(compaction),
        "replaced": {table: sorted(names) for table, names in compaction.replaced.items()},
        "compactions": sorted(compaction.compactions),
    }
    write_whole(filesystem, compaction.path(base), json.dumps(content).encode())


def manifest_files(filesystem: fs.FileSystem, base: str, sweep: str | None) -> list[DataFile]:
    """The manifests of one sweep, or of all, as a listing shows them."""
    folder = f"{base}/{FOLDER}" if sweep is None else f"{base}/{FOLDER}/sweep={sweep}"
    return [file for file in list_folder(filesystem, folder) if _is_manifest(file)]


def read_manifest(filesystem: fs.FileSystem, file: DataFile) -> Compaction | Damaged:
    """One manifest.

    Raises:
        GoneError: a later compaction replaced it.
        UserError: a newer lmc-ray wrote it, or it cannot be reached.
    """
    data = fetch(filesystem, file)
    try:
        content = json.loads(data.to_pybytes())
        version = content.pop("schema_version")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{file.path} was written by a newer lmc-ray (schema version {version}, this one "
                f"reads up to {SCHEMA_VERSION}): upgrade lmc-ray to read it"
            )
        content["files"] = {table: Written(**each) for table, each in content["files"].items()}
        content["replaced"] = {t: frozenset(names) for t, names in content["replaced"].items()}
        content["compactions"] = frozenset(content["compactions"])
        compaction = Compaction(**content)
        if compaction.sweep != file.sweep:
            raise ValueError(f"it is of sweep {compaction.sweep}")
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        return Damaged(file, f"is no manifest of a compaction: {problem!r}")
    return compaction


def _is_manifest(file: DataFile) -> bool:
    folder, name = file.path.split("/")[-2:]
    return folder.startswith("sweep=") and name.endswith(_SUFFIX) and not name.startswith(".")
