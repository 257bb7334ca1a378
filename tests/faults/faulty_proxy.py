"""A real TCP proxy that does to connections what networks do; with certificates it ends TLS as well.

    client -- TLS or none --> FaultyProxy, does `fault` --> server

`fault` may be changed at any time and holds for the next bytes of every connection, old or new.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
from dataclasses import dataclass

GARBAGE = b"\x00\x17 this is neither HTTP nor gRPC \xff\xfe\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK_BYTES = 65_536
_HTTP_METHODS = (b"GET ", b"POST ")


@dataclass(frozen=True)
class Fault:
    """What is done: nothing, or one of these."""

    delay_s: float = 0.0  # each chunk from the server waits this long
    resets: bool = False  # the first bytes of the client's are answered with RST
    cut_after: int | None = None  # so many bytes of the server's pass, then the connection is closed
    is_black_hole: bool = False  # bytes are taken and none are passed on
    is_garbage: bool = False  # the client's bytes are answered with `GARBAGE`


NOTHING = Fault()


class FaultyProxy:
    """Listens on a free loopback port until `close`. `connections` and `http_requests` are counted."""

    def __init__(self, target: str, token: str, context: ssl.SSLContext | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._context = (host, int(port)), context
        self.token = token
        self.fault = NOTHING
        self.connections = self.http_requests = 0
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def grpc_url(self) -> str:
        """For a client of gRPC."""
        return f"{'' if self._context is None else 'grpcs://'}127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """For a client of HTTP."""
        return f"{'http' if self._context is None else 'https'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End every connection and every thread."""
        self._closing.set()
        self._break(self._listener)
        self._accepting.join()
        self._listener.close()
        for each in tuple(self._open):
            self._break(each)
        for thread in self._threads:
            thread.join()

    @staticmethod
    def _break(opened: socket.socket) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            self._open.add(accepted)
            self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
            self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), accepted:  # either side may go at any moment
            client = accepted
            if self._context is not None:
                accepted.settimeout(10)
                client = self._context.wrap_socket(accepted, server_side=True)
                self._open.add(client)
            with client, socket.create_connection(self._target, timeout=10) as server:
                self._open.add(server)
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        passed, has_lost = 0, False
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while not self._closing.is_set():
                ready = [key.fileobj for key, _ in selector.select(0.1)]
                if has_lost and not self.fault.is_black_hole:
                    return  # what was lost does not come back: nothing that follows would be understood
                if isinstance(client, ssl.SSLSocket) and client.pending():
                    ready = [client]
                for each in ready:
                    assert isinstance(each, socket.socket)
                    chunk = each.recv(_CHUNK_BYTES)
                    if not chunk:
                        return
                    fault = self.fault
                    has_lost = has_lost or fault.is_black_hole
                    if each is server:
                        self._closing.wait(fault.delay_s)
                        if fault.cut_after is not None:
                            chunk = chunk[: fault.cut_after - passed]
                            passed += len(chunk)
                        if not fault.is_black_hole:
                            client.sendall(chunk)
                        if fault.cut_after is not None and passed >= fault.cut_after:
                            return
                    elif not self._is_passed_on(chunk, client, fault):
                        return
                    elif not fault.is_black_hole:
                        server.sendall(chunk)

    def _is_passed_on(self, chunk: bytes, client: socket.socket, fault: Fault) -> bool:
        """Whether the client's bytes go on; else the connection has had its answer."""
        if chunk.startswith(_HTTP_METHODS):
            self.http_requests += 1
        if fault.resets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        if fault.is_garbage:
            client.sendall(GARBAGE)
        return not (fault.resets or fault.is_garbage)
