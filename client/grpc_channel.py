"""How a gRPC channel is made: target, options and credentials, the same for calls that wait and for asyncio."""

from __future__ import annotations

import json
from pathlib import Path

import grpc

from client.connection import Connection, Tls
from client.errors import InvalidRequest

# A config with 1000 labels is 40 KB, a reply 4 KB, eight crops 2 MB: what is larger is no message of ours.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# gRPC doubles its pause between connection attempts up to two minutes; a restarted server is back in seconds. (Its
# "min_reconnect_backoff" is the time that an attempt may take, and is left at 20 s.)
MAX_RECONNECT_PAUSE_MS = 500
FIRST_RECONNECT_PAUSE_MS = 100
_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def target_of(connection: Connection) -> str:
    """What gRPC is to resolve: one address as it is, several as one list of addresses."""
    if len(connection.addresses) == 1:
        return connection.addresses[0]
    kind = "ipv6" if connection.addresses[0].startswith("[") else "ipv4"
    return f"{kind}:{','.join(connection.addresses)}"


def options_of(connection: Connection) -> list[tuple[str, int | str]]:
    """Limits, reconnection, load balancing and keep-alive."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_PAUSE_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_PAUSE_MS),
        # Clients of one process would otherwise share one connection, and its back-off.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if connection.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))  # a proxy has another loopback
    if len(connection.addresses) > 1 or not connection.is_loopback:  # a DNS name may stand for several servers
        options.append(("grpc.service_config", _ROUND_ROBIN))
    if connection.keepalive_s is not None:
        options.append(("grpc.keepalive_time_ms", round(connection.keepalive_s * 1e3)))
    return options


def credentials_of(connection: Connection) -> grpc.ChannelCredentials | None:
    """The certificates of an encrypted connection, None for a plain one; `InvalidRequest` for a file not readable."""
    if not connection.is_encrypted:
        return None
    tls: Tls = connection.tls
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(tls.ca_file),
        private_key=_pem(tls.key_file),
        certificate_chain=_pem(tls.certificate_file),
    )


def _pem(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}; expected a PEM file") from error
    if b"-----BEGIN " not in content:
        raise InvalidRequest(f"{path} is no PEM file: expected -----BEGIN ...")
    return content
