"""Path, bytes or file object -> encoded bytes, with a bounded read. Nothing is decoded here, no URL is ever fetched."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

from client.errors import InvalidImage, UnreadableImage

# The largest phone and camera JPEGs are about 20 MB; a request never holds more than this in memory before decoding.
MAX_ENCODED_BYTES = 32 * 1024 * 1024
MAX_SHOWN_NAME = 200  # characters: whoever passes base64 text as a path gets a message, not the text back

# What is wrong with the name itself, or with what it names; all else that a system says is of this machine and moment.
_OF_THE_NAME = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.EINVAL})

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Encoded:
    """Encoded bytes and what to call them in a message."""

    data: bytes
    source: str

    def described(self) -> str:
        """Source, size and first bytes: what a reader needs to see that this is, say, a web page."""
        start = self.data[:12]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in start)
        return f'{self.source} ({len(self.data):,} bytes, starting with {start.hex(" ")} "{text}")'


def encoded_from_bytes(data: bytes | bytearray | memoryview) -> Encoded:
    """The bytes of an image file; `InvalidImage` when there are none or more than `MAX_ENCODED_BYTES`."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    return _checked(Encoded(b"" if size > MAX_ENCODED_BYTES else bytes(data), "the bytes given"), size)


def encoded_from_file(file: BinaryIO) -> Encoded:
    """What is left to read in a file opened in binary mode, read up to the limit only."""
    source = _shortened(f"the file object {getattr(file, 'name', '')}".strip())
    parts: list[bytes] = []
    size = 0
    while size <= MAX_ENCODED_BYTES:  # a pipe or a socket may give less than it is asked for
        part = _part(file, MAX_ENCODED_BYTES + 1 - size, source)
        if not part:
            break
        parts.append(part)
        size += len(part)
    if not size:
        raise InvalidImage(
            f"{source}: empty (0 bytes left to read), expected a JPEG, PNG or WEBP image; if it was read or written "
            "before, call seek(0) first"
        )
    return _checked(Encoded(b"".join(parts), source), size)


def encoded_from_path(path: str | os.PathLike[str]) -> Encoded:
    """The bytes of a regular file; anything else at that path is refused without reading from it."""
    try:
        name = os.fsdecode(path)
    except Exception as error:  # `__fspath__` may be anybody's
        raise InvalidImage(f"the {type(path).__name__} given does not say its path: {error!r}") from error
    source = _shortened(name)
    if name.startswith(("http://", "https://")):
        raise InvalidImage(f"{source} is a URL; this client fetches nothing: download the image and pass its bytes")
    try:
        # O_NONBLOCK: opening a named pipe for reading would otherwise wait for a writer for ever.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise reading_failed(f"{source} cannot be opened", error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "not a regular file")
            raise InvalidImage(f"{source} is {kind}, expected a JPEG, PNG or WEBP file")
        if status.st_size > MAX_ENCODED_BYTES:
            return _checked(Encoded(b"", source), status.st_size)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_ENCODED_BYTES + 1)  # the file may have grown since
    except OSError as error:
        raise reading_failed(f"{source} cannot be read", error) from error
    finally:
        os.close(descriptor)
    return _checked(Encoded(data, source), len(data))


def reading_failed(what: str, error: Exception) -> InvalidImage:
    """The error to raise: `UnreadableImage` where the system gives a reason of this machine, else `InvalidImage`."""
    if isinstance(error, OSError):
        is_of_this_machine = error.errno is not None and error.errno not in _OF_THE_NAME
        if is_of_this_machine or isinstance(error, TimeoutError):
            return UnreadableImage(f"{what}: {error.strerror or error}")
        return InvalidImage(f"{what}: {error.strerror or error}")
    return InvalidImage(f"{what}: {error if str(error) else repr(error)}")


def _part(file: BinaryIO, size: int, source: str) -> bytes:
    try:
        part: bytes | str | None = file.read(size)
    except MemoryError:
        raise
    except Exception as error:  # whatever the library behind the file raises: zipfile, gzip, an HTTP client
        raise reading_failed(f"{source} cannot be read", error) from error
    if part is None:
        raise UnreadableImage(f"{source} has nothing to read at this moment: make it blocking, or wait until it has")
    if not isinstance(part, bytes):
        raise InvalidImage(f"{source} gives {type(part).__name__}, expected bytes: open it in binary mode ('rb')")
    return part


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}..."


def _checked(encoded: Encoded, size: int) -> Encoded:
    if size == 0:
        raise InvalidImage(f"{encoded.source}: empty (0 bytes), expected a JPEG, PNG or WEBP image")
    if size > MAX_ENCODED_BYTES:
        raise InvalidImage(
            f"{encoded.source}: {size:,} bytes or more, at most {MAX_ENCODED_BYTES:,} are read: save it smaller"
        )
    return encoded
