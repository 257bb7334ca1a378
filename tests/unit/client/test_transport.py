"""The one table from library exception to our errors, addresses, tokens, and what is shown of a server's text."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from client import errors
from client.errors import InceptionError, InvalidRequest, NotAllowed, Overloaded, ServerUnavailable
from client.transport import (
    ERROR_BY_STATUS,
    MAX_CLEANED_CHARACTERS,
    GrpcTransport,
    address_from_url,
    cleaned,
    error_from_exception,
)


def test_every_grpc_status_is_in_the_table() -> None:
    """A status that gRPC adds must be given an error here before it can be released."""
    assert set(ERROR_BY_STATUS) == {str(status) for status in grpc.StatusCode}


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
def test_every_status_becomes_one_of_our_errors_with_a_full_message(status: grpc.StatusCode) -> None:
    """Never a KeyError while reporting an error; the message names the server and its reason."""
    error = error_from_exception(InferenceServerException("some reason", str(status)), "host:8001")
    assert type(error) is ERROR_BY_STATUS[str(status)]
    assert "host:8001" in str(error)
    assert "some reason" in str(error)


def test_every_error_of_the_tree_is_an_inception_error_with_a_known_exit_code() -> None:
    """DESIGN, section 6: 0 done, 1 fault, 2 usage, 3 incomplete, 4 a check failed."""
    ours = [each for each in vars(errors).values() if isinstance(each, type)]
    assert all(issubclass(each, InceptionError) and each.exit_code in {1, 2, 4} for each in ours)
    assert all(each.__name__ in (errors.__doc__ or "") for each in ours)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("This protocol is restricted, expecting header 'triton-grpc-protocol-inception-token'", NotAllowed),
        ("[request id: 1] Exceeds maximum queue size", Overloaded),
        ("Request timeout expired", Overloaded),
        ("failed to connect to all addresses; last error: ... Connection refused (111)", ServerUnavailable),
        ("", ServerUnavailable),
    ],
)
def test_unavailable_is_told_apart_by_its_text(text: str, kind: type[InceptionError]) -> None:
    """Triton says UNAVAILABLE to a missing token, to a full queue and to a dead server."""
    error = error_from_exception(InferenceServerException(text, "StatusCode.UNAVAILABLE"), "host:8001")
    assert type(error) is kind


def test_an_error_without_a_status_is_the_callers() -> None:
    """tritonclient itself refused what it was given."""
    error = error_from_exception(InferenceServerException("got unexpected numpy array shape [1]"), "host:8001")
    assert type(error) is InvalidRequest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("ValueError: boom\n\nAt:\n  /opt/models/1/model.py(40): execute\n", "ValueError: boom"),
        ("cannot open /opt/tritonserver/backends/python/x.so now", "cannot open (path) now"),
        ("C:\\models\\1\\model.py is missing", "(path) is missing"),
        ("ipv4:127.0.0.1:8001: refused", "ipv4:127.0.0.1:8001: refused"),
        ("red \x1b[31m text", "red  [31m text"),
        ("x" * 1000, "x" * MAX_CLEANED_CHARACTERS + "..."),
        ("", "no reason given"),
        ("  \n ", "no reason given"),
    ],
)
def test_a_servers_text_is_cut_to_one_short_line_without_paths(text: str, shown: str) -> None:
    """Paths, traces and terminal codes stay in the server's log."""
    assert cleaned(text) == shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8001", "localhost:8001"),
        ("grpc://gpu-7.example.org:8001", "gpu-7.example.org:8001"),
        ("grpc://10.0.0.1:8001/", "10.0.0.1:8001"),
        ("[::1]:8001", "[::1]:8001"),
    ],
)
def test_an_address_is_host_and_port_with_or_without_scheme(url: str, address: str) -> None:
    """The two accepted forms."""
    assert address_from_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:",
        ":8001",
        "http://localhost:8000",
        "grpcs://a:1",
        "a:0",
        "a:65536",
        "a b:1",
        "a:1/x",
        None,
    ],
)
def test_any_other_address_is_refused_with_the_accepted_form(url: str) -> None:
    """gRPC would take "http://..." for a host name and time out."""
    with pytest.raises(InvalidRequest, match="expected host:port or grpc://host:port"):
        address_from_url(url)


@pytest.mark.parametrize("token", ["", " x", "x\n", "caf\u00e9", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    """gRPC would fail later, and print it."""
    with pytest.raises(InvalidRequest) as caught:
        GrpcTransport("127.0.0.1:1", token)
    assert not token.strip() or token not in str(caught.value)
