"""What the client costs: against raw tritonclient on a model that answers at once, and against bare decoding.

Both sides of a ratio run in this process, in turn, after the same warm-up. tritonclient's side is given finished crops
and reads the tensor; the client's side is given pictures of 320 x 320, which it crops, and it checks, sorts and labels
what comes back.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from client import InceptionClient, ModelContract
from client.images import crop_from_rgb, rgb_from_image
from loadtest.alternation import in_turn
from loadtest.inprocess import Images, input_size
from loadtest.instant_repository import instant_repository
from loadtest.statistics import Summary, summarised
from serving import Server, serve

IN_FLIGHT = 16
SINGLE_CALLS = 200
STREAMED_IMAGES = 800
DECODED_IMAGES = 240
MEMORY_IMAGES = 20_000
MEMORY_WARM_UP_IMAGES = 2_000
IMPORTS = 5
QUEUE_SLEEPS_MS = (8.0, 130.0)
QUEUE_WINDOW = 64
_RESIZED = 320

Window = Callable[[], float]


@dataclass(frozen=True)
class ClientRatio:
    """`what` against `against`, medians over the rounds in `unit`; `ratio` is client / other, round by round.

    `aim` is what issue 5 of this project asks for; `is_lower_better` for costs.
    """

    what: str
    against: str
    unit: str
    client: float
    other: float
    ratio: Summary
    aim: float
    is_lower_better: bool = False


@dataclass(frozen=True)
class ClientCost:
    """One figure of the client alone."""

    what: str
    unit: str
    value: float
    aim: float


@dataclass(frozen=True)
class QueueCost:
    """Images per second of one instance that sleeps for each batch, with a bounded queue and without, in turn."""

    sleep_ms: float
    bounded_images_per_s: float
    unbounded_images_per_s: float
    ratio: Summary


def client_ratios(repository: Path, served_name: str, photo: bytes, rounds: int) -> list[ClientRatio]:
    """Every ratio of the client, each over `rounds` rounds, against one server of a model that answers at once."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (_RESIZED, _RESIZED, 3), dtype=np.uint8) for _ in range(IN_FLIGHT)]
    with ExitStack() as stack:
        instant = stack.enter_context(instant_repository(repository, served_name))
        server = stack.enter_context(serve(instant, ports="auto", models=[served_name]))
        grpc = stack.enter_context(InceptionClient(server.grpc_url, token=server.token))
        http = stack.enter_context(InceptionClient(server.http_url, token=server.token))
        fast = stack.enter_context(grpc.shared_memory())
        raw = stack.enter_context(_Raw(server, served_name, input_size(repository, served_name)))
        contract = grpc.models()[0]

        def one_by_one(client: InceptionClient) -> Window:
            return lambda: _rate(SINGLE_CALLS, lambda: _classified(client, pictures, served_name))

        def streamed(client: InceptionClient, images: Sequence[Any], count: int) -> Window:
            return lambda: _rate(count, lambda: _drained(client, images, served_name, count))

        def bare(threads: int) -> Window:
            return lambda: _bare(photo, contract, threads)

        jpegs, cores, raw_streams = [photo] * IN_FLIGHT, os.cpu_count() or 1, "tritonclient asyncio, 16 in flight"
        decoding, all_cores = "decode, resize, crop", "decode, resize, crop on all cores"
        arrays_many, shared = "classify_many(arrays)", ", shared memory"
        jpegs_many = "classify_many(JPEGs)"
        cpu = _Comparison(f"{jpegs_many}, CPU of the client", decoding, 1.25, "CPU ms/image", is_lower_better=True)
        sides: list[tuple[_Comparison, Window, Window]] = [
            (_Comparison("classify(array)", "tritonclient gRPC", 0.95), one_by_one(grpc), raw.grpc),
            (_Comparison("classify(array)", "tritonclient HTTP", 0.95), one_by_one(http), raw.http),
            (_Comparison(arrays_many, raw_streams, 1.0), streamed(grpc, pictures, STREAMED_IMAGES), raw.asyncio),
            (
                _Comparison(f"{arrays_many}{shared}", raw_streams, 3.0),
                streamed(fast, pictures, STREAMED_IMAGES),
                raw.asyncio,
            ),
            (_Comparison(jpegs_many, all_cores, 0.55), streamed(grpc, jpegs, DECODED_IMAGES), bare(cores)),
            (_Comparison(f"{jpegs_many}{shared}", all_cores, 0.65), streamed(fast, jpegs, DECODED_IMAGES), bare(cores)),
            (
                cpu,
                lambda: _cpu_ms(DECODED_IMAGES, streamed(grpc, jpegs, DECODED_IMAGES)),
                lambda: _cpu_ms(DECODED_IMAGES, bare(1)),
            ),
        ]
        return [comparison.measured(one, other, rounds) for comparison, one, other in sides]


def client_costs(repository: Path, served_name: str) -> list[ClientCost]:
    """Growth of this process's memory over 20,000 images from a generator, and the time of `import client`."""
    picture = np.zeros((_RESIZED, _RESIZED, 3), dtype=np.uint8)
    with (
        instant_repository(repository, served_name) as instant,
        serve(instant, ports="auto", models=[served_name]) as server,
        InceptionClient(server.grpc_url, token=server.token) as client,
    ):
        _drained(client, [picture], served_name, MEMORY_WARM_UP_IMAGES)
        before_mb = _resident_mb()
        _drained(client, [picture], served_name, MEMORY_IMAGES)
        growth_mb = _resident_mb() - before_mb
    return [
        ClientCost(f"memory growth over {MEMORY_IMAGES:,} images from a generator", "MB", growth_mb, 50.0),
        ClientCost(f"import client, fastest of {IMPORTS}", "s", min(_import_s() for _ in range(IMPORTS)), 0.3),
    ]


def queue_costs(repository: Path, served_name: str, rounds: int) -> list[QueueCost]:
    """What a bounded queue costs a single instance, for a model of 8 and of 130 ms a batch, in full batches."""
    return [_queue_cost(repository, served_name, sleep_ms, rounds) for sleep_ms in QUEUE_SLEEPS_MS]


def _queue_cost(repository: Path, served_name: str, sleep_ms: float, rounds: int) -> QueueCost:
    picture = np.zeros((_RESIZED, _RESIZED, 3), dtype=np.uint8)
    count = max(160, round(1.5e3 / sleep_ms) * 8)
    with ExitStack() as stack:

        def window(*, is_queue_bounded: bool) -> Window:
            models = instant_repository(repository, served_name, sleep_ms=sleep_ms, is_queue_bounded=is_queue_bounded)
            server = stack.enter_context(serve(stack.enter_context(models), ports="auto", models=[served_name]))
            client = stack.enter_context(InceptionClient(server.grpc_url, token=server.token))
            return lambda: _rate(count, lambda: _drained(client, [picture], served_name, count, QUEUE_WINDOW))

        bounded, unbounded = window(is_queue_bounded=True), window(is_queue_bounded=False)
        first, second = _rounds(bounded, unbounded, rounds)
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return QueueCost(sleep_ms, median(first), median(second), summarised(ratios))


class _Raw:
    """tritonclient's own clients, fed with finished crops; each method is one window, in images per second."""

    def __init__(self, server: Server, served_name: str, size: int) -> None:
        import tritonclient.grpc
        import tritonclient.grpc.aio
        import tritonclient.http

        rng = np.random.default_rng(0)
        self._name, self._shape = served_name, [1, size, size, 3]
        self._crops: list[Images] = [rng.integers(0, 256, self._shape, dtype=np.uint8) for _ in range(IN_FLIGHT)]
        self._grpc_module, self._http_module = tritonclient.grpc, tritonclient.http
        self._grpc = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        self._http = tritonclient.http.InferenceServerClient(server.http_url.removeprefix("http://"))
        self._loop = asyncio.new_event_loop()
        self._aio = self._loop.run_until_complete(self._opened(tritonclient.grpc.aio, server.grpc_url))

    def __enter__(self) -> _Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.close()
        self._http.close()
        self._loop.run_until_complete(self._aio.close())
        self._loop.close()

    def grpc(self) -> float:
        """One call after the other over gRPC."""
        return _rate(SINGLE_CALLS, lambda: self._one_by_one(self._grpc, self._grpc_module))

    def http(self) -> float:
        """One call after the other over HTTP."""
        return _rate(SINGLE_CALLS, lambda: self._one_by_one(self._http, self._http_module))

    def asyncio(self) -> float:
        """Sixteen calls in flight over gRPC."""
        return _rate(STREAMED_IMAGES, lambda: self._loop.run_until_complete(self._streamed()))

    def _one_by_one(self, client: Any, module: Any) -> None:
        for crop in itertools.islice(itertools.cycle(self._crops), SINGLE_CALLS):
            client.infer(self._name, [self._tensor(module, crop)]).as_numpy("probabilities")

    async def _streamed(self) -> None:
        crops = itertools.islice(itertools.cycle(self._crops), STREAMED_IMAGES)

        async def work() -> None:
            for crop in crops:
                answer = await self._aio.infer(self._name, [self._tensor(self._grpc_module, crop)])
                answer.as_numpy("probabilities")

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))

    def _tensor(self, module: Any, crop: Images) -> Any:
        tensor = module.InferInput("image", self._shape, "UINT8")
        tensor.set_data_from_numpy(crop)
        return tensor

    @staticmethod
    async def _opened(module: Any, url: str) -> Any:
        return module.InferenceServerClient(url)


@dataclass(frozen=True)
class _Comparison:
    """What is held against what, and what is aimed at."""

    what: str
    against: str
    aim: float
    unit: str = "images/s"
    is_lower_better: bool = False

    def measured(self, client: Window, other: Window, rounds: int) -> ClientRatio:
        """Both, in turn."""
        first, second = _rounds(client, other, rounds)
        ratio = summarised([one / two for one, two in zip(first, second, strict=True)])
        return ClientRatio(
            self.what, self.against, self.unit, median(first), median(second), ratio, self.aim, self.is_lower_better
        )


def _rounds(one: Window, other: Window, rounds: int) -> tuple[list[float], list[float]]:
    first: list[float] = []
    second: list[float] = []
    steps = (lambda: first.append(one()), lambda: second.append(other()))
    in_turn(steps, 1)  # warms up
    first.clear()
    second.clear()
    in_turn(steps, rounds)
    return first, second


def _rate(count: int, work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - started_s)


def _cpu_ms(count: int, work: Callable[[], object]) -> float:
    """CPU milliseconds of this process for each of `count` images, all its threads together."""
    started_s = time.process_time()
    work()
    return (time.process_time() - started_s) * 1e3 / count


def _classified(client: InceptionClient, pictures: Sequence[npt.NDArray[np.uint8]], served_name: str) -> None:
    for picture in itertools.islice(itertools.cycle(pictures), SINGLE_CALLS):
        client.classify(picture, served_name)


def _drained(
    client: InceptionClient, images: Sequence[Any], served_name: str, count: int, window: int | None = None
) -> None:
    source: Iterator[Any] = itertools.islice(itertools.cycle(images), count)
    for _ in client.classify_many(source, served_name, window=window):
        pass


def _bare(photo: bytes, contract: ModelContract, threads: int) -> float:
    """Decoding, resizing and cropping, and nothing else; images per second."""

    def prepare(_: int) -> None:
        crop_from_rgb(rgb_from_image(photo), contract.preprocessing)

    def work() -> None:
        if threads == 1:
            for index in range(DECODED_IMAGES):
                prepare(index)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(prepare, range(DECODED_IMAGES)))

    return _rate(DECODED_IMAGES, work)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _import_s() -> float:
    command = [
        sys.executable,
        "-c",
        "import time; t = time.perf_counter(); import client; print(time.perf_counter() - t)",
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
