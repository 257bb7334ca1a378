"""The only way into a repository: a finished folder, renamed. Standard library only.

    <parent>/.staging/<repository>/  on the same file system as the repository, outside of it:
        new-ID                       a folder being written
        swap-ID@NAME                 whole, about to change places with NAME; afterwards the replaced one
        aside-ID@NAME                the replaced one, where a file system cannot exchange directories
        awaiting-plan/NAME           whole but for the plan, which only a machine with the GPU can build
    <parent>/<repository>/           what tritonserver reads
    <parent>/.releases/<repository>/ folders that were replaced
    <parent>/.releases/.last-versions/<repository>/  the highest version number of each model so far

A crash at any point leaves the old folder or the new one whole; the next publisher puts the staging folder right.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder.errors import PublishConflict, RepositoryDamaged
from builder.manifest import read_manifest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOCK_NAME = ".lock"
_NEW, _SWAP, _ASIDE = "new-", "swap-", "aside-"
# What may lie beside the model folders: the text that explains the directory.
NOT_MODELS = frozenset({"README.md"})


class Repository:
    """A model repository directory and the two folders beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.staging = self.path.parent / ".staging" / self.path.name
        self.awaiting_plan = self.staging / "awaiting-plan"
        self.releases = self.path.parent / ".releases" / self.path.name
        self._last_versions = self.path.parent / ".releases" / ".last-versions" / self.path.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository against other publishers; `PublishConflict` at once when one holds it already.

        What a publisher that died left in staging is put right: nobody else can own it while the lock is held.
        """
        try:
            for directory in (self.path, self.staging, self.releases, self._last_versions):
                directory.mkdir(parents=True, exist_ok=True)
            lock = (self.staging / _LOCK_NAME).open("a")
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
            try:
                self._recover()
            except OSError as error:
                raise PublishConflict(
                    f"what a dead builder left in {self.staging} cannot be put right: {error}. Everything in there, "
                    f"{self.path} and {self.releases} must be writable for who runs this: give them to that user "
                    "(`chown -R`), and run this again. Remove nothing by hand: a served release may lie there"
                ) from error
            yield

    def new_folder(self) -> Path:
        """An empty staging folder; the caller holds the lock."""
        folder = self.staging / f"{_NEW}{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def drop_staged(self, served_name: str) -> tuple[str, ...]:
        """What waits for a plan was asked for before: it must not replace, one day, what was asked for since.

        Returns a line for whoever publishes where it could not be removed.
        """
        staged, aside = self.awaiting_plan / served_name, self.staging / f"{_NEW}{uuid.uuid4().hex}"
        try:
            staged.rename(aside)  # all of it or nothing: half a folder would stop every later plan stage
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            return (f"{staged} could not be removed ({error.strerror}): remove it, or a later plan stage publishes it",)
        try:
            remove_tree(aside)
        except OSError as error:
            return (f"{aside}, which waited for a plan, could not be removed ({error.strerror}): remove it",)
        return ()

    def serves(self, folder: Path) -> bool:
        """Whether this model folder is the served one itself, no copy of it."""
        manifest = _manifest_or_none(folder)
        return manifest is not None and folder.resolve() == self.path / manifest["served_name"]

    def version_for(self, served_name: str, release: str) -> int:
        """The number of `release`: its own where it is served already, else that of all releases so far plus one.

        A number is never used for two releases.
        """
        live = self.path / served_name
        manifest = _manifest_or_none(live)
        if manifest is not None and manifest["release"] == release:
            return int(manifest["version"])
        return max(self._versions_used(served_name), default=0) + 1

    def _versions_used(self, served_name: str) -> Iterator[int]:
        """Numbers that were served: by the live folder, by replaced ones, and by folders that were deleted."""
        for folder in (self.path / served_name, *self.releases.glob(f"{served_name}@*")):
            yield from (int(entry.name) for entry in folder.glob("[1-9]*") if entry.name.isdecimal())
        mark = self._last_version_file(served_name)
        if mark.is_file() and (text := mark.read_text().strip()).isdecimal():
            yield int(text)

    def _last_version_file(self, served_name: str) -> Path:
        return self._last_versions / served_name

    def _note_version(self, served_name: str) -> None:
        """A number outlives its folder: a client that kept the contract of a deleted release must see another one."""
        served = max(self._versions_used(served_name), default=0)
        self._last_version_file(served_name).write_text(f"{served}\n")

    def publish(self, folder: Path, served_name: str) -> bool:
        """Make the finished staging `folder` the one that is served as `served_name`.

        The old folder moves to `.releases` (or is dropped when it is the same release). Returns whether this was one
        atomic step: an exchange of two directories, which some file systems lack, is then two renames. Raises
        `PublishConflict` when the file system refuses, and says which folder is in place.
        """
        _flush(folder)
        _touch_last(folder / "config.pbtxt")
        live = self.path / served_name
        try:
            if not live.exists():
                folder.rename(live)
                _flush_directory(self.path)
                self._note_version(served_name)
                return True
            swap = folder.rename(self.staging / f"{_SWAP}{uuid.uuid4().hex}@{served_name}")
            old = _exchange(swap, live)
        except OSError as error:
            raise PublishConflict(
                f"{live} could not be replaced: {error}. The old folder is still in place; make {self.path} writable"
            ) from error
        try:
            _flush_directory(self.path)
            self._note_version(served_name)
            self._retire(old, live)
        except OSError as error:
            raise PublishConflict(
                f"{live} is the new folder, but the old one could not be moved from {old} to {self.releases}: {error}. "
                "Make that directory writable; the next build moves it"
            ) from error
        return old == swap

    def _retire(self, old: Path, live: Path) -> None:
        """Keep the replaced folder for a rollback, unless its release is the one that now serves."""
        manifest, served = _manifest_or_none(old), _manifest_or_none(live)
        if manifest is None:  # damaged, or not of this builder: not ours to throw away
            old.rename(self.releases / f"{live.name}@unknown-{uuid.uuid4().hex[:8]}")
            return
        kept = self.releases / f"{live.name}@{manifest['version']}-{manifest['release']}"
        is_serving = served is not None and served["release"] == manifest["release"]
        if is_serving or kept.exists():
            remove_tree(old)
        else:
            old.rename(kept)

    def _recover(self) -> None:
        """Undo or finish what a dead publisher began: no folder that was served may get lost."""
        for unfinished in self.staging.glob(f"{_NEW}*"):
            remove_tree(unfinished)
        for aside in self.staging.glob(f"{_ASIDE}*@*"):
            live = self._live_of(aside)
            if live.exists():
                self._retire(aside, live)  # died after the second rename
            else:
                aside.rename(live)  # died between the two
        for swap in self.staging.glob(f"{_SWAP}*@*"):
            live = self._live_of(swap)
            if live.exists() and _is_newer(swap, live):
                remove_tree(swap)  # died before the exchange
            else:
                self._retire(swap, live)  # died after it

    def _live_of(self, left_over: Path) -> Path:
        return self.path / left_over.name.partition("@")[2]


def remove_tree(folder: Path) -> None:
    """Remove a directory and all in it, also where directories came read-only, as copies of read-only ones do."""
    _make_writable(folder)
    for parent, names, _ in os.walk(folder):  # enters a directory after it was made readable here
        for name in names:
            _make_writable(Path(parent, name))
    shutil.rmtree(folder)


def _make_writable(directory: Path) -> None:
    mode = directory.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        directory.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)


def _manifest_or_none(folder: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(folder)
    except RepositoryDamaged:
        return None


def _is_newer(left_over: Path, live: Path) -> bool:
    """Whether `left_over` was to replace `live`: one of the two is whole and has the higher number."""
    manifest, served = _manifest_or_none(left_over), _manifest_or_none(live)
    return manifest is not None and (served is None or manifest["version"] > served["version"])


def _exchange(one: Path, other: Path) -> Path:
    """Put `one` in the place of `other`, and return where that is now.

    `one`, after one step of the kernel; a third path, after two renames, where kernel or file system have no exchange.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return one
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(other))
    aside = one.with_name(one.name.replace(_SWAP, _ASIDE, 1))
    try:
        other.rename(aside)
        one.rename(other)
    except BaseException:  # Ctrl-C too: no moment without the model shall last
        if not other.exists():
            aside.rename(other)
        raise
    return aside


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
