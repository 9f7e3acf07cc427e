"""One table's rows as the bytes of a Parquet file, and back."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lmc_ray.errors import UserError
from lmc_ray.store.files import DataFile, GoneError, kind_of, missing, one_line, workers
from lmc_ray.store.schemas import SCHEMA_VERSION, TABLES, VERSION_KEY

MANIFEST_KEY = b"lmc_ray.files"


@dataclass(frozen=True)
class Written:
    """What a commit mark remembers of another file of its attempt, a manifest of its files."""

    rows: int
    bytes: int
    sha256: str


Manifest = Mapping[str, Written]  # by table


@dataclass(frozen=True)
class Content:
    """A file that was read: its rows in our schema and, for a commit mark, its manifest."""

    file: DataFile
    rows: pa.Table
    manifest: Manifest


@dataclass(frozen=True)
class Damaged:
    """A file that no reader can use, and why."""

    file: DataFile
    reason: str


def encode(table: str, rows: Sequence[Mapping[str, Any]], manifest: Manifest) -> bytes:
    """The Parquet file of some rows; a column that a row lacks becomes null.

    Raises:
        ValueError: a row has a column that the schema lacks, or a value of another type.
    """
    schema = TABLES[table].schema
    for row in rows:
        if extra := sorted(row.keys() - set(schema.names)):
            raise ValueError(f"table {table} has no column {', '.join(extra)}")
    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array([row.get(field.name) for row in rows], field.type))
        except (pa.ArrowException, TypeError) as problem:
            raise ValueError(f"table {table}, column {field.name}: {problem}") from problem
    noted = {name: vars(written) for name, written in manifest.items()}
    metadata = {**(schema.metadata or {}), MANIFEST_KEY: json.dumps(noted).encode()}
    sink = io.BytesIO()
    rows_of_schema = pa.table(arrays, schema.with_metadata(metadata))
    # A mark's own bytes are in no manifest: a bit that flips there shows by these checksums.
    pq.write_table(rows_of_schema, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def digest(data: bytes | pa.Buffer) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fetch(filesystem: fs.FileSystem, file: DataFile) -> pa.Buffer:
    """A file's bytes.

    Raises:
        GoneError: it is no longer there.
        UserError: it cannot be reached. (That says nothing about its content, so it must not be
            taken for damage: a cell whose files are damaged is run again.)
    """
    try:
        with filesystem.open_input_file(file.path) as source:
            return source.read_buffer()
    except OSError as problem:
        kind = GoneError if missing(filesystem, [file.path]) else kind_of(problem)
        raise kind(f"cannot read {file.path}: {one_line(problem)}") from None


def read(filesystem: fs.FileSystem, table: str, file: DataFile) -> Content | Damaged:
    """One file's rows, with nulls in the columns that an older version did not have.

    Raises:
        UserError: a newer lmc-ray wrote the file, or it cannot be reached.
    """
    return decode(table, file, fetch(filesystem, file))


def decode(table: str, file: DataFile, data: pa.Buffer) -> Content | Damaged:
    """The rows in a file's bytes; see `read`."""
    schema = TABLES[table].schema
    try:
        file_of_rows = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        rows = file_of_rows.read(use_threads=False)  # many files at a time
        metadata = rows.schema.metadata or {}
        version = int(metadata.get(VERSION_KEY, b"0"))
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{file.path} was written by a newer lmc-ray (schema version {version}, this one "
                f"reads up to {SCHEMA_VERSION}): upgrade lmc-ray to read it"
            )
        noted = json.loads(metadata.get(MANIFEST_KEY, b"{}"))
        manifest = {name: Written(**written) for name, written in noted.items()}
        rows = _conform(rows, schema)
    except (OSError, ValueError, TypeError, pa.ArrowException) as problem:
        return Damaged(file, one_line(problem))
    one = (
        {"sweep": file.sweep} if file.compacted else {"sweep": file.sweep, "attempt": file.attempt}
    )
    for column, name in one.items():
        if others := set(rows[column].unique().to_pylist()) - {name}:
            return Damaged(file, f"holds rows of {column} {others.pop()}: was it renamed?")
    return Content(file, rows, manifest)


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    if not rows.schema.equals(schema):
        for field in schema:
            if field.name not in rows.schema.names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        rows = rows.select(schema.names).cast(schema)
    return rows.replace_schema_metadata(schema.metadata)


def read_all(
    filesystem: fs.FileSystem, table: str, files: Sequence[DataFile]
) -> tuple[list[Content], list[Damaged]]:
    """Several files of one table, damaged ones apart."""
    if not files:
        return [], []
    with workers(filesystem) as pool:
        results = list(pool.map(lambda file: read(filesystem, table, file), files))
    return (
        [r for r in results if isinstance(r, Content)],
        [r for r in results if isinstance(r, Damaged)],
    )
