"""Both HTTP transports against real sockets: what a server may do to a call, and that it ends as it should, in time."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.connection import Tls, connection_from_urls
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InvalidRequest,
    NotAllowed,
    ServerUnavailable,
    TlsFailed,
    UnknownModel,
)
from client.http_aio import AsyncHttpTransport
from client.http_channel import MAX_REPLY_BYTES
from client.http_transport import HttpTransport
from client.operations import (
    AskReady,
    Infer,
    ListModels,
    ListRegions,
    ReadConfig,
    ReadStatistics,
    ReadVersion,
    Region,
    RegisterRegion,
    Slot,
    UnregisterRegion,
)

MODEL = "googlenet_fp32"
READY = AskReady(MODEL)
INDEX = ListModels()
BATCH = np.random.default_rng(0).integers(0, 256, (8, 299, 299, 3), dtype=np.uint8)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TIMEOUT_S = 0.4
# This machine may be busy: a call is late only when it took many times as long as it was given.
LATEST_S = 10.0

Behave = Callable[[socket.socket, int], None]


@contextmanager
def in_time(latest_s: float = LATEST_S) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < latest_s


@pytest.fixture
def saying(serve_raw: Callable[[Behave], str], read_request: Callable[[socket.socket], bytes]) -> Callable[..., str]:
    """`saying(part, ...)` answers every request with these bytes, a pause (a number of seconds) or another's call."""

    def serve(*parts: Any, is_kept: bool = False) -> str:
        def behave(connection: socket.socket, _number: int) -> None:
            while read_request(connection):
                for part in parts:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    elif callable(part):
                        part(connection)
                    else:
                        time.sleep(part)
                if not is_kept:
                    return

        return serve_raw(behave)

    return serve


def reset(connection: socket.socket) -> None:
    """Close so that the other side gets RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def until_gone(connection: socket.socket) -> None:
    """Say nothing until the client goes, or the test ends."""
    while connection.recv(65_536):
        pass


def drip(connection: socket.socket) -> None:
    """A byte now and then, for ever; the client goes at last."""
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def pour(connection: socket.socket) -> None:
    """Much more than is read."""
    for _ in range(4 * MAX_REPLY_BYTES // 65_536):
        connection.sendall(b" " * 65_536)


def in_chunks(connection: socket.socket) -> None:
    """The same, as one endless chunked body."""
    while True:
        connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")


def test_every_operation_has_its_answer(ask: Callable[..., list[Any]], small: Any, http_token: str) -> None:
    """One transport asks them all."""
    region = Region("r1", "/inception-r1", 4096)
    operations = (
        INDEX,
        READY,
        AskReady("nope"),
        ReadVersion(MODEL),
        ReadConfig(MODEL),
        ReadStatistics(),
        Infer(MODEL, "image", BATCH),
        RegisterRegion(region),
        ListRegions(),
        Infer(MODEL, "image", BATCH, Slot("r1", 0, BATCH.nbytes)),
        UnregisterRegion("r1"),
        UnregisterRegion("r1"),
        ListRegions(),
    )
    answers = ask(small.url, *operations, token=http_token)
    index, is_ready, is_other_ready, version, config, statistics, reply = answers[:7]
    assert [(entry.name, entry.is_ready, entry.is_unloaded) for entry in index] == [
        (MODEL, True, False),
        ("other", False, True),
    ]
    assert (is_ready, is_other_ready, version) == (True, False, "10")
    assert config.inputs[0].dims == (224, 224, 3)
    assert config.parameters == {"release": "0123456789abcdef"}
    assert (statistics[0].images, statistics[0].executions, statistics[0].queue.sum_ms) == (4, 2, 3.0)
    assert reply.outputs[0].shape == (8, 1000)
    assert answers[7:9] == [None, (region,)]
    assert answers[10:] == [None, None, ()]
    assert len(small.batches) == 1
    assert np.array_equal(small.batches[0], BATCH)
    assert 0 < small.inferences[0]["parameters"]["timeout"] <= 5_000_000


def test_one_connection_carries_all_calls_and_no_cookie(ask: Callable[..., list[Any]], small: Any) -> None:
    """A connection is kept; what the server wants remembered is not."""
    ask(small.url, *[READY] * 5)
    assert len(small.peers) == 1
    assert not any("cookie" in headers for _, _, headers in small.requests)


def test_token_headers_and_path_are_sent(ask: Callable[..., list[Any]], small: Any, http_token: str) -> None:
    """The user's headers go with every request; nothing asks for a compressed reply."""
    ask(small.url, READY, INDEX, token=http_token, headers={"X-Tenant": "me"})
    with pytest.raises(UnknownModel):
        ask(f"{small.url}/behind/proxy", ReadVersion(MODEL))
    for _, _, headers in small.requests[:2]:
        assert headers["x-tenant"] == "me"
        assert headers["inception-token"] == http_token
        assert headers["accept-encoding"] == "identity"
        assert "transfer-encoding" not in headers
    assert small.requests[2][1] == f"/behind/proxy/v2/models/{MODEL}"


def test_a_restricted_call_is_not_allowed(ask: Callable[..., list[Any]], small: Any) -> None:
    """403 is about the token, not about the server's health."""
    with pytest.raises(NotAllowed):
        ask(small.url, INDEX)


def test_environment_proxies_are_not_used(
    ask: Callable[..., list[Any]], small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would have another loopback."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(small.url, READY) == [True]


def test_refused(ask: Callable[..., list[Any]]) -> None:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with in_time(), pytest.raises(ServerUnavailable, match=str(port)) as caught:
        ask(f"http://127.0.0.1:{port}", READY)
    assert caught.value.is_retryable


def test_a_name_that_does_not_exist(ask: Callable[..., list[Any]]) -> None:
    """`.invalid` never does."""
    with in_time(), pytest.raises(InceptionError) as caught:
        ask("http://no-such-host.invalid:8000", READY)
    assert type(caught.value) in {ServerUnavailable, DeadlineExceeded}


HEAD_200 = OK + b"Content-Length: 200\r\n\r\n"
MISBEHAVIOURS: dict[str, tuple[tuple[Any, ...], type[InceptionError]]] = {
    "closed without a word": ((), ServerUnavailable),
    "reset": ((reset,), ServerUnavailable),
    "cut in the status line": ((b"HTTP/1.",), InceptionError),
    "cut in the headers": ((OK + b"Content-Le",), InceptionError),
    "cut in the body": ((HEAD_200 + b"[]",), ServerUnavailable),
    "reset in the body": ((HEAD_200 + b"[]", reset), ServerUnavailable),
    "cut in a chunk": ((OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n[]",), ServerUnavailable),
    "a chunk of no length": ((OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n[]",), InceptionError),
    "black hole": ((until_gone,), DeadlineExceeded),
    "black hole after the headers": ((HEAD_200, until_gone), DeadlineExceeded),
    "dripping status line": ((b"HTTP/1.1 200 ", drip), DeadlineExceeded),
    "dripping header": ((OK + b"X-Slow: ", drip), DeadlineExceeded),
    "dripping body": ((OK + b"Content-Length: 1000000\r\n\r\n", drip), DeadlineExceeded),
    "no HTTP": ((b"SSH-2.0-OpenSSH_9.6\r\n\r\n",), BadResponse),
    "binary": ((bytes(range(128, 256)) * 8 + b"\r\n\r\n",), BadResponse),
    "a web page": ((OK + b"Content-Length: 6\r\n\r\n<html>",), BadResponse),
    "compressed": ((OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",), BadResponse),
    "no content": ((b"HTTP/1.1 204 No Content\r\n\r\n",), BadResponse),
    "redirect": ((b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",), BadResponse),
    "huge by its length": ((OK + b"Content-Length: 99999999999\r\n\r\n", pour), BadResponse),
    "huge without a length": ((OK + b"Connection: close\r\n\r\n", pour), BadResponse),
    "huge in chunks": ((OK + b"Transfer-Encoding: chunked\r\n\r\n", in_chunks), BadResponse),
    "deep": ((OK + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,), BadResponse),
    "a header without an end": ((OK + b"X: " + b"x" * 1_000_000,), BadResponse),
}


@pytest.mark.parametrize("operation", [INDEX, Infer(MODEL, "image", BATCH)], ids=["index", "infer"])
@pytest.mark.parametrize("case", MISBEHAVIOURS)
def test_whatever_a_server_does_one_of_our_errors_says_so_in_time(
    ask: Callable[..., list[Any]], saying: Callable[..., str], case: str, operation: Any
) -> None:
    """Only `InceptionError`s, and at the deadline at the latest."""
    parts, kind = MISBEHAVIOURS[case]
    timeout_s = TIMEOUT_S if kind is DeadlineExceeded else LATEST_S
    with in_time(), pytest.raises(kind):
        ask(saying(*parts), operation, timeout_s=timeout_s)


def test_a_server_that_does_not_read_ends_the_call_in_time(
    ask: Callable[..., list[Any]], serve_raw: Callable[[Behave], str]
) -> None:
    """The deadline holds for sending, too."""
    batch = np.zeros((64, 299, 299, 3), np.uint8)
    with in_time(), pytest.raises(DeadlineExceeded):
        ask(serve_raw(lambda _connection, _number: time.sleep(2)), Infer(MODEL, "image", batch), timeout_s=TIMEOUT_S)


def test_a_listener_that_does_not_accept_ends_the_call_in_time(ask: Callable[..., list[Any]]) -> None:
    """Its queue is full: connecting goes on for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(address)
        with in_time(), pytest.raises(DeadlineExceeded):
            ask(f"http://127.0.0.1:{address[1]}", READY, timeout_s=TIMEOUT_S)
        for each in fillers:
            each.close()


def test_after_a_bad_call_the_next_one_is_sound(
    ask: Callable[..., list[Any]], serve_raw: Any, read_request: Any
) -> None:
    """The rest of a late reply is never taken for the answer to another call."""

    def behave(connection: socket.socket, number: int) -> None:
        while read_request(connection):
            if number == 0:
                time.sleep(1.0)
            connection.sendall(
                OK + (b"Content-Length: 4\r\n\r\nnull" if number == 0 else b"Content-Length: 2\r\n\r\n[]")
            )

    url = serve_raw(behave)
    transport = HttpTransport(connection_from_urls(url))
    with pytest.raises(DeadlineExceeded):
        transport.send(INDEX, 0.2)
    assert transport.send(INDEX, LATEST_S) == ()
    transport.close()
    assert ask(url, INDEX, INDEX) == [(), ()]


def test_a_connection_closed_while_idle_is_replaced(serve_raw: Any, read_request: Any) -> None:
    """Nothing was under way on it, so nobody hears of it."""

    def behave(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        connection.sendall(OK + b"Content-Length: 2\r\n\r\n[]")

    url = serve_raw(behave)
    transport = HttpTransport(connection_from_urls(url))
    for _ in range(3):
        assert transport.send(INDEX, LATEST_S) == ()
        time.sleep(0.1)
    transport.close()

    async def run() -> None:
        asynchronous = AsyncHttpTransport(connection_from_urls(url))
        for _ in range(3):
            assert await asynchronous.send(INDEX, LATEST_S) == ()
            await asyncio.sleep(0.1)
        await asynchronous.close()

    asyncio.run(run())


def test_a_connection_that_the_server_says_it_closes_is_not_kept(ask: Callable[..., list[Any]], saying: Any) -> None:
    """`Connection: close` is believed."""
    url = saying(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n[]")
    assert ask(url, INDEX, INDEX, INDEX) == [(), (), ()]


def test_eight_threads_share_a_transport(small: Any) -> None:
    """Each gets its own answer."""
    transport = HttpTransport(connection_from_urls(small.url))

    def call(number: int) -> bool:
        shape = (number % 8 + 1, 8, 8, 3)
        reply = transport.send(Infer(MODEL, "image", np.zeros(shape, np.uint8)), 30.0)
        return bool(reply.outputs[0].shape == (shape[0], 1000))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(200)))
    assert len(small.peers) <= 8
    transport.close()


def test_many_tasks_share_a_transport(small: Any) -> None:
    """Each gets its own answer, and none waits for a place."""

    async def run() -> list[int]:
        transport = AsyncHttpTransport(connection_from_urls(small.url))
        batches = [np.zeros((number % 8 + 1, 8, 8, 3), np.uint8) for number in range(100)]
        replies = await asyncio.gather(*(transport.send(Infer(MODEL, "image", each), 30.0) for each in batches))
        await transport.close()
        return [reply.outputs[0].shape[0] for reply in replies]

    assert asyncio.run(run()) == [number % 8 + 1 for number in range(100)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it is, on purpose
def test_a_forked_process_connects_anew(small: Any) -> None:
    """Parent and child never speak over one connection, and the parent's stays open."""
    transport = HttpTransport(connection_from_urls(small.url))
    assert transport.send(READY, LATEST_S)
    child = os.fork()
    if child == 0:
        try:
            is_right = transport.send(READY, LATEST_S) and transport.send(READY, LATEST_S)
            transport.close()
        except BaseException:  # noqa: BLE001 - a child must never return into pytest
            is_right = False
        os._exit(0 if is_right else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert transport.send(READY, LATEST_S)
    assert len(small.peers) == 2
    transport.close()


def test_closing_ends_calls_under_way_and_refuses_later_ones(saying: Any) -> None:
    """`ClientClosed`, at once, wherever the call waits."""
    silent, slow = saying(until_gone), saying(OK + b"Connection: close\r\n\r\n", drip)
    for url in (silent, slow):
        transport = HttpTransport(connection_from_urls(url))
        with ThreadPoolExecutor(2) as threads, in_time():
            calls = [threads.submit(transport.send, INDEX, 60.0) for _ in range(2)]
            time.sleep(0.3)
            transport.close()
            for call in calls:
                with pytest.raises(ClientClosed):
                    call.result()
        with pytest.raises(ClientClosed):
            transport.send(INDEX, 1.0)
        transport.close()


def test_closing_ends_tasks_under_way_and_refuses_later_ones(saying: Any) -> None:
    """The same for asyncio."""
    url = saying(until_gone)

    async def run() -> None:
        transport = AsyncHttpTransport(connection_from_urls(url))
        calls = [asyncio.create_task(transport.send(INDEX, 60.0)) for _ in range(2)]
        await asyncio.sleep(0.3)
        await transport.close()
        for call in calls:
            with pytest.raises(ClientClosed):
                await call
        with pytest.raises(ClientClosed):
            await transport.send(INDEX, 1.0)
        await transport.close()

    with in_time():
        asyncio.run(run())


def test_a_cancelled_task_is_cancelled_and_the_transport_goes_on(small: Any, saying: Any) -> None:
    """A cancellation is never turned into an error of ours."""
    url = saying(until_gone)

    async def run() -> None:
        transport = AsyncHttpTransport(connection_from_urls(url))
        call = asyncio.create_task(transport.send(INDEX, 60.0))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(DeadlineExceeded):
            await transport.send(INDEX, 0.2)
        await transport.close()

    with in_time():
        asyncio.run(run())


@pytest.mark.parametrize("kind", [HttpTransport, AsyncHttpTransport])
@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "key_file"])
def test_a_certificate_that_cannot_be_read_is_named(kind: type[Any], field: str, tmp_path: Path) -> None:
    """Before any connection is made."""
    garbage, missing = tmp_path / "garbage.pem", tmp_path / "missing.pem"
    garbage.write_text("no certificate")
    for path in (missing, garbage):
        both = {"certificate_file": garbage, "key_file": garbage} if field != "ca_file" else {}
        tls = Tls(**(both | {field: path}))
        with pytest.raises(InvalidRequest, match=path.name):
            kind(connection_from_urls("https://localhost:1", tls=tls))


def test_a_port_that_does_not_speak_tls(ask: Callable[..., list[Any]], serve_raw: Any) -> None:
    """`TlsFailed` is not tried again."""

    def behave(connection: socket.socket, _number: int) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65_536)

    url = serve_raw(behave).replace("http://", "https://")
    with in_time(), pytest.raises(TlsFailed) as caught:
        ask(url, INDEX)
    assert not caught.value.is_retryable


def test_a_tls_handshake_that_never_ends_is_given_up(ask: Callable[..., list[Any]], serve_raw: Any) -> None:
    """Within the one deadline, and `close` breaks it, too."""
    url = serve_raw(lambda connection, _number: until_gone(connection)).replace("http://", "https://")
    with in_time(), pytest.raises(DeadlineExceeded):
        ask(url, INDEX, timeout_s=TIMEOUT_S)
    transport = HttpTransport(connection_from_urls(url))
    with ThreadPoolExecutor(1) as threads, in_time():
        call = threads.submit(transport.send, INDEX, 60.0)
        time.sleep(0.3)
        transport.close()
        with pytest.raises(ClientClosed):
            call.result()


def test_threads_may_close_while_others_call(small: Any) -> None:
    """Every call ends with an answer or with `ClientClosed`, whatever it was doing."""
    for _ in range(10):
        transport = HttpTransport(connection_from_urls(small.url))
        strange: list[BaseException] = []

        def work(one: HttpTransport = transport, found: list[BaseException] = strange) -> None:
            try:
                while True:
                    one.send(Infer(MODEL, "image", BATCH[:1]), 30.0)
            except ClientClosed:
                return
            except BaseException as error:  # noqa: BLE001 - it is what this test looks for
                found.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        time.sleep(0.05)
        transport.close()
        for each in threads:
            each.join()
        assert strange == []


def test_tls_is_required_to_be_verified() -> None:
    """No transport has a way to go without."""
    for kind in (HttpTransport, AsyncHttpTransport):
        context = kind(connection_from_urls("https://localhost:1"))._context
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
