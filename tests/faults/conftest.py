"""What the faults of the client are made with: a real server whose models obey, and the four kinds of client.

Test files cannot import this one, so what they share comes to them as fixtures.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from builder import MODELS
from builder.labels import labels_for
from builder.triton_config import configs_from_spec
from client import AsyncInceptionClient, InceptionClient
from serving import Server, serve
from tests.faults.faulty_proxy import FaultyProxy

HERE = Path(__file__).parent
OBEDIENT, OTHER = "GoogLeNet", "InceptionV3"
EXIT_TIMEOUT_S = 2
SETTLED_WITHIN_S = 15.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


class HasAddresses(Protocol):
    """A server, or something in front of one."""

    grpc_url: str
    http_url: str
    token: str


@dataclass(frozen=True)
class Address:
    """Where something listens that is no `Server`."""

    grpc_url: str
    http_url: str
    token: str


def wait_until(is_true: Callable[[], bool], within_s: float = SETTLED_WITHIN_S) -> bool:
    """Whether it became true; looked at again and again."""
    deadline_s = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)  # a pause between two looks
    return True


def solid(value: int) -> np.ndarray:
    """A picture of one colour: the obedient model answers with class `value`, or does what that value tells it."""
    return np.full((64, 64, 3), value, np.uint8)


def write_obedient_models(repository: Path, *names: str) -> Path:
    """A repository with the builder's own configs and contracts, and the obedient model in place of the networks."""
    for name in names:
        spec = MODELS[name]
        folder = repository / spec.served_name("fp32")
        labels = labels_for(1000)
        configs = configs_from_spec(spec, "fp32", labels, "0123456789abcdef")
        for path, text in (
            ("config.pbtxt", configs.gpu),
            ("configs/cpu.pbtxt", configs.cpu),
            ("labels.txt", "\n".join(labels)),
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "1").mkdir()
        shutil.copy(HERE / "obedient_model.py", folder / "1" / "model.py")
    return repository


@dataclass
class Obedient:
    """A running server and its repository."""

    server: Server
    repository: Path

    @property
    def grpc_url(self) -> str:
        """See `HasAddresses`."""
        return self.server.grpc_url

    @property
    def http_url(self) -> str:
        """See `HasAddresses`."""
        return self.server.http_url

    @property
    def token(self) -> str:
        """See `HasAddresses`."""
        return self.server.token

    def began(self, value: int, name: str = OBEDIENT) -> int:
        """How many executions began with a picture of that colour."""
        log = self.repository / MODELS[name].served_name("fp32") / "began.log"
        return log.read_text().split().count(str(value))

    def pending(self) -> int:
        """Requests that wait for an execution, by the server's own metrics."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=10) as reply:  # noqa: S310 - http, loopback
            lines = reply.read().decode().splitlines()
        return sum(round(float(line.split()[-1])) for line in lines if line.startswith("nv_inference_pending_request"))

    def regions(self) -> str:
        """What the server says of the shared memory it has mapped."""
        connection = http.client.HTTPConnection(self.http_url.removeprefix("http://"), timeout=10)
        try:
            connection.request("GET", "/v2/systemsharedmemory/status", headers={"inception-token": self.server.token})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def is_alive(self) -> bool:
        """Whether tritonserver itself runs."""
        return not self.server.wait(0)


@pytest.fixture(scope="session")
def obedient_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`obedient_repository(*architectures)`: a new one."""
    return lambda *names: write_obedient_models(tmp_path_factory.mktemp("obedient"), *names)


@pytest.fixture(scope="session")
def obedient(obedient_repository: Callable[..., Path]) -> Iterator[Obedient]:
    """One server for every test that leaves it running, with two models that obey."""
    repository = obedient_repository(OBEDIENT, OTHER)
    with serve(repository, ports="auto", exit_timeout_s=EXIT_TIMEOUT_S) as server:
        yield Obedient(server, repository)


@pytest.fixture(scope="module")
def mortal(obedient_repository: Callable[..., Path]) -> Iterator[Obedient]:
    """One server for the tests of a file that kill it and start it anew."""
    repository = obedient_repository(OBEDIENT)
    with serve(repository, ports="auto", exit_timeout_s=EXIT_TIMEOUT_S) as server:
        yield Obedient(server, repository)


@dataclass(frozen=True)
class Kind:
    """One of the four kinds of client."""

    protocol: str
    is_async: bool

    def __str__(self) -> str:
        return f"{'async ' if self.is_async else ''}{self.protocol}"

    def url(self, where: HasAddresses) -> str:
        """The address that this kind is given."""
        return where.grpc_url if self.protocol == "grpc" else where.http_url

    def client(self, where: HasAddresses, **options: Any) -> InceptionClient | AsyncInceptionClient:
        """A client that has not connected yet."""
        kind = AsyncInceptionClient if self.is_async else InceptionClient
        return kind(self.url(where), **({"token": where.token} | options))


KINDS = [Kind(protocol, is_async) for is_async in (False, True) for protocol in ("grpc", "http")]


class Caller:
    """A client of any kind, with one way to wait for its calls: from any thread, or later, as futures."""

    def __init__(self, client: InceptionClient | AsyncInceptionClient) -> None:
        self.client = client
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="caller")
        self._loop: asyncio.AbstractEventLoop | None = None
        if isinstance(client, AsyncInceptionClient):
            self._loop = asyncio.new_event_loop()
            self._pool.submit(self._loop.run_forever)

    def start(self, method: str, *arguments: Any, **options: Any) -> Future[Any]:
        """One call under way."""
        called = getattr(self.client, method)
        if self._loop is None:
            return self._pool.submit(called, *arguments, **options)
        return asyncio.run_coroutine_threadsafe(called(*arguments, **options), self._loop)

    def start_many(self, images: Any, seen: Callable[[Any], None], **options: Any) -> Future[Any]:
        """`classify_many` under way: each outcome is handed to `seen`."""

        def wait_for_all() -> None:
            for outcome in self.client.classify_many(images, **options):  # type: ignore[union-attr]
                seen(outcome)

        async def await_all() -> None:
            async for outcome in self.client.classify_many(images, **options):  # type: ignore[union-attr]
                seen(outcome)

        if self._loop is None:
            return self._pool.submit(wait_for_all)
        return asyncio.run_coroutine_threadsafe(await_all(), self._loop)

    def classify(self, *arguments: Any, **options: Any) -> Any:
        """See `InceptionClient.classify`."""
        return self.start("classify", *arguments, **options).result()

    def classify_batch(self, *arguments: Any, **options: Any) -> Any:
        """See `InceptionClient.classify_batch`."""
        return self.start("classify_batch", *arguments, **options).result()

    @contextmanager
    def shared_memory(self) -> Iterator[Caller]:
        """See `InceptionClient.shared_memory`."""
        opened: Any = self.client.shared_memory()
        if self._loop is None:
            with opened as fast:
                yield self._like(fast)
            return
        fast = self._awaited(opened.__aenter__())
        try:
            yield self._like(fast)
        finally:
            self._awaited(opened.__aexit__(None, None, None))

    def close(self) -> None:
        """Close the client, and end what waited for it."""
        self.start("close").result()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._pool.shutdown()
        if self._loop is not None:
            self._loop.close()

    def _awaited(self, coroutine: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _like(self, client: InceptionClient | AsyncInceptionClient) -> Caller:
        """The same, for the client inside a `with` block."""
        other = Caller.__new__(Caller)
        other.client, other._pool, other._loop = client, self._pool, self._loop
        return other


@dataclass
class Connect:
    """`connect(where, **options)` makes a client of one kind, which is closed when the test ends."""

    kind: Kind
    callers: list[Caller] = field(default_factory=list)

    def __call__(self, where: HasAddresses, **options: Any) -> Caller:
        self.callers.append(Caller(self.kind.client(where, **options)))
        return self.callers[-1]


@pytest.fixture(params=KINDS, ids=str)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Every test with it runs for the four kinds of client."""
    yield from _connected(request.param)


def _connected(kind: Kind) -> Iterator[Connect]:
    connected = Connect(kind)
    yield connected
    with ExitStack() as stack:
        while connected.callers:  # pytest keeps `connected`; a channel is gone when nobody has it
            stack.callback(connected.callers.pop().close)


@pytest.fixture
def connect_sync() -> Iterator[Connect]:
    """The same for one kind: calls that wait, over gRPC."""
    yield from _connected(KINDS[0])


@dataclass(frozen=True)
class Held:
    """What this process holds that could be forgotten."""

    descriptors: int
    threads: int
    regions: frozenset[str]

    def is_within(self, other: Held) -> bool:
        """Whether it is no more than `other`."""
        return self.descriptors <= other.descriptors and self.threads <= other.threads and self.regions <= other.regions


def held() -> Held:
    """Now."""
    regions = SHARED_MEMORY.glob(f"*inception-client-{os.getpid()}-*")
    return Held(
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - the listing's own descriptor counts each time
        threads=threading.active_count(),
        regions=frozenset(region.name for region in regions),
    )


@pytest.fixture(scope="session")
def warm(obedient: Obedient) -> None:
    """What the libraries open once and keep is open: one call of every kind was made."""
    for kind in KINDS:
        caller = Caller(kind.client(obedient))
        caller.classify(solid(1), OBEDIENT)
        caller.close()


_HAS_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Let `nothing_left` know how the test itself ended."""
    report = yield
    if call.when == "call":
        item.stash[_HAS_PASSED] = report.passed
    return report


@pytest.fixture
def nothing_left(warm: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Descriptors, threads and shared memory of this process are what they were before the test, soon after it.

    Not looked at where the test failed: its traceback keeps what it was doing.
    """
    before = held()
    yield
    if not request.node.stash.get(_HAS_PASSED, False):
        return

    def is_back() -> bool:
        if held().is_within(before):
            return True
        gc.collect()  # slow where torch is loaded
        return held().is_within(before)

    assert wait_until(is_back), f"before the test {before}, after it {held()}"


@pytest.fixture
def address() -> type[Address]:
    return Address


@pytest.fixture(name="solid", scope="session")
def solid_fixture() -> Callable[[int], np.ndarray]:
    return solid


@pytest.fixture(name="wait_until", scope="session")
def wait_until_fixture() -> Callable[..., bool]:
    return wait_until


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python(script, *arguments)`: a process of its own; one that hangs fails the test."""

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | environment,
        )

    return run


@pytest.fixture
def proxy(obedient: Obedient) -> Iterator[Callable[..., FaultyProxy]]:
    """`proxy(protocol)`: a new faulty proxy in front of the session's server, closed when the test ends."""
    opened: list[FaultyProxy] = []

    def open_proxy(protocol: str, context: ssl.SSLContext | None = None) -> FaultyProxy:
        url = obedient.grpc_url if protocol == "grpc" else obedient.http_url
        opened.append(FaultyProxy(url.removeprefix("http://"), obedient.token, context))
        return opened[-1]

    yield open_proxy
    while opened:
        opened.pop().close()
