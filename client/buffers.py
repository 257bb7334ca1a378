"""Where the pixels of a request lie until it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from client.operations import Slot
from client.retries import Call
from client.steps import Steps

MAX_KEPT = 16


class Lease(Protocol):
    """Room for the images of one request; `slot` says where the server finds them, None that they are to be sent."""

    batch: npt.NDArray[np.uint8]
    slot: Slot | None

    def release(self) -> None:
        """The request was answered or given up: the room may serve another."""


class Buffers(Protocol):
    """Gives out room for requests."""

    def take(self, images: int, size: int) -> Lease | None:
        """Room for `images` crops of `size` x `size`, uint8 [images, size, size, 3]; None where all is taken."""

    def grow(self, images: int, size: int, call: Call) -> Steps[None]:
        """Make more room, at least for that."""

    def renew(self, call: Call) -> Steps[None]:
        """The server says that it does not know this memory: tell it again."""


@dataclass(slots=True)
class _WireLease:
    batch: npt.NDArray[np.uint8]
    slot: Slot | None
    owner: WireBuffers

    def release(self) -> None:
        self.owner.take_back(self.batch)


class WireBuffers:
    """Room in this process's memory. It is used again: fresh pages cost more than the copying of 270 KB."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], list[npt.NDArray[np.uint8]]] = {}

    def take(self, images: int, size: int) -> Lease:
        """See `Buffers`; there is always some."""
        shape = (images, size, size, 3)
        kept = self._kept.get(shape)
        try:
            batch = kept.pop() if kept else np.empty(shape, dtype=np.uint8)
        except IndexError:  # another thread took the last one in between
            batch = np.empty(shape, dtype=np.uint8)
        return _WireLease(batch, None, self)

    def grow(self, images: int, size: int, call: Call) -> Steps[None]:
        """See `Buffers`; never needed."""
        del images, size, call
        yield from ()

    def renew(self, call: Call) -> Steps[None]:
        """See `Buffers`; what is sent needs no telling."""
        del call
        yield from ()

    def take_back(self, batch: npt.NDArray[np.uint8]) -> None:
        """Keep `batch` for the next request of its shape, as long as there are few."""
        kept = self._kept.setdefault(batch.shape, [])
        if len(kept) < MAX_KEPT:
            kept.append(batch)
