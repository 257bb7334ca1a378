"""An `AsyncTransport` over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import grpc
import grpc.aio

from client.connection import Connection
from client.grpc_channel import credentials_of, options_of, target_of
from client.grpc_codec import grpc_call, metadata_of
from client.mapping import closed, error_from_grpc
from client.operations import Operation

A = TypeVar("A")


class AsyncGrpcTransport:
    """See `AsyncTransport`. The channel is made in the first call, and with it the event loop is chosen."""

    def __init__(self, connection: Connection) -> None:
        self.address = connection.shown
        self._connection = connection
        self._metadata = metadata_of(connection)
        self._credentials = credentials_of(connection)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._is_closed = False

    async def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `AsyncTransport`."""
        if self._is_closed:
            raise closed(self.address)
        call = grpc_call(operation)
        try:
            data = await self._method(call.path)(
                call.request(operation, timeout_s), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            if self._was_closed():
                raise closed(self.address) from error
            raise error_from_grpc(error.code(), error.details() or "", self.address) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            # `close` cancels what is under way; a task that is cancelled from outside is another matter.
            task = asyncio.current_task()
            if self._was_closed() and (task is None or not task.cancelling()):
                raise closed(self.address) from error
            raise
        answer: A = call.decode(data, self.address)
        return answer

    async def close(self) -> None:
        """See `AsyncTransport`."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    def _was_closed(self) -> bool:
        return self._is_closed

    def _method(self, path: str) -> Any:
        """The callable of one method, bytes in and bytes out."""
        method = self._methods.get(path)
        if method is None:
            if self._channel is None:
                self._channel = self._opened()
            method = self._methods[path] = self._channel.unary_unary(path)
        return method

    def _opened(self) -> grpc.aio.Channel:
        target, options = target_of(self._connection), options_of(self._connection)
        if self._credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, self._credentials, options=options)
