"""The one table from what libraries and servers say to our errors: it is complete, and stays so when they grow."""

from __future__ import annotations

import ast
import http.client
import importlib
import inspect
import re
import ssl
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import grpc
import pytest

import client
from client import errors, mapping
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    NotAllowed,
    Overloaded,
    QueueFull,
    RegionLost,
    ServerUnavailable,
    TlsFailed,
    UnknownModel,
)
from client.mapping import (
    ERROR_BY_EXCEPTION,
    ERROR_BY_GRPC_STATUS,
    ERROR_BY_HTTP_STATUS,
    MAX_CLEANED_CHARACTERS,
    cleaned,
    error_from_exception,
    error_from_grpc,
    error_from_http,
)

CLIENT = Path(client.__file__).parent
ADDRESS = "http://host:8000"
WARNS = "a warning: nothing is raised"
WEBSOCKET = "no websocket is opened"
# Why an exception of a library, that `error_from_exception` does not know, cannot reach it.
UNREACHABLE = {
    "aiohttp": {
        "WSMessageTypeError": WEBSOCKET,
        "WebSocketError": WEBSOCKET,
        "BadContentDispositionHeader": WARNS,
        "BadContentDispositionParam": WARNS,
        "EofStream": "aiohttp's own signal between a stream and its reader",
    },
    "aiohttp.client_exceptions": {"WSMessageTypeError": WEBSOCKET},
    "aiohttp.http_exceptions": {},
    "http.client": {},
}
TRITONCLIENT = (
    "tritonclient.grpc",
    "tritonclient.grpc.aio",
    "tritonclient.http",
    "tritonclient.http.aio",
    "tritonclient.utils",
    "tritonclient.utils.shared_memory",
)


def exceptions_of(module: ModuleType) -> dict[str, type[BaseException]]:
    """By the names that the module has for them; Python's own are not the library's."""
    return {
        name: found
        for name, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, BaseException) and found.__module__ != "builtins"
    }


def bare(kind: type[BaseException]) -> BaseException:
    """An instance of it, whatever its `__init__` wants and its `__str__` needs of that."""
    told = type(kind.__name__, (kind,), {"__module__": kind.__module__, "__str__": lambda _self: "some reason"})
    return told.__new__(told)


def test_every_grpc_status_is_in_the_table() -> None:
    """A status that gRPC adds must be given an error here before it can be released."""
    assert set(ERROR_BY_GRPC_STATUS) == set(grpc.StatusCode)


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
def test_every_grpc_status_becomes_one_of_our_errors_with_a_full_message(status: grpc.StatusCode) -> None:
    """Never a KeyError while reporting an error; the message names the server and its reason."""
    error = error_from_grpc(status, "some reason", "host:8001")
    assert type(error) is ERROR_BY_GRPC_STATUS[status]
    assert "host:8001" in str(error)
    assert "some reason" in str(error)


@pytest.mark.parametrize("status", [*range(201, 600), 0, -1, 999])
def test_every_http_status_becomes_one_of_our_errors_with_a_full_message(status: int) -> None:
    """One that Triton does not use is no answer of Triton's."""
    error = error_from_http(status, "Request for unknown model: some reason", ADDRESS)
    assert type(error) is ERROR_BY_HTTP_STATUS.get(status, BadResponse)
    assert ADDRESS in str(error)
    assert "some reason" in str(error)


@pytest.mark.parametrize("module", UNREACHABLE)
def test_every_exception_of_a_library_is_mapped_or_cannot_reach_us(module: str) -> None:
    """A class that the library adds must be looked at; a reason for one that is mapped, or gone, is out of date."""
    unmapped = {
        name
        for name, kind in exceptions_of(importlib.import_module(module)).items()
        if error_from_exception(bare(kind), 1.0, ADDRESS) is None
    }
    assert unmapped == set(UNREACHABLE[module])


@pytest.mark.parametrize("name", ERROR_BY_EXCEPTION)
def test_every_row_of_the_table_names_a_class_that_exists(name: str) -> None:
    """A misspelled row would never be used."""
    package, _, attribute = name.partition(".")
    homes = {
        "http": [http.client],
        "aiohttp": [aiohttp, aiohttp.http_exceptions],
    }.get(package, [importlib.import_module(package)])
    kind = next(getattr(home, attribute) for home in homes if hasattr(home, attribute))
    error = error_from_exception(bare(kind), 1.0, ADDRESS)
    assert type(error) is ERROR_BY_EXCEPTION[name]
    assert ADDRESS in str(error)


def imported_by(path: Path) -> set[str]:
    """The full names of what a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return found


def test_tritonclients_exceptions_cannot_reach_us() -> None:
    """Of tritonclient only the generated messages are imported, and they raise none of its exceptions."""
    imported = {name for path in CLIENT.rglob("*.py") for name in imported_by(path) if name.startswith("tritonclient")}
    assert imported
    assert all(re.fullmatch(r"tritonclient\.grpc\.\w+_pb2", name) for name in imported), imported


@pytest.mark.parametrize("module", TRITONCLIENT)
def test_tritonclients_exceptions_are_the_known_ones(module: str) -> None:
    """A class that it adds must be looked at, though nothing of ours can raise it."""
    try:
        found = exceptions_of(importlib.import_module(module))
    except ImportError as error:  # an optional part that is not installed
        pytest.skip(str(error))
    theirs = {kind.__name__ for kind in found.values() if kind.__module__.startswith("tritonclient")}
    assert theirs <= {"InferenceServerException", "SharedMemoryException"}


def test_no_library_is_imported_that_is_not_in_the_table() -> None:
    """HTTP libraries are imported by the HTTP transports alone: who speaks gRPC never needs them."""
    for path in CLIENT.glob("*.py"):
        imported = imported_by(path)
        libraries = {name.partition(".")[0] for name in imported} & {"aiohttp", "yarl", "urllib3", "requests"}
        libraries |= {name for name in imported if name.startswith("http.client")}
        assert not libraries or path.name.startswith("http_"), path.name


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(111, "Connection refused"), ServerUnavailable),
        (http.client.RemoteDisconnected("gone"), ServerUnavailable),
        (http.client.IncompleteRead(b""), ServerUnavailable),
        (http.client.BadStatusLine("SSH-2.0"), BadResponse),
        (http.client.LineTooLong("header line"), BadResponse),
        (ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED"), TlsFailed),
        (ssl.SSLEOFError(8, "EOF occurred"), ServerUnavailable),
        (aiohttp.ServerDisconnectedError(), ServerUnavailable),
        (aiohttp.ClientPayloadError("cut"), ServerUnavailable),
        (aiohttp.SocketTimeoutError("late"), DeadlineExceeded),
        (aiohttp.ClientOSError(104, "reset"), ServerUnavailable),
        (aiohttp.ClientOSError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]"), TlsFailed),
        (ConnectionResetError(104, "reset"), ServerUnavailable),
        (TimeoutError(), DeadlineExceeded),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_an_exception_becomes_the_exact_kind(error: Exception, kind: type[InceptionError]) -> None:
    """The nearest class in the table, and for some a word in the text."""
    assert type(error_from_exception(error, 1.0, ADDRESS)) is kind


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_librarys_is_not_mapped(error: BaseException) -> None:
    """A fault of our own must be seen as one."""
    assert error_from_exception(error, 1.0, ADDRESS) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("This protocol is restricted, expecting header 'triton-grpc-protocol-inception-token'", NotAllowed),
        ("[request id: 1] Exceeds maximum queue size", QueueFull),
        ("Request timeout expired", Overloaded),
        ("failed to connect to all addresses; last error: ... Connection refused (111)", ServerUnavailable),
        ("Ssl handshake failed: SSL_ERROR_SSL: error:1000007d: CERTIFICATE_VERIFY_FAILED", TlsFailed),
        ("", ServerUnavailable),
    ],
)
def test_unavailable_is_told_apart_by_its_text(text: str, kind: type[InceptionError]) -> None:
    """Triton says UNAVAILABLE to a missing token, to a full queue and to a dead server; over HTTP, 503."""
    assert type(error_from_grpc(grpc.StatusCode.UNAVAILABLE, text, ADDRESS)) is kind
    assert type(error_from_http(503, text, ADDRESS)) is kind


def test_a_lost_region_is_no_unknown_model() -> None:
    """Triton has one status for both."""
    text = "Unable to find shared memory region: 'r1'"
    assert type(error_from_grpc(grpc.StatusCode.NOT_FOUND, text, ADDRESS)) is RegionLost
    assert type(error_from_http(404, text, ADDRESS)) is RegionLost
    assert type(error_from_http(404, "Request for unknown model: 'x' is not found", ADDRESS)) is UnknownModel
    assert type(error_from_http(404, "Not Found", ADDRESS)) is BadResponse


def test_a_models_own_words_do_not_change_the_kind() -> None:
    """A model may say anything: it failed."""
    error: Any = error_from_http(500, "RuntimeError: restricted, exceeds maximum queue size", ADDRESS)
    assert type(error) is InferenceFailed


def test_every_kind_in_the_tables_has_a_message() -> None:
    """And is one of the tree."""
    kinds = {*ERROR_BY_GRPC_STATUS.values(), *ERROR_BY_HTTP_STATUS.values(), *ERROR_BY_EXCEPTION.values()}
    kinds |= {kind for _, kind in (*mapping.TEXTS, *mapping.REGION_TEXTS)}
    assert kinds - {ClientClosed} <= set(mapping._WHAT_HAPPENED)
    assert all(getattr(errors, kind.__name__) is kind for kind in kinds)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a"),
        ("", "no reason given"),
        ("\x1b[31mred", "[31mred"),
        ("at /opt/models/x/1/model.py(17)", "at (path)(17)"),
        ("C:\\a\\b\\c.py failed", "(path) failed"),
        ("x" * 1000, "x" * MAX_CLEANED_CHARACTERS + "..."),
    ],
)
def test_a_servers_words_are_cut_to_a_short_line_without_paths(text: str, shown: str) -> None:
    """What else it said is for its own log."""
    assert cleaned(text) == shown
