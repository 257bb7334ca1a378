"""A model file run inside this process: the yardstick that serving is held against, and the two candidate runtimes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loadtest.errors import MeasurementFailed, UsageError

Images = npt.NDArray[np.uint8]
Runner = Callable[[Images], npt.NDArray[np.float32]]


def openvino_runner(model: Path) -> Runner:
    """`model.onnx` in OpenVINO, with the settings of the CPU backend: uint8 N x H x W x 3 -> float32 N x classes."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": available_cores(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

    def run(images: Images) -> npt.NDArray[np.float32]:
        answer = request.infer({"image": images}, share_inputs=True, share_outputs=True)["probabilities"]
        return np.array(answer)

    return run


def onnxruntime_runner(model: Path) -> Runner:
    """`model.onnx` in ONNX Runtime, all cores, threads that do not spin between runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> npt.NDArray[np.float32]:
        (answer,) = session.run(["probabilities"], {"image": images})
        return np.asarray(answer, dtype=np.float32)

    return run


def model_file(repository: Path, served_name: str) -> Path:
    """The ONNX file of a published model; `MeasurementFailed` where the folder has not exactly one version."""
    found = sorted((repository / served_name).glob("[1-9]*/model.onnx"))
    if len(found) != 1:
        raise MeasurementFailed(f"{repository / served_name} has {len(found)} version directories with a model.onnx")
    return found[0]


def served_names(repository: Path) -> list[str]:
    """Every model of a repository; `UsageError` where there is none."""
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not names:
        raise UsageError(f"{repository} holds no model: `python -m builder build --gpu cpu` writes some")
    return names


def input_size(repository: Path, served_name: str) -> int:
    """The input side in pixels, from the manifest."""
    manifest = model_file(repository, served_name).with_name("manifest.json")
    return int(json.loads(manifest.read_text(encoding="utf-8"))["input_size"])


def noise_images(size: int, count: int, seed: int = 0) -> Images:
    """Seeded noise, uint8, N x size x size x 3: these networks do the same work on any pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def images_per_s(run: Runner, images: Images, size: int, count: int) -> float:
    """Throughput of `count` images in batches of `size`, which divides `count` and the number of `images`."""
    started = time.perf_counter()
    for start in range(0, count, size):
        begin = start % len(images)
        run(images[begin : begin + size])
    return count / (time.perf_counter() - started)


def available_cores() -> int:
    """Processors this process may use: its affinity, less the CPU quota of its container (cgroup v2)."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    except OSError:
        return int(cores)  # no cgroups: no quota to honour
    for level in (group, *group.parents):  # every level above may have a smaller one
        try:
            quota, period = (level / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))
