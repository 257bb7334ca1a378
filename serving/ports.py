"""The server's three ports: fixed ones are checked before the start, free ones are chosen, perhaps twice."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
from dataclasses import dataclass

from serving.errors import PortInUse, UnsupportedEnvironment, UsageError

_MAX_PORT = 65535


@dataclass(frozen=True)
class Ports:
    """Ports of one server; 0 means: choose a free one at every start."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def __post_init__(self) -> None:
        fixed = [port for port in dataclasses.astuple(self) if port != 0]
        if any(not 0 < port <= _MAX_PORT for port in fixed) or len(set(fixed)) != len(fixed):
            raise UsageError(
                f"Ports HTTP {self.http}, gRPC {self.grpc}, metrics {self.metrics}: three different ones from 1 to "
                f"{_MAX_PORT} are needed, or 0 to have a free one chosen."
            )

    def is_fixed(self, port: int) -> bool:
        """Whether the caller asked for exactly this port."""
        return port in dataclasses.astuple(self)


FREE_PORTS = Ports(0, 0, 0)


def claim_ports(host: str, wanted: Ports) -> Ports:
    """Every 0 replaced by a port that is free now; fixed ports checked.

    The ports are let go again for the server to bind, so another program can still take one: the caller must be ready
    to try again. Raises `PortInUse` naming the port and its option, `UsageError` for a host that is not this
    machine's.
    """
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:  # all three at once, or the same free port might be chosen twice
        for name, port in sorted(dataclasses.asdict(wanted).items(), key=lambda item: item[1], reverse=True):
            listener = held.enter_context(_bound(host, port, name))
            chosen[name] = listener.getsockname()[1]
    return Ports(**chosen)


def _bound(host: str, port: int, name: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no obstacle
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port_in_use(host, port, name), port) from error
        if error.errno == errno.EACCES:
            raise UnsupportedEnvironment(
                f"This user may not listen on port {port} (--{name}-port). Choose one above 1023."
            ) from error
        raise UsageError(f"{host!r} is no address of this machine to listen on ({error}). Use 127.0.0.1.") from error
    return listener


def port_in_use(host: str, port: int, name: str | None = None) -> str:
    """The one-line message for a port that another program holds."""
    option = f"--{name}-port" if name else "--http-port, --grpc-port or --metrics-port"
    return (
        f"Port {port} on {host} is in use by another program. "
        f"Stop that program, choose another port with {option}, or let free ports be chosen with --ports auto."
    )


def url_host(host: str) -> str:
    """The host to connect to for a host listened on: loopback for 'any', brackets for IPv6."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host
