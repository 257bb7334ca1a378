"""A small real HTTP server that speaks Triton's protocol, and one that says whatever it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from client.connection import Connection, connection_from_urls
from client.http_aio import AsyncHttpTransport
from client.http_transport import HttpTransport
from client.operations import Operation

TOKEN = "open-sesame-1234"  # noqa: S105 - it opens the server below and no other
MODEL = "googlenet_fp32"
JSON_LENGTH = "Inference-Header-Content-Length"
UNKNOWN = (404, {"error": "Request for unknown model: 'nope' is not found"})
RESTRICTED = (403, {"error": "This API is restricted, expecting header 'inception-token'"})
DURATION = {"count": 2, "ns": 3_000_000}
PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
CONFIG = {
    "name": MODEL,
    "max_batch_size": 8,
    "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["224", "224", 3]}],
    "output": [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [1000]}],
    "parameters": {"release": {"string_value": "0123456789abcdef"}},
}
STATISTICS = {
    "name": MODEL,
    "version": "1",
    "inference_count": 4,
    "execution_count": "2",
    "inference_stats": dict.fromkeys(PHASES, DURATION),
}


@dataclass
class SmallHttp:
    """What the server was asked, and what it has."""

    url: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    inferences: list[dict[str, Any]] = field(default_factory=list)
    batches: list[np.ndarray] = field(default_factory=list)
    regions: dict[str, dict[str, Any]] = field(default_factory=dict)
    peers: set[tuple[str, int]] = field(default_factory=set)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Status, and JSON or ready-made bytes; as tritonserver 2.51 does it."""
        restricted = ("/v2/repository", "/v2/models/stats", "/v2/systemsharedmemory")
        if path.startswith(restricted) and headers.get("inception-token") != TOKEN:
            return RESTRICTED
        if path.startswith("/v2/systemsharedmemory"):
            return self._memory(method, path, body)
        plain = {
            ("POST", "/v2/repository/index"): [{"name": MODEL, "version": "1", "state": "READY"}, {"name": "other"}],
            ("GET", "/v2/models/stats"): {"model_stats": [STATISTICS]},
            ("GET", f"/v2/models/{MODEL}/ready"): b"",
            ("GET", f"/v2/models/{MODEL}"): {"name": MODEL, "versions": ["2", "10"]},
            ("GET", f"/v2/models/{MODEL}/config"): CONFIG,
        }
        if (method, path) in plain:
            return 200, plain[method, path]
        if path == f"/v2/models/{MODEL}/infer":
            return self._infer(headers, body)
        return (400, {"error": "Model version not ready"}) if path.endswith("/ready") else UNKNOWN

    def _infer(self, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        length = int(headers.get(JSON_LENGTH.lower(), len(body)))
        asked = json.loads(body[:length])
        self.inferences.append(asked)
        shape = asked["inputs"][0]["shape"]
        if len(body) > length:
            self.batches.append(np.frombuffer(body[length:], np.uint8).reshape(shape))
        scores = np.full((shape[0], 1000), 1e-3, dtype=np.float32)
        return 200, infer_reply(scores)

    def _memory(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "GET":
            return 200, [{"name": name, **region} for name, region in self.regions.items()]
        name, verb = path.split("/")[-2:]
        if verb == "unregister":
            self.regions.pop(name, None)
        elif name in self.regions:
            return 400, {"error": f"shared memory region '{name}' already in manager"}
        else:
            self.regions[name] = json.loads(body)
        return 200, b""


def infer_reply(scores: np.ndarray) -> bytes:
    """The JSON of a reply and its data; its length is in the header that `serve_small` adds."""
    output = {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": list(scores.shape),
        "parameters": {"binary_data_size": scores.nbytes},
    }
    header = json.dumps({"model_name": MODEL, "model_version": "1", "outputs": [output]}).encode()
    return header + b"\0split\0" + scores.tobytes()


@pytest.fixture
def small() -> Iterator[SmallHttp]:
    """A small server on a loopback port."""
    state = SmallHttp()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.peers.add(self.client_address)
            state.requests.append((self.command, self.path, headers))
            body = self.rfile.read(int(headers.get("content-length", 0)))
            status, content = state.answer(self.command, self.path, headers, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            head, split, tail = data.partition(b"\0split\0")
            self.send_response(status)
            if split:
                self.send_header(JSON_LENGTH, str(len(head)))
            self.send_header("Content-Length", str(len(head) + len(tail)))
            self.send_header("Set-Cookie", "seen=1")
            self.end_headers()
            self.wfile.write(head + tail)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # the standard library's 5 resets whoever comes while it is full
        daemon_threads = True

        def handle_error(self, *_arguments: object) -> None:
            return  # clients go away on purpose here

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def read_request(connection: socket.socket) -> bytes:
    """One request's head, its body read and dropped; empty where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    left = next((int(value) for name, _, value in lines if name == b"content-length"), 0) - len(body)
    while left > 0:
        left -= len(connection.recv(left)) or left
    return head


@pytest.fixture
def serve_raw() -> Iterator[Callable[..., str]]:
    """`serve_raw(behave)` calls `behave(socket, number of the connection)` for every connection; it gives the URL."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def run(behave: Callable[[socket.socket, int], None], connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            behave(connection, number)

    def accept(listener: socket.socket, behave: Callable[[socket.socket, int], None]) -> None:
        with contextlib.suppress(OSError):
            for number in range(1000):
                connection = listener.accept()[0]
                connections.append(connection)
                threads.append(threading.Thread(target=run, args=(behave, connection, number)))
                threads[-1].start()

    def serve(behave: Callable[[socket.socket, int], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=accept, args=(listener, behave)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for each in (*listeners, *connections):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
    for thread in threads:
        thread.join()


def ask_sync(connection: Connection, operations: list[Operation[Any]], timeout_s: float) -> list[Any]:
    transport = HttpTransport(connection)
    try:
        return [transport.send(each, timeout_s) for each in operations]
    finally:
        transport.close()


def ask_aio(connection: Connection, operations: list[Operation[Any]], timeout_s: float) -> list[Any]:
    async def run() -> list[Any]:
        transport = AsyncHttpTransport(connection)
        try:
            return [await transport.send(each, timeout_s) for each in operations]
        finally:
            await transport.close()

    return asyncio.run(run())


@pytest.fixture(params=["sync", "aio"])
def ask(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """`ask(url, *operations, timeout_s=5, ...)`: the answers over one new transport, which is closed afterwards."""
    kind = {"sync": ask_sync, "aio": ask_aio}[request.param]

    def run(url: str, *operations: Operation[Any], timeout_s: float = 5.0, **options: Any) -> list[Any]:
        return kind(connection_from_urls(url, **options), list(operations), timeout_s)

    return run


# Test files cannot import this one, so what they share comes to them as fixtures.
@pytest.fixture(scope="session")
def http_token() -> str:
    return TOKEN


@pytest.fixture(scope="session", name="read_request")
def read_request_fixture() -> Callable[[socket.socket], bytes]:
    return read_request
