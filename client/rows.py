"""What became of one image as one row: of JSON lines, of CSV, or of the flat columns that Parquet wants.

Each format can tell a whole row from a torn one, and say whose a row is: that is what `--resume` needs.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from typing import Any, Protocol, TypeAlias

from client.errors import InvalidImage
from client.results import Classification

Settled: TypeAlias = Classification | InvalidImage
Columns: TypeAlias = dict[str, Any]

_LAST_COLUMNS = ("model", "precision", "release", "emulated", "error")
_NEED_QUOTES = frozenset(',"\r\n')
# A path with bytes that are not UTF-8, or with what could be taken for their escapes.
_NEEDS_ESCAPES = re.compile(r"[\udc80-\udcff]|\\[\\x]")


class RowFormat(Protocol):
    """How a row is written and read again."""

    name: str
    header: bytes

    def row(self, image: str, outcome: Settled) -> bytes:
        """The row, with its end of line."""

    def is_whole(self, data: bytes) -> bool:
        """Whether `data`, whole lines from the start of a row but perhaps the last, are a row with its end."""

    def image_of(self, row: bytes) -> tuple[str, bool]:
        """Whose row it is, as `stored_name` has it, and whether it is a bad image's; `ValueError` if it is no row."""

    def stored_name(self, image: str) -> str:
        """The path as it stands in a row."""


class JsonLines:
    """{"image": path, ...} with every field of the `Classification`, or {"image": path, "error": {...}}."""

    name = "jsonl"
    header = b""

    def row(self, image: str, outcome: Settled) -> bytes:
        """See `RowFormat`."""
        if isinstance(outcome, Classification):
            return _json_line({"image": image} | outcome.to_dict())
        error = {"type": type(outcome).__name__, "message": str(outcome)}
        return _json_line({"image": image, "error": error})

    def is_whole(self, data: bytes) -> bool:
        """See `RowFormat`; JSON has no line breaks of its own."""
        return data.endswith(b"\n")

    def image_of(self, row: bytes) -> tuple[str, bool]:
        """See `RowFormat`."""
        content = json.loads(row)
        if not isinstance(content, dict) or not isinstance(content.get("image"), str):
            raise ValueError("no object with an image")  # noqa: TRY004 - callers know one kind of bad row
        return content["image"], content.get("error") is not None

    def stored_name(self, image: str) -> str:
        """See `RowFormat`."""
        return image


class FlatJsonLines(JsonLines):
    """{"image": path, "label_1": ...}: the rows of a Parquet file to be. Every text is Unicode, as Parquet wants it."""

    name = "parquet"

    def __init__(self, top_k: int) -> None:
        self.columns = columns(top_k)
        self._top_k = top_k

    def row(self, image: str, outcome: Settled) -> bytes:
        """See `RowFormat`."""
        return self.from_columns(flat(self.stored_name(image), outcome, self._top_k))

    def from_columns(self, row: Columns) -> bytes:
        """The row with these values."""
        return _json_line({name: _unicode(value) if isinstance(value, str) else value for name, value in row.items()})

    def stored_name(self, image: str) -> str:
        r"""See `RowFormat`: a byte that is not UTF-8 becomes \xNN, and then a backslash of the path itself two."""
        return _unicode(image.replace("\\", "\\\\")) if _NEEDS_ESCAPES.search(image) else image


class Csv:
    """One line each, with a header: UTF-8 (a path that is not keeps its bytes), quoted where needed, ends of line LF.

    An empty cell is a value that is not there; `error` is "ErrorType: message".
    """

    name = "csv"

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self.header = _csv_line(columns(top_k))

    def row(self, image: str, outcome: Settled) -> bytes:
        """See `RowFormat`."""
        return _csv_line(flat(image, outcome, self._top_k).values())

    def is_whole(self, data: bytes) -> bool:
        """See `RowFormat`; a line break between quotes, of which there are an odd number so far, ends no row."""
        return data.endswith(b"\n") and data.count(b'"') % 2 == 0

    def image_of(self, row: bytes) -> tuple[str, bool]:
        """See `RowFormat`."""
        try:
            (cells,) = csv.reader([row.decode("utf-8", "surrogateescape")], strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if len(cells) != len(columns(self._top_k)):
            raise ValueError(f"{len(cells)} cells")
        return cells[0], bool(cells[-1])

    def stored_name(self, image: str) -> str:
        """See `RowFormat`."""
        return image


def columns(top_k: int) -> tuple[str, ...]:
    """The names of the columns, for `top_k` ranks."""
    ranks = (f"{part}_{rank}" for rank in range(1, top_k + 1) for part in ("label", "index", "score"))
    return ("image", *ranks, *_LAST_COLUMNS)


def flat(image: str, outcome: Settled, top_k: int) -> Columns:
    """A row as one value, or None, for each of `columns`."""
    row: Columns = dict.fromkeys(columns(top_k))
    row["image"] = image
    if not isinstance(outcome, Classification):
        row["error"] = f"{type(outcome).__name__}: {outcome}"
        return row
    for rank, prediction in enumerate(outcome.predictions, 1):
        for part, value in dataclasses.asdict(prediction).items():
            row[f"{part}_{rank}"] = value
    for name in ("model", "precision", "release", "emulated"):
        row[name] = getattr(outcome, name)
    return row


def _json_line(content: Columns) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a path that is not Unicode: written as escapes, it can be read back
        return json.dumps(content).encode() + b"\n"


def _csv_line(values: Any) -> bytes:
    return (",".join(map(_cell, values)) + "\n").encode("utf-8", "surrogateescape")


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if _NEED_QUOTES.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _unicode(text: str) -> str:
    r"""A path's bytes that are not UTF-8 become \xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
