"""Addresses, tokens, headers and TLS as one value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.connection import Tls, connection_from_urls
from client.errors import InvalidRequest
from client.grpc_channel import credentials_of, options_of, target_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("localhost:8001", "localhost:8001"),
        ("localhost", "localhost:8001"),
        ("grpc://gpu-7.example.org:8001", "gpu-7.example.org:8001"),
        ("grpc://10.0.0.1:8001/", "10.0.0.1:8001"),
        ("[::1]:8001", "[::1]:8001"),
        ("grpcs://a:1", "grpcs://a:1"),
        ("http://localhost", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://proxy.example.org/triton", "https://proxy.example.org:443/triton"),
    ],
)
def test_an_address_is_host_and_port_and_a_scheme_says_the_protocol(url: str, shown: str) -> None:
    """A bare host means gRPC; the port is Triton's usual one where none is given."""
    assert connection_from_urls(url).shown == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:",
        ":8001",
        "ftp://a:1",
        "a:0",
        "a:65536",
        "a b:1",
        "a:1/x",
        "http://a:1/..%2f",
        "http://u:p@a:1",
        None,
        8001,
        b"a:1",
    ],
)
def test_any_other_address_is_refused_with_the_accepted_forms(url: Any) -> None:
    """gRPC would take much of this for a host name and time out."""
    with pytest.raises(InvalidRequest, match="expected host:port or grpc://host:port"):
        connection_from_urls(url)


def test_several_addresses_are_one_grpc_target_used_in_turn() -> None:
    """gRPC's own round_robin; a single loopback address has no policy to follow."""
    connection = connection_from_urls(["127.0.0.1:8001", "grpc://127.0.0.2:8001"])
    assert target_of(connection) == "ipv4:127.0.0.1:8001,127.0.0.2:8001"
    assert "round_robin" in str(dict(options_of(connection))["grpc.service_config"])
    assert "grpc.service_config" not in dict(options_of(connection_from_urls("localhost:8001")))
    assert "grpc.service_config" in dict(options_of(connection_from_urls("inference.example.org:8001")))


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        ([], "no address"),
        (["http://127.0.0.1:1", "http://127.0.0.2:1"], "put a proxy in front"),
        (["127.0.0.1:1", "grpcs://127.0.0.2:1"], "one gRPC scheme"),
        (["gpu-1:8001", "gpu-2:8001"], "one DNS name"),
        (["127.0.0.1:1", "[::1]:1"], "cannot be mixed"),
    ],
)
def test_addresses_that_cannot_be_used_in_turn_are_refused(urls: list[str], why: str) -> None:
    """Each with the way out."""
    with pytest.raises(InvalidRequest, match=why):
        connection_from_urls(urls)


@pytest.mark.parametrize("token", ["", " x", "x\n", "caf\u00e9", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    """gRPC would fail later, and print it."""
    with pytest.raises(InvalidRequest) as caught:
        connection_from_urls("127.0.0.1:1", token=token)
    assert not token.strip() or token not in str(caught.value)


def test_a_token_and_headers_are_not_shown(token: str) -> None:
    """A connection may be logged."""
    connection = connection_from_urls("a:1", token=token, headers={"authorization": "Bearer secret"})
    assert token not in repr(connection)
    assert "secret" not in repr(connection)


@pytest.mark.parametrize(
    "headers", [{"a b": "x"}, {"": "x"}, {"host": "x"}, {"x-bin": "x"}, {"x": "a\nb"}, {"x": 3}, {3: "x"}]
)
def test_a_header_that_cannot_be_sent_is_refused(headers: Any) -> None:
    """Before a request is built of it."""
    with pytest.raises(InvalidRequest, match="header"):
        connection_from_urls("a:1", headers=headers)


def test_tls_needs_an_encrypted_scheme_and_whole_pairs(tmp_path: Path) -> None:
    """A certificate on a plain connection would be a false comfort."""
    with pytest.raises(InvalidRequest, match="write grpcs://"):
        connection_from_urls("grpc://a:1", tls=Tls(ca_file=tmp_path / "ca.pem"))
    with pytest.raises(InvalidRequest, match="certificate_file and key_file"):
        Tls(certificate_file=tmp_path / "client.pem")


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """gRPC would only fail to shake hands."""
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for path, why in ((missing, "No such file"), (wrong, "no PEM file")):
        with pytest.raises(InvalidRequest, match=why):
            credentials_of(connection_from_urls("grpcs://a:1", tls=Tls(ca_file=path)))


@pytest.mark.parametrize("keepalive_s", [0, 0.5, -1, float("nan")])
def test_probes_more_often_than_a_second_are_refused(keepalive_s: float) -> None:
    """A server ends connections that ask too often."""
    with pytest.raises(InvalidRequest, match="keepalive_s"):
        connection_from_urls("a:1", keepalive_s=keepalive_s)
