"""The one table from what a library or a server says went wrong to our errors, for gRPC and HTTP alike.

    gRPC status, HTTP status, exception of http.client or aiohttp  ->  a kind of `InceptionError`  ->  its message

Triton says several things with one status: the texts in `TEXTS` are looked for first.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import grpc

from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    QueueFull,
    RegionLost,
    ServerUnavailable,
    TlsFailed,
    UnknownModel,
)

MAX_CLEANED_CHARACTERS = 160

ERROR_BY_GRPC_STATUS: dict[grpc.StatusCode, type[InceptionError]] = {
    grpc.StatusCode.OK: BadResponse,  # an error that says it is none
    grpc.StatusCode.CANCELLED: ServerUnavailable,  # by the server, as it shuts down
    grpc.StatusCode.UNKNOWN: InferenceFailed,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,  # a shared-memory region of that name
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: InferenceFailed,
    grpc.StatusCode.ABORTED: InferenceFailed,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: BadResponse,  # a gRPC server, but not Triton
    grpc.StatusCode.INTERNAL: InferenceFailed,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DATA_LOSS: BadResponse,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
}
# What Triton answers over HTTP, and what a proxy in front of it may; any other status is no answer of Triton's.
ERROR_BY_HTTP_STATUS: dict[int, type[InceptionError]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: NotAllowed,
    HTTPStatus.FORBIDDEN: NotAllowed,
    HTTPStatus.NOT_FOUND: UnknownModel,
    HTTPStatus.REQUEST_TIMEOUT: DeadlineExceeded,
    HTTPStatus.CONFLICT: InvalidRequest,  # a shared-memory region of that name
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: InvalidRequest,
    HTTPStatus.TOO_MANY_REQUESTS: Overloaded,
    HTTPStatus.INTERNAL_SERVER_ERROR: InferenceFailed,
    HTTPStatus.BAD_GATEWAY: ServerUnavailable,  # a proxy that finds no server behind it
    HTTPStatus.SERVICE_UNAVAILABLE: ServerUnavailable,
    HTTPStatus.GATEWAY_TIMEOUT: DeadlineExceeded,
}
# "library.Class" of an exception, or of the nearest class it derives from; names, because a table of the classes
# themselves would import libraries that a gRPC client never needs.
ERROR_BY_EXCEPTION: dict[str, type[InceptionError]] = {
    # HTTP, calls that wait
    "http.RemoteDisconnected": ServerUnavailable,
    "http.IncompleteRead": ServerUnavailable,
    "http.HTTPException": BadResponse,  # a status line or header that is none
    # HTTP, asyncio
    "aiohttp.ClientError": BadResponse,
    "aiohttp.ClientConnectionError": ServerUnavailable,
    "aiohttp.ServerTimeoutError": DeadlineExceeded,
    "aiohttp.ClientConnectorError": ServerUnavailable,
    "aiohttp.ClientConnectorCertificateError": TlsFailed,
    "aiohttp.ClientSSLError": TlsFailed,
    "aiohttp.ClientPayloadError": ServerUnavailable,  # the body was cut
    "aiohttp.HttpProcessingError": BadResponse,
    # both
    "ssl.SSLError": TlsFailed,
    "ssl.SSLEOFError": ServerUnavailable,  # the other side is gone, without a word of TLS
    "ssl.SSLZeroReturnError": ServerUnavailable,
    "builtins.TimeoutError": DeadlineExceeded,
    "builtins.OSError": ServerUnavailable,
}
# Found in the lowered text of an error of one of the kinds after them.
TEXTS: tuple[tuple[str, type[InceptionError]], ...] = (
    ("restricted", NotAllowed),  # Triton 2.51 answers a missing token with UNAVAILABLE
    ("exceeds maximum queue size", QueueFull),
    ("request timeout expired", Overloaded),
    ("certificate_verify_failed", TlsFailed),
    ("ssl handshake failed", TlsFailed),
    ("ssl_error_ssl", TlsFailed),
    ("_alert_", TlsFailed),  # OpenSSL's name for what the other side refused, such as a missing certificate
)
_KINDS_WITH_TEXTS = (ServerUnavailable, Overloaded)
# Triton 2.51 says NOT_FOUND and 404 of a region, too, and INTERNAL and 500 of one that it cannot map.
REGION_TEXTS: tuple[tuple[str, type[InceptionError]], ...] = (
    ("unable to find shared memory region", RegionLost),
    ("unable to find system shared memory region", RegionLost),
    ("unable to open shared memory region", InvalidRequest),
    ("invalid shared memory region", InvalidRequest),
)
_KINDS_WITH_REGION_TEXTS = (UnknownModel, InferenceFailed)
# Every 404 of Triton 2.51 for a model has it; one without is of a path that the server does not have.
_UNKNOWN_MODEL = "unknown model"

_WHAT_HAPPENED: dict[type[InceptionError], str] = {
    BadResponse: "{address} gave an answer that is not Triton's: {text}; is this the address of a Triton server?",
    ServerUnavailable: "no server answers at {address}: {text}; start it, or give its address",
    TlsFailed: "no encrypted connection to {address}: {text}; check the CA file, the names in the certificate, and "
    "whether that port speaks TLS",
    DeadlineExceeded: "{address} did not answer in time: {text}; raise timeout_s, or send less at once",
    InvalidRequest: "{address} refused the request: {text}; the same request will be refused again",
    RegionLost: "{address} does not know the shared memory of the request: {text}; open it again",
    UnknownModel: "{address} does not serve that model: {text}",
    NotAllowed: "{address} restricts this call: {text}; give the right token",
    Overloaded: "{address} is overloaded: {text}; try again later, or send less at once",
    QueueFull: "{address} is overloaded: {text}; try again later, or send less at once",
    InferenceFailed: "the model failed at {address}: {text}; the server's log says why",
}


def error_from_grpc(status: grpc.StatusCode, text: str, address: str) -> InceptionError:
    """Our error for a call that ended with `status` and the server's `text`."""
    return _error(ERROR_BY_GRPC_STATUS[status], text, address)


def error_from_http(status: int, text: str, address: str) -> InceptionError:
    """Our error for an answer with an HTTP status other than 200 and the server's `text`."""
    kind = ERROR_BY_HTTP_STATUS.get(status)
    if kind is None:
        return _error(BadResponse, f"HTTP status {status}, {text}", address)
    error = _error(kind, text, address)
    if type(error) is UnknownModel and _UNKNOWN_MODEL not in text.lower():
        return _error(BadResponse, f"HTTP status {status}, {text}", address)
    return error


def error_from_exception(error: BaseException, timeout_s: float, address: str) -> InceptionError | None:
    """Our error for what http.client, aiohttp or a socket raised; None for what is none of theirs."""
    for kind in type(error).__mro__:
        mapped = ERROR_BY_EXCEPTION.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
        if mapped is DeadlineExceeded:
            return too_late(timeout_s, address)
        if mapped is ClientClosed:
            return closed(address)
        if mapped is not None:
            return _error(mapped, str(error) or type(error).__name__, address)
    return None


def not_triton(text: str, address: str) -> BadResponse:
    """Our error for an answer that cannot be read."""
    return BadResponse(_WHAT_HAPPENED[BadResponse].format(address=address, text=cleaned(text)))


def too_late(timeout_s: float, address: str) -> DeadlineExceeded:
    """Our error for a call that the client itself gave up."""
    text = f"no answer within {timeout_s:.3g} s"
    return DeadlineExceeded(_WHAT_HAPPENED[DeadlineExceeded].format(address=address, text=text))


def closed(address: str) -> ClientClosed:
    """Our error for a call on a connection that was closed."""
    return ClientClosed(f"the client of {address} was closed; make a new one")


def _error(kind: type[InceptionError], text: str, address: str) -> InceptionError:
    texts = TEXTS if kind in _KINDS_WITH_TEXTS else REGION_TEXTS if kind in _KINDS_WITH_REGION_TEXTS else ()
    lowered = text.lower()
    kind = next((special for part, special in texts if part in lowered), kind)
    return kind(_WHAT_HAPPENED[kind].format(address=address, text=cleaned(text)))


# Two separators or more make a path, or one after a drive or a dot: "and/or" is none.
_PATH = re.compile(
    r"(?<![\w.])(?:[A-Za-z]:[/\\]|\.{1,2}[/\\])[\w.+@~/\\-]*|(?<![\w.])[\w.+@~-]*(?:[/\\][\w.+@~-]+){2,}[/\\]?"
)


def cleaned(text: str) -> str:
    """A server's first line, short, without file paths and control characters: the rest belongs in its own log."""
    first_line = text.strip().partition("\n")[0]
    printable = "".join(each if each.isprintable() else " " for each in first_line)
    without_paths = _PATH.sub("(path)", printable).strip()
    if len(without_paths) > MAX_CLEANED_CHARACTERS:
        return f"{without_paths[:MAX_CLEANED_CHARACTERS]}..."
    return without_paths or "no reason given"
