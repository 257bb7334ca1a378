"""Connections that keep to one deadline, and that another thread can break.

A socket's timeout is for each `recv`: a server that sends a byte now and then would hold a call for ever. Here every
`recv` and `send` has only what is left of the request's time.
"""

from __future__ import annotations

import http.client
import math
import os
import select
import socket
import ssl
import time
from typing import Any, cast


class Sockets:
    """The open sockets of one transport. No lock: a process might be forked while it is held."""

    def __init__(self) -> None:
        self._open: set[Any] = set()
        self._is_broken = False

    def add(self, opened: Any) -> None:
        """From now on `opened` is broken with the others; at once, if they have been."""
        self._open.add(opened)
        if self._is_broken:
            _break(opened)

    def discard(self, closed: Any) -> None:
        """`closed` was closed."""
        self._open.discard(closed)

    def break_all(self) -> None:
        """Let whoever waits at one of the sockets, in any thread, go on with an error."""
        self._is_broken = True
        for each in list(self._open):
            _break(each)

    def close_inherited(self) -> None:
        """Close the sockets that a fork has copied into this process; the parent's go on."""
        for each in list(self._open):
            # `close` would wait for the readers, which are the parent's threads.
            descriptor = socket.socket.detach(each)
            if descriptor >= 0:
                os.close(descriptor)
        self._open.clear()


def _break(each: Any) -> None:
    try:
        socket.socket.shutdown(each, socket.SHUT_RDWR)  # a TLS socket's own takes the reader's state away
    except OSError:
        return  # it was not connected, or no longer


class _Bounded:
    """A socket whose operations end at `ends_at_s`, by `time.monotonic`, and that is in `sockets` while it is open."""

    sockets: Sockets
    ends_at_s = math.inf

    def recv_into(self, *arguments: Any) -> int:
        self._hurry()
        return int(super().recv_into(*arguments))  # type: ignore[misc]

    def sendall(self, *arguments: Any) -> None:
        self._hurry()
        super().sendall(*arguments)  # type: ignore[misc]

    def send(self, *arguments: Any, **keywords: Any) -> int:  # gevent's `sendall` gives its own `timeout`
        self._hurry()
        return int(super().send(*arguments, **keywords))  # type: ignore[misc]

    def detach(self) -> int:
        """The descriptor is another socket's from now on."""
        self.sockets.discard(self)
        return int(super().detach())  # type: ignore[misc]

    def _real_close(self, *arguments: Any) -> None:
        """The standard library's end of a socket: after `close`, and when no reader is left."""
        self.sockets.discard(self)
        super()._real_close(*arguments)  # type: ignore[misc]

    def _hurry(self) -> None:
        left_s = self.ends_at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left_s if left_s < math.inf else None)  # type: ignore[attr-defined]


class PlainSocket(_Bounded, socket.socket):
    """A TCP socket with a deadline. Its `sendall` is bounded as a whole by the standard library."""


class _TlsSocket(_Bounded, ssl.SSLSocket):
    """An encrypted one. Its `sendall` calls `send`, and each is given what is left."""

    def do_handshake(self, block: bool = False) -> None:
        """Bounded by the timeout that the plain socket had left."""
        self.sockets.add(self)
        super().do_handshake(block)


def tls_socket_class(sockets: Sockets) -> type[ssl.SSLSocket]:
    """For `SSLContext.sslsocket_class`, which makes the sockets itself: a class whose sockets are in `sockets`."""
    return type("TlsSocket", (_TlsSocket,), {"sockets": sockets})


class BoundedConnection(http.client.HTTPConnection):
    """A connection, encrypted where there is a `context`, whose requests each have one deadline."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, sockets: Sockets) -> None:
        super().__init__(host.strip("[]"), port)
        self._context, self._sockets = context, sockets
        self._ends_at_s = math.inf

    def start_clock(self, timeout_s: float) -> None:
        """Whatever is done from now on ends within `timeout_s` seconds."""
        self._ends_at_s = time.monotonic() + timeout_s
        if self.sock is not None:
            cast(PlainSocket, self.sock).ends_at_s = self._ends_at_s

    def is_usable(self) -> bool:
        """Whether an idle connection is open and silent: what a server says unasked, it says as it closes."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def connect(self) -> None:
        """Connect to the first of the host's addresses that answers, within the deadline."""
        failure: OSError | None = None
        addresses = socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                opened = self._connected(PlainSocket(family, kind, protocol), address, left)
            except OSError as error:
                failure = error
            else:
                opened.ends_at_s = self._ends_at_s
                self.sock = opened
                return
        raise failure or OSError("the name has no addresses")

    def _connected(self, opened: PlainSocket, address: Any, addresses_left: int) -> PlainSocket | _TlsSocket:
        """Connected within this address's share of the time that is left."""
        opened.sockets = self._sockets
        self._sockets.add(opened)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            left_s = self._left_s()
            opened.settimeout(None if left_s is None else left_s / addresses_left)
            opened.connect(address)
            opened.settimeout(self._left_s())  # the TLS handshake has what is left
            if self._context is None:
                return opened
            encrypted = self._context.wrap_socket(opened, server_hostname=self.host)
        except BaseException:
            opened.close()
            raise
        return cast(_TlsSocket, encrypted)

    def _left_s(self) -> float | None:
        """Seconds left; never 0, which would mean not to wait at all."""
        return None if self._ends_at_s == math.inf else max(1e-3, self._ends_at_s - time.monotonic())
