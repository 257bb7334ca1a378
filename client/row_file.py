"""The file that a run of `classify` writes, row by row, so that it can be killed at any moment and go on later.

    FILE              csv, jsonl: each row is appended with one write, so a killed run leaves whole rows and perhaps one
                      torn last row, which `--resume` cuts off
    FILE              parquet: made whole of FILE.rows at the end of a run and renamed into place
    FILE.rows         parquet only: the rows so far, as JSON lines; while it exists it has all that FILE has, and more
    FILE.state.json   what decides a row: `--resume` goes on only with the same. It is on the disk before the first row
                      is, is kept after the run, and the process that writes FILE holds a lock on it

A row is there only for an image that is settled: answered, or no image that can be. All others are tried again by the
next run. Every image has one row, however often its path is given.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from client import parquet
from client.errors import InceptionError, InvalidRequest
from client.rows import FlatJsonLines, RowFormat, Settled

SYNC_INTERVAL_S = 5.0  # a power cut, unlike a kill, may cost the rows of that time; they are then done again
_OTHER_NAME = "give another --output"

Identity: TypeAlias = Mapping[str, str | int | None]


class RowFile:
    """The rows of one run, appended to those of the runs before it where `is_resumed`.

    Raises `InvalidRequest` where the file is there and not to be resumed, is not this run's to resume, is written by
    another run, or cannot be opened; and `InceptionError` where it cannot be written any more. Remembers about 100
    bytes for every image.
    """

    def __init__(self, path: Path, row_format: RowFormat, identity: Identity, *, is_resumed: bool) -> None:
        self.path = path
        self.rows_path = path.with_name(path.name + ".rows") if isinstance(row_format, FlatJsonLines) else path
        self.rows_before = 0
        self.bad_before = 0
        self._format, self._identity = row_format, identity
        self._known: set[bytes] = set()
        self._is_changed = False
        self._rows = self._state = -1
        self._synced_s = time.monotonic()
        if not is_resumed:
            self._check_new()
        try:
            self._open(is_resumed=is_resumed)
        except OSError as error:
            self.close()
            raise InvalidRequest(f"{path} cannot be opened for writing: {error.strerror}; {_OTHER_NAME}") from error
        except BaseException:
            self.close()
            raise

    def claim(self, image: str) -> bool:
        """Whether `image` has no row yet and was not claimed before; from now on it is."""
        key = _key(self._format.stored_name(image))
        is_new = key not in self._known
        self._known.add(key)
        return is_new

    def write(self, image: str, outcome: Settled) -> None:
        """Append the row of one image."""
        self._append(self._format.row(image, outcome))
        self._is_changed = True

    def finish(self) -> None:
        """The run has reached its end: whatever is still to be made of the rows is made."""
        if not isinstance(self._format, FlatJsonLines):
            return
        try:
            if self._is_changed or not self.path.exists():
                parquet.write(self.rows_path, self.path, self._format.columns)
            self.rows_path.unlink()
        except OSError as error:
            raise InceptionError(
                f"{self.path} cannot be made of {self.rows_path}: {error.strerror or error}; all rows are there, and "
                "the same command with --resume makes it"
            ) from error

    def close(self) -> None:
        """Put the rows on the disk and let others write the file; closing twice is harmless."""
        rows, state = self._rows, self._state
        self._rows = self._state = -1
        try:
            if rows >= 0:
                os.fsync(rows)
        except OSError as error:
            raise InceptionError(f"{self.rows_path} may lack its last rows on the disk: {error.strerror}") from error
        finally:
            for descriptor in (rows, state):
                if descriptor >= 0:
                    os.close(descriptor)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_new(self) -> None:
        for path in (self.path, self.rows_path):
            if os.path.lexists(path):
                raise InvalidRequest(f"{path} is there already: give --resume to go on with it, or another --output")

    def _open(self, *, is_resumed: bool) -> None:
        state_path = self.path.with_name(self.path.name + ".state.json")
        if self.path.exists() and not self.path.is_file():
            raise InvalidRequest(f"{self.path} is no regular file, so no run could go on with it: {_OTHER_NAME}")
        if self._has_rows() and not state_path.exists():
            raise InvalidRequest(f"{self.path} was not begun by this command ({state_path} is missing): {_OTHER_NAME}")
        self._state = os.open(state_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequest(f"another run is writing {self.path}: wait for it, or {_OTHER_NAME}") from error
        if not is_resumed:
            self._check_new()  # again: another run may have begun and ended just now
        elif isinstance(self._format, FlatJsonLines) and self.path.exists() and not self.rows_path.exists():
            self._check_state(state_path)
            parquet.read_back(self.path, self.rows_path, self._format)
        self._rows = os.open(self.rows_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        end = 0
        if os.fstat(self._rows).st_size:
            self._check_state(state_path)
            end = self._end_of_rows()
            os.ftruncate(self._rows, end)
        else:
            self._write_state()
        if not end:
            self._append(self._format.header)

    def _has_rows(self) -> bool:
        return any(path.is_file() and path.stat().st_size for path in (self.path, self.rows_path))

    def _check_state(self, state_path: Path) -> None:
        """`InvalidRequest` unless what is in the file was written with the same options, by the same release."""
        with os.fdopen(os.dup(self._state), "rb") as file:
            file.seek(0)
            text = file.read()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InvalidRequest(
                f"{state_path} does not say how {self.path} was begun, so it cannot be gone on with: {_OTHER_NAME}"
            )
        differing = [name for name, value in self._identity.items() if found.get(name) != value]
        if differing:
            before, now = (_described(each, differing) for each in (found, self._identity))
            raise InvalidRequest(
                f"{self.path} was begun with {before}, and this run has {now}: its rows would not belong together; "
                f"make them the same, or {_OTHER_NAME}"
            )

    def _write_state(self) -> None:
        """In place, not renamed, for the lock's sake; a torn one lies beside a file without rows and is not read."""
        os.ftruncate(self._state, 0)
        os.pwrite(self._state, json.dumps(self._identity, indent=2).encode() + b"\n", 0)
        os.fsync(self._state)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _end_of_rows(self) -> int:
        """Read every row; returns the byte after the last whole one."""
        end = 0
        with os.fdopen(os.dup(self._rows), "rb") as file:
            file.seek(0)
            for row in whole_rows(file, self._format):
                if end == 0 and self._format.header:
                    if row != self._format.header:
                        raise InvalidRequest(f"{self.path} does not begin as this run would: {_OTHER_NAME}")
                else:
                    self._know(row, end)
                end += len(row)
        return end

    def _know(self, row: bytes, start: int) -> None:
        try:
            image, is_bad = self._format.image_of(row)
        except ValueError as error:
            raise InvalidRequest(
                f"{self.rows_path} was changed: at byte {start:,} is no row of this command ({error}); cut the file "
                f"there, or {_OTHER_NAME}"
            ) from error
        self._known.add(_key(image))
        self.rows_before += 1
        self.bad_before += is_bad

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._rows, data) :]
            if time.monotonic() - self._synced_s > SYNC_INTERVAL_S:
                os.fsync(self._rows)
                self._synced_s = time.monotonic()
        except OSError as error:
            raise InceptionError(
                f"{self.rows_path} cannot be written: {error.strerror}; the rows before are kept: make room, and give "
                "the same command with --resume"
            ) from error


def whole_rows(file: BinaryIO, row_format: RowFormat) -> Iterator[bytes]:
    """The rows of `file`, one at a time, without a torn last one."""
    row = b""
    for line in file:
        row += line
        if row_format.is_whole(row):
            yield row
            row = b""


def _described(identity: Mapping[str, object], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {identity.get(name)}" for name in names)


def _key(image: str) -> bytes:
    return blake2b(image.encode("utf-8", "surrogatepass"), digest_size=16).digest()
