"""What the client needs of a connection: send an operation, get its answer or an `InceptionError`, end in time."""

from __future__ import annotations

from typing import Protocol, TypeVar

from client.operations import Operation

A = TypeVar("A")


class Transport(Protocol):
    """A connection whose calls wait. It may be used from several threads at once."""

    address: str

    def send(self, operation: Operation[A], timeout_s: float) -> A:
        """The answer, within `timeout_s` seconds; raises only `InceptionError`s."""

    def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`."""


class AsyncTransport(Protocol):
    """The same for one event loop."""

    address: str

    async def send(self, operation: Operation[A], timeout_s: float) -> A:
        """The answer, within `timeout_s` seconds; raises only `InceptionError`s, and passes a cancellation on."""

    async def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`."""
