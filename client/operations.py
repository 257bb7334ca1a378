"""What can be asked of a Triton server, as values: each operation carries its question, its type says the answer.

    Operation[A]  --codec of gRPC or HTTP-->  request ... reply  --the same codec-->  A

A transport sends any of them; no transport has a method of its own for one, so gRPC and HTTP, sync and async cannot
drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from client.contract import ServedConfig
from client.reply import Reply
from client.results import ModelStatistics

A = TypeVar("A")


class Operation(Generic[A]):
    """One question to the server; `A` is its answer."""


@dataclass(frozen=True)
class IndexEntry:
    """One model in the server's repository: whether it is ready, and why not; `is_unloaded`: nobody wants it to be."""

    name: str
    is_ready: bool
    reason: str
    is_unloaded: bool = False


@dataclass(frozen=True)
class Region:
    """One region of system shared memory as the server knows it: its `name` there, its `key` ("/name" in shm_open)."""

    name: str
    key: str
    byte_size: int


@dataclass(frozen=True)
class Slot:
    """`byte_size` bytes at `offset` of the registered region `name`."""

    name: str
    offset: int
    byte_size: int


@dataclass(frozen=True)
class ListModels(Operation[tuple[IndexEntry, ...]]):
    """Every model in the repository, loaded or not; `NotAllowed` where listing is restricted."""


@dataclass(frozen=True)
class AskReady(Operation[bool]):
    """Whether a model of that name is served; False for an unknown one."""

    name: str


@dataclass(frozen=True)
class ReadVersion(Operation[str]):
    """The highest version served of a model; `UnknownModel` where none of that name is served."""

    name: str


@dataclass(frozen=True)
class ReadConfig(Operation[ServedConfig]):
    """What the server says of a model; `UnknownModel` where it serves none of that name."""

    name: str


@dataclass(frozen=True)
class ReadStatistics(Operation[tuple[ModelStatistics, ...]]):
    """What each model has done since it was loaded; `NotAllowed` where statistics are restricted."""


@dataclass(frozen=True, eq=False)
class Infer(Operation[Reply]):
    """One inference on uint8 images [n, height, width, 3]; with `slot`, the server reads them there instead."""

    name: str
    input_name: str
    batch: npt.NDArray[np.uint8]
    slot: Slot | None = None


@dataclass(frozen=True)
class RegisterRegion(Operation[None]):
    """Let the server map a region of system shared memory; `NotAllowed` where that is restricted."""

    region: Region


@dataclass(frozen=True)
class UnregisterRegion(Operation[None]):
    """Let the server unmap a region; one it does not know is no error."""

    name: str


@dataclass(frozen=True)
class ListRegions(Operation[tuple[Region, ...]]):
    """The regions that the server has mapped."""
