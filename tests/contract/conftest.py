"""One real server for the contract tests: all eight models in FP32, two in FP16. And all sixteen files, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from builder import MODELS, ModelSpec
from builder.precision import half_onnx_from_onnx
from builder.targets import PRECISIONS
from client import InceptionClient
from serving import Server, serve

_FILES = [(spec, precision) for spec in MODELS.values() for precision in PRECISIONS]


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Server]:
    """The session's server, on free ports."""
    with serve(repository, ports="auto", exit_timeout_s=5) as server:
        yield server


@pytest.fixture(scope="session")
def client(served: Server) -> Iterator[InceptionClient]:
    """A client of that server."""
    with InceptionClient(served.grpc_url, token=served.token, timeout_s=60.0) as connected:
        yield connected


@dataclass(frozen=True)
class Published:
    """One `model.onnx` and what it is of."""

    spec: ModelSpec
    precision: str
    model: onnx.ModelProto


@pytest.fixture(scope="module", params=_FILES, ids=lambda file: file[0].served_name(file[1]))
def published(request: pytest.FixtureRequest, repository: Path) -> Published:
    """Each published file; where the session's repository has FP32 only, the half of it that a build would publish."""
    spec, precision = request.param
    path = repository / spec.served_name(precision) / "1" / "model.onnx"
    if path.is_file():
        return Published(spec, precision, onnx.load(path))
    single = onnx.load(repository / spec.served_name("fp32") / "1" / "model.onnx")
    return Published(spec, precision, half_onnx_from_onnx(single))
