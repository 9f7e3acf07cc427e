"""Which files of a root count: those of attempts, but what a compaction has replaced, and its own.

Data files are listed before manifests. A compaction publishes its manifest before it removes
anything, so a file that was removed before this listing came to it is named by a manifest that
the listing does come to, and so are the files to read instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyarrow import fs

from lmc_ray.store.files import SUFFIX, DataFile, GoneError, is_data, list_folder, workers
from lmc_ray.store.manifest import Compaction, manifest_files, read_manifest
from lmc_ray.store.parquet import Damaged

Owner = tuple[str, str]  # sweep, and attempt or compaction


@dataclass(frozen=True)
class Listing:
    """The files of some tables, sorted by what they are worth.

    Attributes:
        files: what readers look at, by table and owner; compactions first.
        live: the compactions that no other has merged, by owner.
        manifests: every manifest with its compaction, merged ones included.
        replaced: files whose visible rows are in a live compaction: to be removed.
        unpublished: files of compactions without a manifest: stopped, or still at work.
        damaged: manifests that cannot be read, and files that a live one names and that are not
            there, or not in the size that it says.
    """

    files: Mapping[str, Mapping[Owner, DataFile]]
    live: Mapping[Owner, Compaction]
    manifests: Mapping[DataFile, Compaction]
    replaced: Sequence[DataFile]
    unpublished: Sequence[DataFile]
    damaged: Sequence[Damaged]


def look(filesystem: fs.FileSystem, base: str, sweep: str | None, tables: Sequence[str]) -> Listing:
    """List some tables of one sweep, or of all; in the order given, so marks come first.

    Raises:
        GoneError: a compaction got in between; look again.
        UserError: a manifest comes from a newer lmc-ray, or something cannot be reached.
    """
    listed = {table: data_files(filesystem, base, table, sweep) for table in tables}
    in_list = manifest_files(filesystem, base, sweep)
    with workers(filesystem) as pool:
        read = dict(
            zip(in_list, pool.map(lambda f: read_manifest(filesystem, f), in_list), strict=True)
        )
    manifests = {file: found for file, found in read.items() if isinstance(found, Compaction)}
    damaged = [found for found in read.values() if isinstance(found, Damaged)]
    merged = {(each.sweep, name) for each in manifests.values() for name in each.compactions}
    known = {(each.sweep, each.name): each for each in manifests.values()}
    live = {owner: each for owner, each in known.items() if owner not in merged}

    files: dict[str, dict[Owner, DataFile]] = {}
    replaced: list[DataFile] = []
    unpublished: list[DataFile] = []
    lost: list[Damaged] = []
    for table, found in listed.items():
        gone = {
            (each.sweep, attempt)
            for each in manifests.values()
            for attempt in each.replaced.get(table, ())
        }
        files[table] = {}
        for owner, each in live.items():
            if table in each.files:
                size = each.files[table].bytes
                file = DataFile(f"{base}/{table}/sweep={owner[0]}/{owner[1]}{SUFFIX}", size)
                there = _size(filesystem, file.path, found)
                if there == size:
                    files[table][owner] = file
                else:
                    has = "is missing" if there is None else f"has {there} bytes"
                    lost.append(Damaged(file, f"{has}, its manifest says {size} bytes"))
        for file in found:
            if file.owner in gone or file.owner in merged:
                replaced.append(file)
            elif not file.compacted:
                files[table][file.owner] = file
            elif file.owner not in known:
                unpublished.append(file)
    if lost and manifest_files(filesystem, base, sweep) != in_list:
        raise GoneError(f"{lost[0].file.path} {lost[0].reason}")
    return Listing(files, live, manifests, replaced, unpublished, [*damaged, *lost])


def data_files(
    filesystem: fs.FileSystem, base: str, table: str, sweep: str | None
) -> list[DataFile]:
    """The data files of a table, whatever they are worth."""
    folder = f"{base}/{table}" if sweep is None else f"{base}/{table}/sweep={sweep}"
    return [file for file in list_folder(filesystem, folder) if is_data(file)]


def _size(filesystem: fs.FileSystem, path: str, found: Sequence[DataFile]) -> int | None:
    """A file's size; asked anew if it was written after the listing."""
    for file in found:
        if file.path == path:
            return file.size
    info = filesystem.get_file_info(path)
    return info.size if info.type == fs.FileType.File else None
