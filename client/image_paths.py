"""PATH arguments -> the paths of images, one at a time: files, directories and, for "-", a list on standard input.

A named file is always tried. In a directory those files are, whose names end as an image's does (formats that the
client does not read are among them, so that nobody misses them unaware), and those without any ending that begin as an
image does. Hidden ones are left out. What is left out is counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from client.errors import InvalidImage, InvalidRequest, UnreadableImage

STDIN = "-"
MAX_PATH_BYTES = 64 * 1024  # far above any system's limit: more than that between two separators is no list of paths
_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .heic .heif .avif .jxl .jp2".split()  # noqa: SIM905
)
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_CHUNK_BYTES = 64 * 1024


class ImagePaths:
    """Iterates over the paths that `arguments` mean: each argument in its place, each directory sorted by name, its
    own files before its subdirectories', and each directory once, whatever links lead to it.

    `stdin` is read where an argument is "-": paths that `separator` ends. The counts grow while it is iterated over.
    """

    def __init__(
        self, arguments: Sequence[str], *, is_recursive: bool, stdin: BinaryIO | None, separator: bytes = b"\n"
    ) -> None:
        self.arguments = arguments
        self.other_files = 0
        self.other_directories = 0
        self.unreadable: list[InvalidImage] = []
        self._is_waiting = self._is_ended = False
        self._is_recursive, self._stdin, self._separator = is_recursive, stdin, separator
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[str]:
        for argument in self.arguments:
            if argument == STDIN:
                for path in self._listed():
                    yield from self._meant(path)
            else:
                yield from self._meant(argument)

    def end(self) -> bool:
        """Wait for no more input; whether a wait is going on that must be broken off. May be called by a signal."""
        self._is_ended = True
        return self._is_waiting

    def _meant(self, path: str) -> Iterator[str]:
        return self._found(path) if os.path.isdir(path) else iter((path,))  # noqa: PTH112 - takes any text

    def _found(self, root: str) -> Iterator[str]:
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            try:
                files, directories = self._entries(directory)
            except OSError as error:
                self.unreadable.append(UnreadableImage(f"{directory} cannot be read: {error.strerror}"))
                continue
            for name in files:
                path = os.path.join(directory, name)  # noqa: PTH118 - the name must stay as it was given
                if _may_be_image(path):
                    yield path
                else:
                    self.other_files += 1
            if self._is_recursive:
                waiting.extend(os.path.join(directory, name) for name in reversed(directories))  # noqa: PTH118
            else:
                self.other_directories += len(directories)

    def _entries(self, directory: str) -> tuple[list[str], list[str]]:
        """The names of the files and of the directories in it, sorted; none where it was looked into before."""
        status = os.stat(directory)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in self._seen:
            return [], []
        self._seen.add((status.st_dev, status.st_ino))
        files: list[str] = []
        directories: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (directories if entry.is_dir() else files).append(entry.name)
                elif not entry.is_dir():
                    self.other_files += 1
        return sorted(files), sorted(directories)

    def _listed(self) -> Iterator[str]:
        rest = b""
        while chunk := self._read():
            *paths, rest = (rest + chunk).split(self._separator)
            yield from self._named(paths)
            if len(rest) > MAX_PATH_BYTES:
                raise InvalidRequest(
                    f"standard input holds more than {MAX_PATH_BYTES:,} bytes without an end of line; expected paths, "
                    "one a line (with --null, each ended by a NUL): an image itself is not read from there"
                )
        yield from self._named([rest])

    def _named(self, paths: Sequence[bytes]) -> Iterator[str]:
        """The paths of lines; of an end of line CR LF the CR is left out, unless a file's name ends in it."""
        for path in paths:
            is_with_cr = self._separator == b"\n" and path.endswith(b"\r") and not os.path.lexists(path)
            name = path[:-1] if is_with_cr else path
            if name:
                yield os.fsdecode(name)

    def _read(self) -> bytes:
        if self._stdin is None:
            return b""
        self._is_waiting = True
        try:
            if self._is_ended:
                return b""
            # What is there is taken at once: whoever writes the list may be slow.
            read = getattr(self._stdin, "read1", self._stdin.read)
            chunk: bytes = read(_CHUNK_BYTES)
            return chunk
        finally:
            self._is_waiting = False


def _may_be_image(path: str) -> bool:
    ending = Path(path).suffix.lower()
    return ending in _ENDINGS if ending else _begins_as_image(path)


def _begins_as_image(path: str) -> bool:
    if not os.path.isfile(path):  # noqa: PTH113 - a pipe must not be opened
        return False
    try:
        with Path(path).open("rb") as file:
            start = file.read(12)
    except OSError:
        return True  # it is named in the error that follows
    return start.startswith(_STARTS) or (start.startswith(b"RIFF") and start[8:] == b"WEBP")
