"""A `Transport` over HTTP, by the standard library's `http.client`.

A library with a pool of its own was measured first: it cost 0.15 ms of a call of 0.6 ms, and its time-outs, for each
`recv` alone, had to be replaced all the same.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from typing import TypeVar, cast
from weakref import WeakSet

from client.connection import Connection
from client.http_channel import (
    MAX_REPLY_BYTES,
    READ_BYTES,
    headers_of,
    request_headers,
    ssl_context_of,
    too_large,
)
from client.http_codec import HttpCall, answer, http_call
from client.http_socket import BoundedConnection, Sockets, tls_socket_class
from client.mapping import closed, error_from_exception
from client.operations import Operation

A = TypeVar("A")

_OPEN: WeakSet[HttpTransport] = WeakSet()

# More threads than this have connections, too; the others' are closed after use.
MAX_IDLE_CONNECTIONS = 32


class HttpTransport:
    """See `Transport`. A process forked from this one connects anew. Proxies from the environment are not used.

    A connection that the server closed while it was idle is replaced before it is used; one that is closed just as a
    request is sent is `ServerUnavailable`, and `retries` sends it again.
    """

    def __init__(self, connection: Connection) -> None:
        self.address = connection.shown
        self._headers = headers_of(connection)
        self._context = ssl_context_of(connection)
        self._prefix = connection.path
        self._host, _, port = connection.addresses[0].rpartition(":")
        self._port = int(port)
        self._is_closed = False
        self._open()
        _OPEN.add(self)

    def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `Transport`."""
        if self._is_closed:
            raise closed(self.address)
        try:
            response, body = self._exchange(http_call(operation, timeout_s), timeout_s)
        except (http.client.HTTPException, OSError) as error:
            if self._is_closed:
                raise closed(self.address) from error
            ours = error_from_exception(error, timeout_s, self.address)
            if ours is None:
                raise
            raise ours from error
        if self._is_closed:  # a body without a length ends where `close` cut it
            raise closed(self.address)
        result: A = answer(operation, response.status, cast("Mapping[str, str]", response.headers), body, self.address)
        return result

    def close(self) -> None:
        """See `Transport`."""
        self._is_closed = True
        self._sockets.break_all()
        while self._idle:
            self._idle.pop().close()

    def reopen_in_child(self) -> None:
        """The connections are the parent's: they are put away, and new ones will be made."""
        self._sockets.close_inherited()
        self._open()

    def _open(self) -> None:
        self._sockets = Sockets()
        if self._context is not None:
            self._context.sslsocket_class = tls_socket_class(self._sockets)
        # Used last in, first out. No lock: a process forked while another thread held it would hang.
        self._idle: list[BoundedConnection] = []

    def _exchange(self, call: HttpCall, timeout_s: float) -> tuple[http.client.HTTPResponse, bytes]:
        """Send the request, read the whole reply."""
        connection = self._connection(timeout_s)
        is_whole = False
        try:
            headers = request_headers(self._headers, call)
            connection.request(call.method, f"{self._prefix}{call.path}", call.body or None, headers)
            response = connection.getresponse()
            body = self._body(response)
            is_whole = not response.will_close
        finally:
            # The connection of a reply that was not read to its end cannot be used again.
            if is_whole and len(self._idle) < MAX_IDLE_CONNECTIONS and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.close()
        return response, body

    def _connection(self, timeout_s: float) -> BoundedConnection:
        """One that is idle and still open, else a new one; its clock is started."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = BoundedConnection(self._host, self._port, self._context, self._sockets)
                connection.start_clock(timeout_s)
                return connection
            if connection.is_usable():
                connection.start_clock(timeout_s)
                return connection
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := response.read(READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise too_large(self.address)
        if response.length:  # what is missing of the length that was promised
            raise http.client.IncompleteRead(b"", response.length)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _reopen_all() -> None:
    for transport in list(_OPEN):
        transport.reopen_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_all)  # while the child has one thread, and none can race
