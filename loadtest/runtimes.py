"""OpenVINO against ONNX Runtime on the models of a repository: the table that chose the CPU backend's runtime."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.inprocess import Images, Runner, input_size, model_file, noise_images, onnxruntime_runner, openvino_runner
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
    comparisons = []
    for size in BATCH_SIZES:
        for run in runners.values():
            run(images[:size])
        samples: dict[str, list[float]] = {name: [] for name in runners}
        for turn in range(rounds):
            names = list(runners) if turn % 2 == 0 else list(reversed(runners))
            for name in names:
                samples[name].append(_ms_per_image(runners[name], images, size))
        pairs = zip(samples["openvino"], samples["onnxruntime"], strict=True)
        comparisons.append(
            RuntimeComparison(
                served_name,
                size,
                summarised(samples["openvino"]),
                summarised(samples["onnxruntime"]),
                summarised([one / other for one, other in pairs]),
            )
        )
    return comparisons


def _ms_per_image(run: Runner, images: Images, size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(images), size):
        run(images[start : start + size])
    return (time.perf_counter() - started) * 1e3 / len(images)
