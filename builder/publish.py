"""The only way into a repository: a finished folder, renamed. Standard library only.

    <parent>/.staging/<unique>/      folders being written, on the same file system, outside the repository
    <parent>/<repository>/           what tritonserver reads
    <parent>/.releases/<repository>/ folders that were replaced, newest kept

A crash at any point leaves the repository as it was, plus at most a staging folder that the next publisher removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from builder.errors import PublishConflict
from builder.manifest import manifest_path, read_manifest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOCK_NAME = ".lock"
_ASIDE = "-aside"


class Repository:
    """A model repository directory and the two folders beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.staging = self.path.parent / ".staging" / self.path.name
        self.releases = self.path.parent / ".releases" / self.path.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository against other publishers; `PublishConflict` at once when one holds it already.

        What a publisher that died left in staging is put right: nobody else can own it while the lock is held.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.staging.mkdir(parents=True, exist_ok=True)
            lock = (self.staging / _LOCK_NAME).open("w")
        except OSError as error:
            raise PublishConflict(
                f"{self.path} cannot be published to: {error}. Its parent directory must be writable, since folders "
                f"are finished in {self.staging} and renamed into place"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PublishConflict(
                    f"another builder is publishing to {self.path}; nothing was changed. Run this again when it is done"
                ) from error
            for left_over in sorted(self.staging.glob("new-*")):
                self._recover(left_over)
            yield

    def new_folder(self) -> Path:
        """An empty staging folder; the caller holds the lock."""
        folder = self.staging / f"new-{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def version_for(self, served_name: str, release: str) -> int:
        """The number of `release`: its own where it is served already, else that of all releases so far plus one.

        A number is never used for two releases.
        """
        live = self.path / served_name
        if manifest_path(live) is not None and read_manifest(live)["release"] == release:
            return int(read_manifest(live)["version"])
        folders = [live, *self.releases.glob(f"{served_name}@*")]
        versions = [int(found.parent.name) for folder in folders if (found := manifest_path(folder))]
        return max(versions, default=0) + 1

    def publish(self, folder: Path, served_name: str) -> bool:
        """Make the finished staging `folder` the one that is served as `served_name`.

        The old folder moves to `.releases` (or is dropped when it is the same release). Returns whether this was one
        atomic step: an exchange of two directories, which some file systems lack, is then two renames. Raises
        `PublishConflict` when the file system refuses, with the old folder still in place.
        """
        _flush(folder)
        _touch_last(folder / "config.pbtxt")
        live = self.path / served_name
        is_atomic = True
        try:
            if not live.exists():
                folder.rename(live)
            else:
                is_atomic = _exchange(folder, live)
                self._retire(folder, live)
            _flush_directory(self.path)
        except OSError as error:
            raise PublishConflict(f"{live} could not be replaced: {error}. The old folder is still in place") from error
        return is_atomic

    def _retire(self, old: Path, live: Path) -> None:
        """Keep the replaced folder for a rollback, unless its release is the one that now serves."""
        if manifest_path(old) is None or read_manifest(old)["release"] == read_manifest(live)["release"]:
            shutil.rmtree(old)
            return
        manifest = read_manifest(old)
        self.releases.mkdir(parents=True, exist_ok=True)
        old.rename(self.releases / f"{live.name}@{manifest['version']}-{manifest['release']}")

    def _recover(self, left_over: Path) -> None:
        """Decide what a dead publisher's folder is: the served one in flight, a replaced one, or an unfinished one."""
        if manifest_path(left_over) is None:
            shutil.rmtree(left_over)
            return
        manifest = read_manifest(left_over)
        live = self.path / str(manifest["served_name"])
        if not live.exists() and left_over.name.endswith(_ASIDE):
            left_over.rename(live)  # died between the two renames of a file system without exchange
        elif live.exists() and manifest["version"] <= read_manifest(live)["version"]:
            self._retire(left_over, live)  # died after the exchange
        else:
            shutil.rmtree(left_over)  # died before it


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step of the kernel (True), or where that is not to be had, in two renames (False)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(other))
    aside = one.with_name(f"{one.name}{_ASIDE}")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)
    return False


def _touch_last(config: Path) -> None:
    """Triton takes a folder for changed when its newest time is later than before: the config is the newest file."""
    os.utime(config)
    _flush_directory(config.parent)


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            _flush_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_directory(folder)


def _flush_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
