"""An `AsyncTransport` over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from client.connection import Connection
from client.http_channel import (
    MAX_REPLY_BYTES,
    headers_of,
    request_headers,
    ssl_context_of,
    too_large,
)
from client.http_codec import HttpCall, answer, http_call
from client.mapping import closed, error_from_exception
from client.operations import Operation

A = TypeVar("A")

# The event loop sees that a socket is broken in one turn, and closes it in the next.
_TURNS_TO_CLOSE = 10


class AsyncHttpTransport:
    """See `AsyncTransport`. The session is made in the first call, and with it the event loop is chosen.

    Proxies from the environment are not used.
    """

    def __init__(self, connection: Connection) -> None:
        self.address = connection.shown
        self._headers = headers_of(connection)
        self._context = ssl_context_of(connection)
        scheme = "http" if self._context is None else "https"
        self._root = f"{scheme}://{connection.addresses[0]}{connection.path}"
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Timeout] = set()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._is_closed = False

    async def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `AsyncTransport`."""
        if self._is_closed:
            raise closed(self.address)
        scope = asyncio.timeout(timeout_s)
        self._running.add(scope)
        try:
            async with scope:
                status, headers, body = await self._exchange(http_call(operation, timeout_s))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if self._is_closed:
                raise closed(self.address) from error
            ours = error_from_exception(error, timeout_s, self.address)
            if ours is None:
                raise
            raise ours from error
        finally:
            self._running.discard(scope)
        result: A = answer(operation, status, headers, body, self.address)
        return result

    async def close(self) -> None:
        """See `AsyncTransport`."""
        self._is_closed = True
        for scope in tuple(self._running):
            if not scope.expired():
                scope.reschedule(0.0)  # its time is up: this ends it wherever it waits
        if self._session is not None:
            await self._break_sockets()
            await self._session.close()

    async def _break_sockets(self) -> None:
        """A closed socket would stay until all of its request is sent: for ever, where the server reads no more."""
        for each in tuple(self._sockets):
            with contextlib.suppress(OSError):  # it was not connected, or no longer
                each.shutdown(socket.SHUT_RDWR)
        for _ in range(_TURNS_TO_CLOSE):
            if all(each.fileno() < 0 for each in self._sockets):
                return
            await asyncio.sleep(0)

    async def _exchange(self, call: HttpCall) -> tuple[int, Mapping[str, str], bytes]:
        """Send the request, read the whole reply."""
        if self._session is None:
            self._session = self._opened()
        async with self._session.request(
            call.method,
            URL(f"{self._root}{call.path}", encoded=True),
            data=_parts(call) if call.body else None,
            headers=request_headers(self._headers, call),
            allow_redirects=False,
        ) as response:
            body = bytearray()
            while part := await response.content.readany():
                body += part
                if len(body) > MAX_REPLY_BYTES:
                    response.close()  # else the rest of it would be waited for
                    raise too_large(self.address)
            return response.status, response.headers, bytes(body)

    def _opened(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._context or True, socket_factory=self._socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `send` has the one deadline
            trust_env=False,
            auto_decompress=False,
        )
        # aiohttp repeats a GET that met a reset, unasked and uncounted; when to try again is the business of `retries`.
        session._retry_connection = False
        return session

    def _socket(self, address_info: Any) -> socket.socket:
        """A new socket, known to `close`."""
        family, kind, protocol, *_ = address_info
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made


async def _parts(call: HttpCall) -> AsyncIterator[bytes | memoryview]:
    """One piece aiohttp would copy, and warn of where it is above 1 MB."""
    for part in call.body:
        yield part
