"""The one table from library exception to our errors, addresses, tokens, and what is shown of a server's text."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from client import errors
from client.errors import InceptionError, InvalidRequest, NotAllowed, Overloaded, ServerUnavailable
from client.transport import (
    ERROR_BY_STATUS,
    MAX_CLEANED_CHARACTERS,
    GrpcTransport,
    address_from_url,
    cleaned,
    error_from_status,
    with_raw_input,
)


def test_every_grpc_status_is_in_the_table() -> None:
    """A status that gRPC adds must be given an error here before it can be released."""
    assert set(ERROR_BY_STATUS) == set(grpc.StatusCode)


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
def test_every_status_becomes_one_of_our_errors_with_a_full_message(status: grpc.StatusCode) -> None:
    """Never a KeyError while reporting an error; the message names the server and its reason."""
    error = error_from_status(status, "some reason", "host:8001")
    assert type(error) is ERROR_BY_STATUS[status]
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
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, text, "host:8001")
    assert type(error) is kind


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 6, 7, 3), (1, 299, 299, 3), (8, 299, 299, 3)])
def test_a_request_written_in_parts_is_the_one_protobuf_would_write(shape: tuple[int, ...]) -> None:
    """The pixels are appended to the message by hand; every length of the length field must come out right."""
    batch = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    header = service_pb2.ModelInferRequest(model_name="inception_v3_fp32")
    header.inputs.add(name="image", datatype="UINT8", shape=shape)
    expected = service_pb2.ModelInferRequest()
    expected.CopyFrom(header)
    expected.raw_input_contents.append(batch.tobytes())
    assert service_pb2.ModelInferRequest.FromString(with_raw_input(header, batch)) == expected


def test_a_strided_view_is_sent_in_its_own_order() -> None:
    """A caller may hold a view; its bytes in memory are not its pixels."""
    batch = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)[::-1, :, ::2]
    sent = service_pb2.ModelInferRequest.FromString(with_raw_input(service_pb2.ModelInferRequest(), batch))
    assert [batch.tobytes()] == list(sent.raw_input_contents)


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
