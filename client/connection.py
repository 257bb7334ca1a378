"""Where a server is and how it is reached, as one value: addresses, protocol, TLS, token, headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from client.errors import InvalidRequest

# scheme -> (protocol, is TLS spoken). A bare host means gRPC.
SCHEMES = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
USUAL_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}
MAX_KEEPALIVE_S = 86_400.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

_URL = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)?"
)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_PATH_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
# What the transports set themselves.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "inference-header-content-length",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files: `ca_file` of who signed the server's (None: the system's), and for mutual TLS the
    client's own `certificate_file` with its `key_file`.
    """

    ca_file: Path | str | None = None
    certificate_file: Path | str | None = None
    key_file: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidRequest("mutual TLS needs certificate_file and key_file, and one of them was given alone")


@dataclass(frozen=True)
class Connection:
    """One server or several that serve the same: `protocol` is "grpc" or "http", `addresses` are "host:port".

    `path` is the prefix under which a proxy offers Triton's HTTP API. `keepalive_s` is the pause after which an idle
    gRPC connection is probed; None never.
    """

    protocol: str
    addresses: tuple[str, ...]
    is_encrypted: bool = False
    path: str = ""
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Tls = Tls()
    keepalive_s: float | None = None

    @property
    def shown(self) -> str:
        """The address for messages, with its scheme where that is not plain gRPC."""
        scheme = self.protocol + ("s" if self.is_encrypted else "")
        address = ",".join(self.addresses)
        return address if scheme == "grpc" else f"{scheme}://{address}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether no address leads off this machine: then a proxy from the environment would be another machine's."""
        return all(address.rpartition(":")[0] in LOOPBACK for address in self.addresses)


def connection_from_urls(
    url: str | Sequence[str],
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    tls: Tls | None = None,
    keepalive_s: float | None = None,
) -> Connection:
    """The connection that `url` means: one address, or several of one gRPC scheme for gRPC's `round_robin`.

    Raises `InvalidRequest` for what is no address, a token or header that cannot be sent, TLS files with a scheme that
    is not encrypted, and several addresses over HTTP or by name (one DNS name with several addresses does).
    """
    urls = (url,) if isinstance(url, str) else tuple(url) if isinstance(url, Sequence) else (url,)
    if not urls:
        raise InvalidRequest("no address was given; expected one such as localhost:8001, or several")
    parsed = [_parsed(each) for each in urls]
    scheme, _, path = parsed[0]
    protocol, is_encrypted = SCHEMES[scheme]
    if len(parsed) > 1:
        _check_several(parsed)
    if tls is not None and not is_encrypted:
        raise InvalidRequest(f"TLS files were given for {scheme}://, which is not encrypted: write {scheme}s://")
    is_number = isinstance(keepalive_s, int | float) and not isinstance(keepalive_s, bool)
    if keepalive_s is not None and not (is_number and 1.0 <= keepalive_s <= MAX_KEEPALIVE_S):
        raise InvalidRequest(
            f"keepalive_s is {keepalive_s!r}; expected 1 to {MAX_KEEPALIVE_S:g} seconds, or None for no probes"
        )
    if not isinstance(headers, Mapping | None):
        raise InvalidRequest(f"headers is a {type(headers).__name__}; expected a mapping of names to values")
    return Connection(
        protocol=protocol,
        addresses=tuple(address for _, address, _ in parsed),
        is_encrypted=is_encrypted,
        path=path,
        token=None if token is None else _checked_value("token", token),
        headers={
            _checked_header(name): _checked_value(f"header {name}", value) for name, value in (headers or {}).items()
        },
        tls=tls or Tls(),
        keepalive_s=keepalive_s,
    )


def _parsed(url: object) -> tuple[str, str, str]:
    """Scheme, "host:port" and path prefix of one address."""
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    scheme = (match["scheme"] or "grpc") if match else ""
    if match is not None and scheme in SCHEMES:
        port = int(match["port"]) if match["port"] else USUAL_PORTS[scheme]
        path = (match["path"] or "").rstrip("/")
        is_path_right = scheme.startswith("http") or not path
        if 1 <= port <= 65_535 and is_path_right and _PATH_PREFIX.fullmatch(path):
            return scheme, f"{match['host']}:{port}", path
    shown = re.sub(r"//[^/@]*@", "//...@", url) if isinstance(url, str) else url  # a password is not to be shown
    raise InvalidRequest(
        f"the address {shown!r} is not understood; expected host:port or grpc://host:port (Triton's gRPC port is "
        "usually 8001), grpcs://, http://host:port (usually 8000) or https://"
    )


def _check_several(parsed: Sequence[tuple[str, str, str]]) -> None:
    schemes = {scheme for scheme, _, _ in parsed}
    if len(schemes) > 1 or not schemes <= {"grpc", "grpcs"}:
        raise InvalidRequest(
            f"several addresses need one gRPC scheme, and these have {', '.join(sorted(schemes))}: over HTTP, put a "
            "proxy in front"
        )
    versions = set()
    for _, address, _ in parsed:
        host = address.rpartition(":")[0].strip("[]")
        try:
            versions.add(ip_address(host).version)
        except ValueError as error:
            raise InvalidRequest(
                f"{address!r} is a name, and several endpoints are given by IP address: give addresses, or one DNS "
                "name that has them all"
            ) from error
    if len(versions) > 1:
        raise InvalidRequest("IPv4 and IPv6 addresses cannot be mixed in one client: give one kind")


def _checked_header(name: str) -> str:
    lowered = name.lower() if isinstance(name, str) else ""
    if not _HEADER_NAME.fullmatch(lowered) or lowered in _OWN_HEADERS or lowered.endswith("-bin"):
        raise InvalidRequest(f"{name!r} cannot be sent as a header of yours: expected a plain ASCII header name")
    return lowered


def _checked_value(what: str, value: str) -> str:
    if (
        not isinstance(value, str)
        or not value
        or not value.isascii()
        or not value.isprintable()
        or value != value.strip()
    ):
        raise InvalidRequest(
            f"the {what} holds characters that a header cannot carry, or is empty; expected printable ASCII without "
            "spaces around it"
        )
    return value
