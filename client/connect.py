"""The transport that a connection needs. The HTTP libraries are imported only by whoever uses them."""

from __future__ import annotations

from client.connection import Connection
from client.transport import AsyncTransport, Transport


def transport_for(connection: Connection) -> Transport:
    """A transport whose calls wait."""
    if connection.protocol == "http":
        from client.http_transport import HttpTransport

        return HttpTransport(connection)
    from client.grpc_transport import GrpcTransport

    return GrpcTransport(connection)


def async_transport_for(connection: Connection) -> AsyncTransport:
    """A transport for an event loop."""
    if connection.protocol == "http":
        from client.http_aio import AsyncHttpTransport

        return AsyncHttpTransport(connection)
    from client.grpc_aio import AsyncGrpcTransport

    return AsyncGrpcTransport(connection)
