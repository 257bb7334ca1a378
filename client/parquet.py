"""Rows of JSON <-> a Parquet file. A Parquet file can be read only once its end is written, so it is written at once,
from rows that were kept as they came; see `row_file`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from client.errors import InvalidRequest
from client.rows import FlatJsonLines

ROWS_PER_GROUP = 10_000  # some megabytes of memory
_SHOWN_NAME = 40  # characters of a file's name in its temporary one's, which must not become too long


def check_installed() -> None:
    """`InvalidRequest` with the command to install it where pyarrow is missing, or is not for this numpy."""
    _pyarrow()


def write(rows: Path, target: Path, names: tuple[str, ...]) -> None:
    """Make the Parquet file `target` of the file `rows`, one row group after the other; it appears whole or not."""
    pyarrow, parquet = _pyarrow()
    schema = pyarrow.schema([(name, _type(pyarrow, name)) for name in names])
    with (
        rows.open("rb") as lines,
        _appearing_whole(target) as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        while group := list(islice(lines, ROWS_PER_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(list(map(json.loads, group)), schema=schema))


def read_back(source: Path, rows: Path, row_format: FlatJsonLines) -> None:
    """The reverse: the rows of the Parquet file `source` become the file `rows`; it appears whole or not."""
    with _appearing_whole(rows) as file:
        for row in _read(source, row_format.columns):
            file.write(row_format.from_columns(row))


@contextmanager
def _appearing_whole(target: Path) -> Iterator[BinaryIO]:
    """A file of a name that nobody has; it becomes `target` at the end of the block, or is removed."""
    temporary = target.with_name(f".{target.name[:_SHOWN_NAME]}.{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink()
            raise


def _read(source: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(source) as file:
            if tuple(file.schema_arrow.names) != names:
                raise InvalidRequest(
                    f"{source} has other columns than this run would write: give the options it was begun with, or "
                    "another --output"
                )
            for batch in file.iter_batches(ROWS_PER_GROUP):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise InvalidRequest(f"{source} is not a Parquet file: give another --output") from error


def _type(pyarrow: Any, name: str) -> Any:
    kind = name.partition("_")[0]
    return {"index": pyarrow.int32(), "score": pyarrow.float64()}.get(kind, pyarrow.string())


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidRequest(
            f"--format parquet needs pyarrow ({error}): pip install 'inception-triton[parquet]', or take csv or jsonl"
        ) from error
