"""A small real gRPC server that speaks Triton's protocol, and the data the client's tests share."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
PHOTOS = ROOT / "examples" / "photos"
TOKEN = "open-sesame-1234"  # noqa: S105 - it opens the server below and no other
LABELS = [f"class {index}" for index in range(1000)]


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def preprocess(resize_short: int = 320, crop: int = 299, **changes: object) -> dict[str, object]:
    return {
        "channel_order": "RGB",
        "crop": crop,
        "decode": "exif-transposed, 8-bit RGB",
        "interpolation": "opencv-bilinear",
        "layout": "HWC",
        "resize_short": resize_short,
        "rule": "paddleclas-imagenet-eval-v1",
    } | changes


def parameters(
    architecture: str = "InceptionV3",
    precision: str = "fp32",
    *,
    rule: dict[str, object] | None = None,
    labels: list[str] = LABELS,
    release: str = "0123456789abcdef",
) -> dict[str, str]:
    """What the builder writes into a config."""
    preprocess_json, labels_json = canonical(rule or preprocess()), canonical(labels)
    return {
        "architecture": architecture,
        "precision": precision,
        "release": release,
        "preprocess": preprocess_json,
        "preprocess_sha256": sha256(preprocess_json),
        "labels": labels_json,
        "labels_sha256": sha256(labels_json),
        "classes": str(len(labels)),
    }


Answer = Callable[[np.ndarray], np.ndarray]
Misbehaviour = Callable[["SmallTriton", Any, grpc.ServicerContext], Any]


def certain_of(index: int, classes: int = 1000) -> np.ndarray:
    """Probabilities with 0.9 at `index` and the rest spread evenly."""
    scores = np.full((1, classes), 0.1 / (classes - 1), dtype=np.float32)
    scores[0, index] = 0.9
    return scores


def mean_pixel(batch: np.ndarray) -> np.ndarray:
    """A model that can be checked by hand: the class is the rounded mean of all pixels."""
    return certain_of(round(float(batch.mean())))


@dataclass
class SmallModel:
    """One served model: how it describes itself, and how it answers."""

    parameters: dict[str, str]
    crop: int = 299
    classes: int = 1000
    version: str = "1"
    is_ready: bool = True
    unavailable: tuple[str, str] = ("UNAVAILABLE", "out of memory")  # what the index says where it is not ready
    answer: Answer = mean_pixel
    misbehave: Misbehaviour | None = None
    datatype: str = "FP32"
    output_name: str = "probabilities"
    input_type: int = model_config_pb2.TYPE_UINT8


@dataclass
class SmallTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The six calls the client makes, over a real socket. `restricted` names calls that want the token."""

    models: dict[str, SmallModel] = field(default_factory=dict)
    restricted: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    timeouts_us: list[int] = field(default_factory=list)
    deadlines_s: list[float] = field(default_factory=list)  # what gRPC said was left of each inference's deadline
    answered: int = 0
    images: list[np.ndarray] = field(default_factory=list)
    finish: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def serve(self, name: str, **changes: Any) -> SmallModel:
        """Serve one of the project's models under `name`, e.g. "inception_v3_fp32"."""
        slug, _, precision = name.rpartition("_")
        names = {"inception_v3": "InceptionV3", "googlenet": "GoogLeNet", "xception41": "Xception41"}
        crop, resize_short = (224, 256) if slug == "googlenet" else (299, 320)
        told = parameters(names[slug], precision, rule=preprocess(resize_short, crop))
        told |= changes.pop("told", {})
        self.models[name] = SmallModel(told, crop=crop, **changes)
        return self.models[name]

    def _admit(self, call: str, context: grpc.ServicerContext) -> None:
        token = dict(context.invocation_metadata()).get("triton-grpc-protocol-inception-token")
        self.calls.append(call)
        self.tokens.append(token)
        if call in self.restricted and token != TOKEN:
            text = "This protocol is restricted, expecting header 'triton-grpc-protocol-inception-token'"
            context.abort(grpc.StatusCode.UNAVAILABLE, text)

    def _model(self, name: str, context: grpc.ServicerContext) -> SmallModel:
        if name not in self.models:
            text = f"Request for unknown model: '{name}' is not found"
            context.abort(grpc.StatusCode.NOT_FOUND, text)
        return self.models[name]

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - Triton's names
        self._admit("ModelReady", context)
        is_ready = request.name in self.models and self.models[request.name].is_ready
        return service_pb2.ModelReadyResponse(ready=is_ready)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit("RepositoryIndex", context)
        index = service_pb2.RepositoryIndexResponse()
        for name, model in self.models.items():
            state, reason = ("READY", "") if model.is_ready else model.unavailable
            index.models.add(name=name, version=model.version, state=state, reason=reason)
        return index

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit("ModelMetadata", context)
        model = self._model(request.name, context)
        return service_pb2.ModelMetadataResponse(name=request.name, versions=[model.version])

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit("ModelConfig", context)
        model = self._model(request.name, context)
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=8)
        config.input.add(name="image", data_type=model.input_type, dims=[model.crop, model.crop, 3])
        config.output.add(name="probabilities", data_type=model_config_pb2.TYPE_FP32, dims=[model.classes])
        for key, value in model.parameters.items():
            config.parameters[key].string_value = value
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._admit("ModelInfer", context)
        model = self._model(request.model_name, context)
        self.deadlines_s.append(context.time_remaining())
        self.timeouts_us.append(request.parameters["timeout"].int64_param)
        tensor = request.inputs[0]
        batch = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tuple(tensor.shape))
        self.images.append(batch)
        if model.misbehave is not None:
            model.misbehave(self, request, context)
        scores = model.answer(batch)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=model.version)
        response.outputs.add(name=model.output_name, datatype=model.datatype, shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        self.answered += 1
        return response


def start(servicer: SmallTriton, port: int = 0) -> grpc.Server:
    """Serve on a free loopback port (or `port`); the address is in `servicer.address`."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    return server


@pytest.fixture
def triton() -> Iterator[SmallTriton]:
    """A small server with nothing to serve yet."""
    servicer = SmallTriton()
    server = start(servicer)
    yield servicer
    servicer.finish.set()
    server.stop(grace=None).wait()


@pytest.fixture(scope="session")
def crops() -> dict[str, np.ndarray]:
    """PaddleClas's own crops of the example photographs, see tests/data/crops/README.md."""
    with np.load(ROOT / "tests" / "data" / "crops" / "crops.npz") as stored:
        return dict(stored)


# Test files cannot import this one, so what they share comes to them as fixtures.
@pytest.fixture(scope="session")
def photos() -> Path:
    return PHOTOS


@pytest.fixture(scope="session")
def token() -> str:
    return TOKEN


@pytest.fixture(scope="session", name="preprocess")
def preprocess_fixture() -> Callable[..., dict[str, object]]:
    return preprocess


@pytest.fixture(scope="session", name="parameters")
def parameters_fixture() -> Callable[..., dict[str, str]]:
    return parameters


@pytest.fixture(scope="session", name="certain_of")
def certain_of_fixture() -> Callable[..., np.ndarray]:
    return certain_of


@pytest.fixture(scope="session")
def start_server() -> Callable[..., grpc.Server]:
    return start


@pytest.fixture(scope="session")
def small_triton() -> type[SmallTriton]:
    return SmallTriton
