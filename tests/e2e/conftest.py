"""A model that answers at once: what a test of the server itself needs, and nothing of the builder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

_CONFIG = """\
name: "{name}"
backend: "{backend}"
max_batch_size: 8
input [{{ name: "image" data_type: TYPE_UINT8 dims: [4, 4, 3] }}]
output [{{ name: "probabilities" data_type: TYPE_FP32 dims: [2] }}]
instance_group [{{ kind: {kind} count: 1 }}]
"""
_MODEL = """\
import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            mean = image.reshape(len(image), -1).mean(axis=1) / 255
            probabilities = numpy.stack([1 - mean, mean], axis=1).astype(numpy.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", probabilities)]))
        return responses
"""


def _write_tiny_model(
    repository: Path, name: str = "tiny", model_py: str = _MODEL, *, has_cpu_config: bool = True
) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(model_py)
    (folder / "config.pbtxt").write_text(_CONFIG.format(name=name, backend="tensorrt", kind="KIND_GPU"))
    if has_cpu_config:
        (folder / "configs").mkdir()
        (folder / "configs" / "cpu.pbtxt").write_text(_CONFIG.format(name=name, backend="python", kind="KIND_CPU"))
    return repository


@pytest.fixture(scope="session")
def write_tiny_model() -> Callable[..., Path]:
    """`write_tiny_model(repository, name, model_py)` adds a model to a repository and returns the repository."""
    return _write_tiny_model


@pytest.fixture
def add_tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """The same for the repository of one test: `add_tiny_model(name, model_py)`."""
    return partial(_write_tiny_model, tmp_path / "repository")
