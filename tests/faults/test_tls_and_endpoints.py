"""Encrypted connections, and several endpoints, through real proxies in front of the real server."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import DeadlineExceeded, InceptionClient, InceptionError, ServerUnavailable, Tls
from client.errors import TlsFailed

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
DEADLINE_S = 3.0
END_WITHIN_S = 1.5 * DEADLINE_S + 2.0


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server and a client that it signed, and an authority that signed neither."""

    folder: Path

    def path(self, name: str) -> Path:
        """ "ca.pem", "server.key" and so on."""
        return self.folder / name

    def server_context(self, protocol: str, *, wants_client: bool = False) -> ssl.SSLContext:
        """What a server speaks; `wants_client` for mutual TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.pem"), self.path("server.key"))
        context.set_alpn_protocols(["h2" if protocol == "grpc" else "http/1.1"])
        if wants_client:
            context.load_verify_locations(self.path("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made for one day."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the program openssl, which makes the certificates, is not on this machine")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "stranger"):
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        run("req", "-x509", *key, *files, "-days", "1", "-subj", f"/CN={authority}")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return Certificates(folder)


def failure(caller: Any, image: np.ndarray) -> InceptionError:
    """The error of one call, which came within its deadline."""
    started_s = time.monotonic()
    with pytest.raises(InceptionError) as raised:
        caller.classify(image, MODEL)
    assert time.monotonic() - started_s < END_WITHIN_S
    return raised.value


def test_the_right_authority_lets_calls_through(
    proxy: Callable[..., Any], connect: Any, certificates: Certificates, solid: Callable[[int], np.ndarray]
) -> None:
    """One call and a batch, encrypted."""
    protocol = connect.kind.protocol
    encrypted = proxy(protocol, certificates.server_context(protocol))
    caller = connect(encrypted, tls=Tls(certificates.path("ca.pem")))
    assert caller.classify(solid(5), MODEL).best.index == 5
    results = caller.classify_batch([solid(value) for value in range(20)], MODEL)
    assert [result.best.index for result in results] == list(range(20))


@pytest.mark.parametrize("authority", ["stranger.pem", None])
def test_a_certificate_of_another_authority_is_refused_once(
    proxy: Callable[..., Any],
    connect: Any,
    certificates: Certificates,
    solid: Callable[[int], np.ndarray],
    authority: str | None,
) -> None:
    """`TlsFailed`, not tried again: the next try would be refused as well."""
    protocol = connect.kind.protocol
    encrypted = proxy(protocol, certificates.server_context(protocol))
    tls = None if authority is None else Tls(certificates.path(authority))
    error = failure(connect(encrypted, timeout_s=DEADLINE_S, tls=tls), solid(5))
    assert type(error) is TlsFailed
    assert "CA file" in str(error)
    if protocol == "http":  # gRPC connects by its own clock
        assert encrypted.connections == 1


def test_a_plain_client_of_an_encrypted_port_fails_in_time(
    proxy: Callable[..., Any],
    connect: Any,
    certificates: Certificates,
    solid: Callable[[int], np.ndarray],
    address: Callable[..., Any],
) -> None:
    """Not TLS on one side: any error of the client's own, within the deadline."""
    encrypted = proxy(connect.kind.protocol, certificates.server_context(connect.kind.protocol))
    host = f"127.0.0.1:{encrypted.port}"
    error = failure(connect(address(host, f"http://{host}", encrypted.token), timeout_s=DEADLINE_S), solid(5))
    assert isinstance(error, ServerUnavailable | DeadlineExceeded)


def test_an_encrypted_client_of_a_plain_port_fails_in_time(
    proxy: Callable[..., Any],
    connect: Any,
    certificates: Certificates,
    solid: Callable[[int], np.ndarray],
    address: Callable[..., Any],
) -> None:
    """The other way round."""
    host = f"127.0.0.1:{proxy(connect.kind.protocol).port}"
    where = address(f"grpcs://{host}", f"https://{host}", "token")
    error = failure(connect(where, timeout_s=DEADLINE_S, tls=Tls(certificates.path("ca.pem"))), solid(5))
    assert isinstance(error, ServerUnavailable | DeadlineExceeded)


def test_mutual_tls_wants_the_certificate_of_the_client(
    proxy: Callable[..., Any], connect: Any, certificates: Certificates, solid: Callable[[int], np.ndarray]
) -> None:
    """With it the calls go through; without it there is an error in time."""
    protocol = connect.kind.protocol
    encrypted = proxy(protocol, certificates.server_context(protocol, wants_client=True))
    tls = Tls(certificates.path("ca.pem"), certificates.path("client.pem"), certificates.path("client.key"))
    assert connect(encrypted, tls=tls).classify(solid(6), MODEL).best.index == 6
    error = failure(connect(encrypted, timeout_s=DEADLINE_S, tls=Tls(certificates.path("ca.pem"))), solid(6))
    assert isinstance(error, ServerUnavailable)


def test_calls_go_on_when_one_of_two_endpoints_is_gone(
    proxy: Callable[..., Any], obedient: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """`round_robin`: both were used; after one has closed its port and its connections, every call is answered."""
    first, second = proxy("grpc"), proxy("grpc")
    with InceptionClient([first.grpc_url, second.grpc_url], token=obedient.token, timeout_s=10.0) as client:

        def both_are_used() -> bool:
            client.classify(solid(1), MODEL)
            return first.connections > 0 < second.connections

        assert wait_until(both_are_used)
        first.close()
        assert [client.classify(solid(value), MODEL).best.index for value in range(40)] == list(range(40))
