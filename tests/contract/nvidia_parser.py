"""NVIDIA's ONNX parser and plan builder in a process of their own, asked through pipes; a script and its other end.

They come with TensorRT-RTX, a sibling of TensorRT whose wheels work without a GPU: the same parser and network API, and
a builder that compiles for a named compute capability (7.5, T4's, among them; 7.0, V100's, not). Its engines are no
Triton plans and none is run here. So an answer says that the parser reads a graph, how a strongly typed network types
it, and that a builder takes it with its profiles: not that TensorRT 10.4 or 11 does, and nothing about speed.

A request is one line of JSON and the model, the answer one line of JSON; what the library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


class NvidiaParser:
    """The process; `ask` sends one model, as bytes, and returns what became of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
        )

    def __enter__(self) -> NvidiaParser:
        return self

    def __exit__(self, *error) -> None:
        self._process.communicate()  # the end of its input is the end of its work

    def ask(self, model: bytes, **request) -> dict:
        """Parse; try `profiles` (least, best and largest batch of each) with it; build if a `capability` is named."""
        with suppress(BrokenPipeError):  # told below
            self._process.stdin.write(json.dumps({"bytes": len(model)} | request).encode() + b"\n" + model)
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process of NVIDIA's parser ended with {self._process.wait()}; stderr has its words"
            )
        return json.loads(answer)


def parsed_and_built(model: bytes, request: dict, tensorrt) -> dict:
    errors = []

    class Log(tensorrt.ILogger):
        def __init__(self):
            tensorrt.ILogger.__init__(self)

        def log(self, severity, message):
            if severity <= tensorrt.ILogger.ERROR:
                errors.append(message)

    log = Log()
    builder = tensorrt.Builder(log)
    errors.clear()  # that there is no GPU
    strongly_typed = tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(strongly_typed))
    parser = tensorrt.OnnxParser(network, log)
    is_accepted = parser.parse(model)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    answer = {
        "is_accepted": is_accepted,
        "refusals": [parser.get_error(index).desc() for index in range(parser.num_errors)],
        "is_strongly_typed": network.get_flag(strongly_typed),
        "inputs": [ends_of(network.get_input(index)) for index in range(network.num_inputs)],
        "outputs": [ends_of(network.get_output(index)) for index in range(network.num_outputs)],
        "convolution_types": sorted(
            {layer.get_output(0).dtype.name for layer in layers if layer.type == tensorrt.LayerType.CONVOLUTION}
        ),
        "layers": len(layers),
    }
    if is_accepted and "profiles" in request:
        config = builder.create_builder_config()
        profiles = [profile_of(builder, sizes, request["image"]) for sizes in request["profiles"]]
        answer["profiles"] = [config.add_optimization_profile(profile) for profile in profiles]  # -1: refused
        if "capability" in request:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(tensorrt.ComputeCapability, request["capability"]), 0)
            plan = builder.build_serialized_network(network, config)
            answer |= {"plan_bytes": 0 if plan is None else plan.nbytes, "errors": errors}
    return answer


def ends_of(tensor) -> list:
    return [tensor.name, tensor.dtype.name, list(tensor.shape)]


def profile_of(builder, sizes, image):
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *([size, *image] for size in sizes))
    return profile


def built_by_us(model: bytes, request: dict, tensorrt) -> dict:
    """The builder's own calls, through the real Polygraphy, up to the bytes; to load them again takes a GPU."""
    from builder import tensorrt_plan
    from builder.profiles import BatchProfile

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        onnx.write_bytes(model)
        profiles = tuple(BatchProfile(*sizes) for sizes in request["profiles"])
        options, cache = tensorrt_plan.PlanOptions(), Path(folder) / "timing.cache"
        job = tensorrt_plan.PlanJob(onnx, request["precision"], request["image"][0], profiles, options, cache)
        plan, config = tensorrt_plan._built(job, tensorrt)
        sha256, cautions = tensorrt_plan._saved_timings(config, cache)
        return {"plan_bytes": len(plan), "is_cache_kept": cache.is_file() and sha256 is not None, "cautions": cautions}


def answer_requests() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import tensorrt_rtx_bindings as tensorrt

    sys.modules["tensorrt"] = sys.modules["tensorrt_rtx"] = tensorrt
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        model = sys.stdin.buffer.read(request["bytes"])
        work = built_by_us if request.get("through_our_builder") else parsed_and_built
        print(json.dumps(work(model, request, tensorrt)), file=answers, flush=True)


if __name__ == "__main__":
    answer_requests()
