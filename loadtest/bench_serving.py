"""Served against in-process: throughput under load and latency when idle, alternating in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from client import InceptionClient
from client.images import crop_from_rgb, rgb_from_image
from loadtest.alternation import in_turn
from loadtest.inprocess import Images, Runner, images_per_s, input_size, model_file, noise_images, openvino_runner
from loadtest.instant_repository import instant_repository
from loadtest.served_load import ClosedLoop
from loadtest.statistics import Summary, summarised
from serving import serve

CONCURRENCY = 16
BATCH_SIZES = (1, 4, 8)
MAX_BATCH_SIZE = 8
# A served window counts whole batches, many against the ramp.
WINDOW_IMAGES = 6 * MAX_BATCH_SIZE
WARM_UP_IMAGES = 2 * MAX_BATCH_SIZE
BATCH_CHOICE_ROUNDS = 3
CALLS_PER_ROUND = 20
STALL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Throughput:
    """Images per second, medians over the alternations; `ratio` is served / in-process, pair by pair."""

    served_name: str
    best_batch: int
    inprocess_images_per_s: float
    served_images_per_s: float
    ratio: Summary
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class IdleLatency:
    """p50 in ms of one call at a time on an idle server, through `classify` and inside this process.

    Both start from the same JPEG photograph and do the same decoding, resize and crop; `overhead_ms` is their
    difference, round by round.
    """

    name: str
    client_p50_ms: float
    inprocess_p50_ms: float
    overhead_ms: Summary


def throughput(repository: Path, served_name: str, alternations: int) -> Throughput:
    """Measure one model at concurrency 16 against the best in-process batch size, `alternations` times each in turn.

    The order within a pair alternates. Raises `MeasurementFailed` when a request fails.
    """
    images = noise_images(input_size(repository, served_name), 2 * CONCURRENCY)
    run = openvino_runner(model_file(repository, served_name))
    inside: list[float] = []
    outside: list[float] = []
    with (
        serve(repository, ports="auto", models=[served_name]) as server,
        ClosedLoop(server.grpc_url, server.token, served_name, images, CONCURRENCY) as loop,
    ):
        best = _best_batch(run, images)

        def in_process() -> None:
            inside.append(images_per_s(run, images, best, WINDOW_IMAGES))

        def served() -> None:
            outside.append(loop.images_per_s(WARM_UP_IMAGES, WINDOW_IMAGES, STALL_TIMEOUT_S))

        in_turn((in_process, served), alternations)
    ratios = tuple(there / here for there, here in zip(outside, inside, strict=True))
    return Throughput(served_name, best, median(inside), median(outside), summarised(ratios), ratios)


def idle_latency(repository: Path, served_name: str, photo: bytes, rounds: int) -> IdleLatency:
    """Measure one model's single calls, in-process and served in turn, on a server that does nothing else."""
    run = openvino_runner(model_file(repository, served_name))
    return _idle_latency(served_name, repository, photo, lambda crop: run(crop[None]), rounds)


def idle_latency_of_instant_model(repository: Path, served_name: str, photo: bytes, rounds: int) -> IdleLatency:
    """The same for a model that answers at once behind `served_name`'s tensors: in-process, preprocessing only."""
    with instant_repository(repository, served_name) as instant:
        figure = _idle_latency(served_name, instant, photo, lambda _crop: None, rounds)
        return replace(figure, name="(answers at once)")


def _idle_latency(
    served_name: str,
    repository: Path,
    photo: bytes,
    infer: Callable[[npt.NDArray[np.uint8]], object],
    rounds: int,
) -> IdleLatency:
    inside: list[float] = []
    outside: list[float] = []
    with (
        serve(repository, ports="auto", models=[served_name]) as server,
        InceptionClient(server.grpc_url, token=server.token) as client,
    ):
        preprocessing = client.models()[0].preprocessing

        def in_process() -> None:
            inside.append(_p50_ms(lambda: infer(crop_from_rgb(rgb_from_image(photo), preprocessing))))

        def served() -> None:
            outside.append(_p50_ms(lambda: client.classify(photo, model=served_name)))

        in_turn((in_process, served), 1)  # the first round warms up
        inside.clear()
        outside.clear()
        in_turn((in_process, served), rounds)
    overheads = [there - here for there, here in zip(outside, inside, strict=True)]
    return IdleLatency(served_name, median(outside), median(inside), summarised(overheads))


def _p50_ms(call: Callable[[], object]) -> float:
    samples = []
    for _ in range(CALLS_PER_ROUND):
        started = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - started) / 1e6)
    return median(samples)


def _best_batch(run: Runner, images: Images) -> int:
    """The batch size of 1, 4 and 8 with the highest throughput, over rounds in turn."""
    seen: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for size in BATCH_SIZES:
        run(images[:size])
    for _ in range(BATCH_CHOICE_ROUNDS):
        for size in BATCH_SIZES:
            seen[size].append(images_per_s(run, images, size, 2 * MAX_BATCH_SIZE))
    return max(BATCH_SIZES, key=lambda size: median(seen[size]))
