"""System shared memory: pixels that a server on the same machine reads where the client wrote them.

    file in /dev/shm, locked while its owner lives -> registered with the server -> slots for requests -> unregistered

A file whose lock is free was left by a process that is gone: whoever opens an arena next removes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.buffers import Lease
from client.errors import ClientClosed, InceptionError, InvalidRequest, NotAllowed
from client.operations import ListRegions, Region, RegisterRegion, Slot, UnregisterRegion
from client.retries import Call
from client.steps import Pause, Steps

DIRECTORY = Path("/dev/shm")  # noqa: S108 - where shm_open of Linux keeps what it is asked for
PREFIX = "inception-client-"
_ALIGNMENT = 4096
_LOOK_AGAIN_S = 0.002
_ALREADY = "already in manager"  # Triton's word for a region of that name


def _aligned(byte_size: int) -> int:
    return -(-byte_size // _ALIGNMENT) * _ALIGNMENT


_BATCH_BYTES = _aligned(8 * 299 * 299 * 3)
# What `classify_many` has under way by default on up to seven cores; beyond that, a few batches at a time.
FIRST_REGION_BYTES = 9 * _BATCH_BYTES
NEXT_REGION_BYTES = 4 * _BATCH_BYTES


class Arena:
    """Room for requests in regions that the server has mapped too; see `Buffers`. It grows with what is under way."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pid = os.getpid()
        self._mapped: list[_Mapped] = []
        self._free: dict[int, list[_Room]] = {}
        self._lock = threading.Lock()
        self._is_closed = self._is_growing = False

    def open(self, call: Call) -> Steps[None]:
        """Remove what dead processes left, here and on the server, and register the first region.

        Raises `NotAllowed` where the server restricts shared memory, `InvalidRequest` where it cannot see this
        machine's, or there is none to be had.
        """
        removed = sweep()
        try:
            regions = yield from call.ask(ListRegions())
        except NotAllowed as error:
            raise NotAllowed(f"{self._address} restricts shared memory, which needs the token: {error}") from error
        for region in regions:
            if region.name in removed:  # of others it is not known whether they live, perhaps in another container
                yield from call.ask(UnregisterRegion(region.name))
        yield from self._grow(FIRST_REGION_BYTES, call)

    def take(self, images: int, size: int) -> Lease | None:
        """See `Buffers`."""
        needed = images * size * size * 3
        byte_size = _aligned(needed)
        room = self._taken(byte_size)
        if room is None:
            return None
        return _ArenaLease(
            batch=room.pixels[:needed].reshape(images, size, size, 3),
            slot=Slot(room.region, room.offset, needed),
            room=room,
            free=self._free[byte_size],
        )

    def grow(self, images: int, size: int, call: Call) -> Steps[None]:
        """See `Buffers`: another region is registered, by one of those that wait for it; the others look again."""
        with self._lock:
            is_mine = not self._is_growing
            self._is_growing = True
        if not is_mine:
            call.deadline.remaining_s()
            yield Pause(_LOOK_AGAIN_S)
            return
        try:
            yield from self._grow(max(_aligned(images * size * size * 3), NEXT_REGION_BYTES), call)
        finally:
            self._is_growing = False

    def renew(self, call: Call) -> Steps[None]:
        """Register every region again: the server has forgotten them, because it was started anew."""
        for mapped in tuple(self._mapped):
            try:
                yield from call.ask(RegisterRegion(mapped.region))
            except InvalidRequest as error:
                if _ALREADY not in str(error).lower():  # by another thread that found out, too
                    raise

    def close(self, call: Call) -> Steps[None]:
        """Remove and unregister every region. A server that cannot be asked forgets them when it ends.

        In a forked process it does nothing: the memory is its parent's.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            self._is_closed = True
            mapped, self._mapped, self._free = self._mapped, [], {}
        for each in mapped:  # before anything is waited for, and perhaps cancelled
            each.remove()
        for each in mapped:
            with suppress(InceptionError):
                yield from call.ask(UnregisterRegion(each.region.name))

    def _taken(self, byte_size: int) -> _Room | None:
        """A free room of that size, cut from a region where none is free; None where no region has space."""
        if self._pid != os.getpid():
            raise ClientClosed("this shared memory belongs to the process that this one was forked from: open it here")
        if self._is_closed:
            raise _closed()
        with self._lock:
            free = self._free.setdefault(byte_size, [])
            if free:
                return free.pop()
            return next((room for mapped in self._mapped if (room := mapped.cut(byte_size)) is not None), None)

    def _grow(self, byte_size: int, call: Call) -> Steps[None]:
        mapped = _Mapped(byte_size)
        try:
            yield from call.ask(RegisterRegion(mapped.region))
        except BaseException as error:
            mapped.remove()
            if isinstance(error, InvalidRequest):
                raise InvalidRequest(
                    f"{self._address} cannot use shared memory of this machine: it must run here, in the same IPC "
                    f"namespace and as a user who may read it ({error})"
                ) from error
            raise
        with self._lock:
            is_late = self._is_closed
            if not is_late:
                self._mapped.append(mapped)
        if is_late:
            mapped.remove()
            with suppress(InceptionError):
                yield from call.ask(UnregisterRegion(mapped.region.name))
            raise _closed()


def _closed() -> ClientClosed:
    return ClientClosed("this shared memory was closed: open it again with client.shared_memory()")


@dataclass(frozen=True)
class _Room:
    """A part of a region."""

    region: str
    offset: int
    pixels: npt.NDArray[np.uint8]


@dataclass
class _ArenaLease:
    batch: npt.NDArray[np.uint8]
    slot: Slot | None
    room: _Room
    free: list[_Room]

    def release(self) -> None:
        """The server may still read a request that was given up; the next one to write here is another request's."""
        self.free.append(self.room)


class _Mapped:
    """One file in /dev/shm, mapped and locked."""

    def __init__(self, byte_size: int) -> None:
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self.region = Region(name, f"/{name}", byte_size)
        self._path, self._used = DIRECTORY / name, 0
        hidden = DIRECTORY / f".{name}"  # until it is locked, so that nobody takes it for one that was left behind
        try:
            self._descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidRequest(f"no shared memory can be made in {DIRECTORY}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._descriptor, 0, byte_size)  # full now rather than a SIGBUS when it is written
            self._memory = mmap.mmap(self._descriptor, byte_size)
            hidden.rename(self._path)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise InvalidRequest(
                f"{DIRECTORY} has no room for {byte_size:,} bytes: {error.strerror}; give it more (--shm-size), or "
                "send over the wire"
            ) from error

    def cut(self, byte_size: int) -> _Room | None:
        """The next part of that size; None where there is none left."""
        if self._used + byte_size > self.region.byte_size:
            return None
        pixels = np.frombuffer(self._memory, dtype=np.uint8, count=byte_size, offset=self._used)
        room = _Room(self.region.name, self._used, pixels)
        self._used += byte_size
        return room

    def remove(self) -> None:
        """Remove the file; the memory goes with the last array that lies in it."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def sweep() -> tuple[str, ...]:
    """Remove the files of this user's processes that are gone; returns their names."""
    removed = []
    for path in DIRECTORY.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone in between
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its owner lives
        else:
            path.unlink(missing_ok=True)
            removed.append(path.name)
        finally:
            os.close(descriptor)
    return tuple(removed)
