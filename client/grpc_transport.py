"""A `Transport` over gRPC."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import grpc

from client.connection import Connection
from client.errors import ClientClosed
from client.grpc_channel import credentials_of, options_of, target_of
from client.grpc_codec import grpc_call, metadata_of
from client.mapping import closed, error_from_grpc
from client.operations import Operation

A = TypeVar("A")

# Read by gRPC when it is imported, and so it is here.
IS_FORK_SUPPORTED = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "0").lower() in {"1", "t", "true", "y", "yes"}


class GrpcTransport:
    """See `Transport`. A process forked from this one connects anew, where gRPC's fork support is on."""

    def __init__(self, connection: Connection) -> None:
        self.address = connection.shown
        self._connection = connection
        self._metadata = metadata_of(connection)
        self._credentials = credentials_of(connection)
        self._is_closed = False
        self._open()

    def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `Transport`."""
        if self._pid != os.getpid():
            self._reopen_in_child()
        if self._is_closed:
            raise closed(self.address)
        call = grpc_call(operation)
        try:
            data = self._method(call.path)(
                call.request(operation, timeout_s), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            if self._is_closed:
                raise closed(self.address) from error
            raise error_from_grpc(error.code(), error.details() or "", self.address) from error
        except ValueError as error:
            # gRPC says ValueError("Cannot invoke RPC on closed channel!") to a call that `close` overtook.
            if self._is_closed:
                raise closed(self.address) from error
            raise
        answer: A = call.decode(data, self.address)
        return answer

    def close(self) -> None:
        """See `Transport`."""
        self._is_closed = True
        if self._pid == os.getpid():
            self._channel.close()

    def _open(self) -> None:
        self._pid = os.getpid()
        target, options = target_of(self._connection), options_of(self._connection)
        if self._credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, self._credentials, options=options)
        self._methods: dict[str, Any] = {}

    def _method(self, path: str) -> Any:
        """The callable of one method, bytes in and bytes out."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        return method

    def _reopen_in_child(self) -> None:
        """A forked process has gRPC's threads no more, unless its fork support restarts them."""
        if not IS_FORK_SUPPORTED:
            raise ClientClosed(
                f"the client of {self.address} was made before this process was forked, and gRPC does not work across "
                "a fork: make the client in the child, start children by 'spawn', set GRPC_ENABLE_FORK_SUPPORT=1 "
                "before Python starts, or use http://"
            )
        self._open()
