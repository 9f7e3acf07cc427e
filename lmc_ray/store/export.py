"""The result of a query as text or bytes: a table to read, CSV, JSON or Parquet."""

import base64
import contextlib
import csv
import datetime
import io
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import duckdb

_ROWS_SHOWN = 200  # on a terminal; a pipe gets every row


def encode(result: "duckdb.DuckDBPyRelation", form: str, width: int | None) -> bytes:
    """A query's rows in one of the forms of `FORMS`.

    Args:
        result: what DuckDB made of the query.
        form: `table`, `csv`, `json` or `parquet`.
        width: columns of the terminal that shows a `table`; None for a pipe or a file, where
            nothing is shortened.
    """
    if form == "table":
        return _table(result, width)
    return FORMS[form](_unique_names(result.to_arrow_table()))


def _table(result: "duckdb.DuckDBPyRelation", width: int | None) -> bytes:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        if width is None:
            endless = 2**30
            result.show(max_width=endless, max_rows=endless, max_col_width=endless)
        else:
            result.show(max_width=width, max_rows=_ROWS_SHOWN)
    return f"{text.getvalue().rstrip()}\n".encode()


def _unique_names(rows: pa.Table) -> pa.Table:
    """`SELECT a.seed, b.seed` has two columns of one name; files need two names."""
    names: list[str] = []
    for name in rows.schema.names:
        unique, count = name, 1
        while unique in names:
            unique, count = f"{name}_{count}", count + 1
        names.append(unique)
    return rows.rename_columns(names)


def _csv(rows: pa.Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.schema.names)
    for row in rows.to_pylist():
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict | bool):
        return json.dumps(_plain(value), allow_nan=False)
    words = isinstance(value, bytes | datetime.datetime | pa.MonthDayNano)
    return str(_plain(value) if words else value)


def _json(rows: pa.Table) -> bytes:
    lines = [json.dumps(_plain(row), allow_nan=False) for row in rows.to_pylist()]
    return ("[" + ",\n ".join(lines) + "]\n").encode()


def _plain(value: Any) -> Any:
    """A value in JSON's types, intervals in seconds; NaN and infinity, as it has none, as null."""
    match value:
        case dict():
            return {str(key): _plain(part) for key, part in value.items()}
        case pa.MonthDayNano():  # an interval, such as the difference of two times; also a tuple
            return str(value) if value.months else 86_400 * value.days + value.nanoseconds / 1e9
        case list() | tuple():
            return [_plain(part) for part in value]
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value.as_tuple().exponent == 0 else float(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case bool() | int() | str() | None:
            return value
        case _:
            return str(value)


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


FORMS: Mapping[str, Callable[[pa.Table], bytes]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}
