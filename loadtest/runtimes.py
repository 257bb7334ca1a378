"""OpenVINO against ONNX Runtime on the models of a repository: the table that chose the CPU backend's runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.alternation import in_turn
from loadtest.inprocess import (
    Images,
    Runner,
    images_per_s,
    input_size,
    model_file,
    noise_images,
    onnxruntime_runner,
    openvino_runner,
)
from loadtest.statistics import Summary, summarised

BATCH_SIZES = (1, 8)
IMAGES_PER_ROUND = 8


@dataclass(frozen=True)
class RuntimeComparison:
    """ms an image in each runtime at one batch size, and their ratio OpenVINO / ONNX Runtime, round by round."""

    served_name: str
    batch_size: int
    openvino_ms: Summary
    onnxruntime_ms: Summary
    ratio: Summary


def compare_runtimes(repository: Path, served_name: str, rounds: int) -> list[RuntimeComparison]:
    """Both runtimes on one model, all cores each, in turn, `rounds` times at batch 1 and 8."""
    path = model_file(repository, served_name)
    images = noise_images(input_size(repository, served_name), IMAGES_PER_ROUND)
    runners: dict[str, Runner] = {"openvino": openvino_runner(path), "onnxruntime": onnxruntime_runner(path)}
    return [_compared(served_name, runners, images, size, rounds) for size in BATCH_SIZES]


def _compared(
    served_name: str, runners: dict[str, Runner], images: Images, size: int, rounds: int
) -> RuntimeComparison:
    samples: dict[str, list[float]] = {name: [] for name in runners}

    def step(name: str) -> Callable[[], None]:
        return lambda: samples[name].append(1e3 / images_per_s(runners[name], images, size, len(images)))

    for run in runners.values():
        run(images[:size])
    in_turn([step(name) for name in runners], rounds)
    pairs = zip(samples["openvino"], samples["onnxruntime"], strict=True)
    return RuntimeComparison(
        served_name,
        size,
        summarised(samples["openvino"]),
        summarised(samples["onnxruntime"]),
        summarised([one / other for one, other in pairs]),
    )
