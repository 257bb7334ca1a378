"""A server for your own tests that needs no network, no model and no Triton.

    def certain_of_a_cat(images):                      # uint8 [n, size, size, 3] -> probabilities [n, classes]
        return [[0.1, 0.9]] * len(images)

    server = FakeServer(FakeModel("InceptionV3", labels=("dog", "cat"), answer=certain_of_a_cat))
    with InceptionClient.over(server) as client:
        assert client.classify("any.jpg").best.label == "cat"

Everything but the wire is the client's own: images are decoded and cropped, answers are checked, errors are tried
again. `server.fail_next(Overloaded("..."))` makes the next request fail; `server.operations` is what was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from client.contract import IMPLEMENTED, ServedConfig, ServedTensor
from client.errors import InceptionError, InvalidRequest, UnknownModel
from client.mapping import closed
from client.names import SLUGS, served_name
from client.operations import (
    AskReady,
    IndexEntry,
    Infer,
    ListModels,
    ListRegions,
    Operation,
    ReadConfig,
    ReadStatistics,
    ReadVersion,
    RegisterRegion,
    UnregisterRegion,
)
from client.reply import OutputTensor, Reply
from client.results import ModelStatistics, Phase

A = TypeVar("A")
Answer = Callable[[npt.NDArray[np.uint8]], Any]


def certain_of_the_first(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Probability 1 for the first of two classes, for every image."""
    return np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(images), 1))


@dataclass
class FakeModel:
    """One served model: `answer` turns uint8 images [n, size, size, 3] into probabilities [n, labels]."""

    architecture: str
    precision: str = "fp32"
    labels: Sequence[str] = ("first", "second")
    answer: Answer = certain_of_the_first
    input_size: int = 299
    resize_short: int = 320
    max_batch_size: int = 8
    release: str = "fake"
    version: str = "1"
    images: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.architecture not in SLUGS:
            raise InvalidRequest(f"{self.architecture!r} is no architecture; expected one of {', '.join(SLUGS)}")

    @property
    def served_name(self) -> str:
        """What a server calls it."""
        return served_name(SLUGS[self.architecture], self.precision)


class FakeServer:
    """A `Transport` to models in this process, for `InceptionClient.over`."""

    address = "fake"

    def __init__(self, *models: FakeModel) -> None:
        self.models = {model.served_name: model for model in models}
        self.operations: list[Operation[Any]] = []
        self.timeouts_s: list[float] = []
        self._failures: deque[InceptionError] = deque()
        self._is_closed = False

    def fail_next(self, *errors: InceptionError) -> None:
        """Raise each of `errors` in turn, one for each of the next requests."""
        self._failures.extend(errors)

    def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `Transport`."""
        if self._is_closed:
            raise closed(self.address)
        self.operations.append(operation)
        self.timeouts_s.append(timeout_s)
        if self._failures:
            raise self._failures.popleft()
        return cast(A, self._answered(operation))

    def close(self) -> None:
        """See `Transport`."""
        self._is_closed = True

    def _answered(self, operation: Operation[Any]) -> Any:
        match operation:
            case ListModels():
                answer: Any = tuple(IndexEntry(name, is_ready=True, reason="") for name in self.models)
            case AskReady(name):
                answer = name in self.models
            case ReadVersion(name):
                answer = self._model(name).version
            case ReadConfig(name):
                answer = _config(self._model(name))
            case ReadStatistics():
                answer = tuple(map(_statistics, self.models.values()))
            case Infer():
                answer = self._inferred(operation)
            case ListRegions():
                answer = ()
            case RegisterRegion() | UnregisterRegion():
                answer = None
            case _:
                raise NotImplementedError(f"FakeServer does not know {operation}")
        return answer

    def _model(self, name: str) -> FakeModel:
        if name not in self.models:
            raise UnknownModel(f"{name!r} is not served by this fake")
        return self.models[name]

    def _inferred(self, operation: Infer) -> Reply:
        model = self._model(operation.name)
        images = operation.batch.copy()  # the client uses its buffer again
        model.images.extend(images)
        probabilities = np.asarray(model.answer(images), dtype="<f4")
        tensor = OutputTensor("probabilities", "FP32", probabilities.shape, probabilities.tobytes())
        return Reply(model.served_name, model.version, (tensor,))


class AsyncFakeServer:
    """An `AsyncTransport` to a `FakeServer`, for `AsyncInceptionClient.over`."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.address = server.address

    async def send(self, operation: Operation[A], timeout_s: float) -> A:
        """See `AsyncTransport`."""
        return self.server.send(operation, timeout_s)

    async def close(self) -> None:
        """See `AsyncTransport`."""
        self.server.close()


def _config(model: FakeModel) -> ServedConfig:
    preprocess = json.dumps(IMPLEMENTED | {"resize_short": model.resize_short, "crop": model.input_size})
    labels = json.dumps(list(model.labels))
    return ServedConfig(
        name=model.served_name,
        version=model.version,
        max_batch_size=model.max_batch_size,
        inputs=(ServedTensor("image", "TYPE_UINT8", (model.input_size, model.input_size, 3)),),
        outputs=(ServedTensor("probabilities", "TYPE_FP32", (len(model.labels),)),),
        parameters={
            "architecture": model.architecture,
            "precision": model.precision,
            "release": model.release,
            "preprocess": preprocess,
            "preprocess_sha256": hashlib.sha256(preprocess.encode()).hexdigest(),
            "labels": labels,
            "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
            "classes": str(len(model.labels)),
        },
    )


def _statistics(model: FakeModel) -> ModelStatistics:
    nothing = Phase(0, 0.0)
    return ModelStatistics(
        served_name=model.served_name,
        version=model.version,
        images=len(model.images),
        executions=len(model.images),
        success=Phase(len(model.images), 0.0),
        failure=nothing,
        queue=nothing,
        compute_input=nothing,
        compute_infer=nothing,
        compute_output=nothing,
    )
