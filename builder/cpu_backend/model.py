"""CPU serving of one model: Triton's Python backend runs this file beside `model.onnx`.

It stands alone: inside the server there is no `builder` package. One run per batch, one response per request, always.
"""

import json
import os
from pathlib import Path

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils

INPUT, OUTPUT = "image", "probabilities"


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


class TritonPythonModel:
    """The contract of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._image_shape = tuple(int(size) for size in config["input"][0]["dims"])
        instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
        version_directory = Path(args["model_repository"]) / args["model_version"]
        core = openvino.Core()
        network = core.read_model(version_directory / "model.onnx")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": max(1, available_cores() // instances),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._run = core.compile_model(network, "CPU", settings).create_infer_request()

    def execute(self, requests: list) -> list:
        """Answer every request: the good ones from one run over all their images, each bad one with its own error."""
        responses = [None] * len(requests)
        images, places = [], []
        for index, request in enumerate(requests):
            try:
                images.append(self._images(request))
                places.append(index)
            except ValueError as error:
                responses[index] = _failure(str(error))
        if images:
            for index, answer in zip(places, self._answers(images), strict=True):
                responses[index] = answer
        return responses

    def _images(self, request: object) -> np.ndarray:
        tensor = pb_utils.get_input_tensor_by_name(request, INPUT)
        if tensor is None:
            raise ValueError(f"the request has no input called {INPUT!r}")
        array = tensor.as_numpy()
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != self._image_shape or len(array) == 0:
            raise ValueError(f"{INPUT} is {array.dtype} {array.shape}, expected uint8 (n, {self._image_shape})")
        return array

    def _answers(self, images: list) -> list:
        """One response per array in `images`; if the whole batch fails to run, each is tried by itself."""
        try:
            probabilities = self._infer(images[0] if len(images) == 1 else np.concatenate(images))
        except (RuntimeError, MemoryError) as error:
            pb_utils.Logger.log_error(f"a run over {len(images)} requests failed: {error}")
            if len(images) == 1:
                return [_failure("inference failed; the server's log has the reason")]
            return [answer for array in images for answer in self._answers([array])]
        ends = np.cumsum([len(array) for array in images])[:-1]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, part)]) for part in np.split(probabilities, ends)]

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        # share_inputs: the pixels stay where Triton put them; the output is copied before the next run reuses it.
        return np.array(self._run.infer({INPUT: batch}, share_inputs=True, share_outputs=True)[OUTPUT])


def _failure(message: str) -> object:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))
