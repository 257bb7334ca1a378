"""builder/cpu_backend/model.py: one response per request, and no request fails for another's fault.

Inside Triton the module `triton_python_backend_utils` is made of compiled code that exists only there, and the server
refuses misshapen requests before the backend sees them. So these few rules run against stand-ins for its four classes;
everything else about the backend is tested on the real server, in tests/contract.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from builder import MODELS
from builder.architectures import without_auxiliary_heads
from builder.golden import golden_images
from builder.onnx_export import onnx_from_module, probabilities_from_onnx
from builder.seeded import seeded_module

SPEC = MODELS["GoogLeNet"]
IMAGES = golden_images(SPEC.input_size)


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class Response:
    def __init__(self, output_tensors, error=None):
        self.outputs, self.error = output_tensors, error


logged: list[str] = []


class Logger:
    @staticmethod
    def log_error(text):
        logged.append(text)


@pytest.fixture(scope="module")
def backend_module():
    stand_in = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.InferenceResponse, stand_in.Logger, stand_in.TritonError = Tensor, Response, Logger, str
    stand_in.get_input_tensor_by_name = lambda request, name: request.get(name)
    sys.modules[stand_in.__name__] = stand_in
    location = str(files("builder") / "cpu_backend" / "model.py")
    spec = importlib.util.spec_from_file_location("cpu_backend_under_test", location)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[stand_in.__name__]


@pytest.fixture(scope="module")
def onnx_bytes():
    return onnx_from_module(without_auxiliary_heads(seeded_module(SPEC)), SPEC).SerializeToString()


@pytest.fixture
def backend(backend_module, onnx_bytes, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(onnx_bytes)
    model = backend_module.TritonPythonModel()
    config = {"input": [{"dims": ["224", "224", "3"]}], "instance_group": [{"count": 1}]}
    arguments = {"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"}
    model.initialize(arguments)
    return model


def request(array):
    return {} if array is None else {"image": Tensor("image", array)}


def test_requests_of_one_batch_are_run_together_and_answered_apart(backend, onnx_bytes):
    """Each response has the rows of its own request, in order, as ONNX Runtime computes them."""
    runs = []
    infer = backend._infer
    backend._infer = lambda batch: runs.append(len(batch)) or infer(batch)
    responses = backend.execute([request(IMAGES[:1]), request(IMAGES[1:])])
    assert runs == [3]
    answers = [response.outputs[0].array for response in responses]
    assert [len(answer) for answer in answers] == [1, 2]
    np.testing.assert_allclose(np.concatenate(answers), probabilities_from_onnx(onnx_bytes, IMAGES), rtol=2e-3)


@pytest.mark.parametrize(
    "bad",
    [None, IMAGES[0], IMAGES[:1, :100], IMAGES[:1].astype(np.float32), IMAGES[:0]],
    ids=["no input", "no batch axis", "another size", "another type", "no image"],
)
def test_a_bad_request_fails_alone(backend, bad):
    """Its batch mates are answered, and so is it: with its own error."""
    responses = backend.execute([request(IMAGES[:1]), request(bad), request(IMAGES[2:])])
    assert [response.error is None for response in responses] == [True, False, True]
    assert "image" in responses[1].error


@pytest.mark.parametrize("failure", [RuntimeError, MemoryError])
def test_a_run_that_fails_is_tried_request_by_request(backend, failure):
    """One poisonous picture costs its own answer only; the reason goes to the log, not to the caller."""
    infer = backend._infer

    def fails_on_the_rocket(batch):
        if any((image == IMAGES[2]).all() for image in batch):
            raise failure("out of memory in /opt/secret/path")
        return infer(batch)

    backend._infer = fails_on_the_rocket
    responses = backend.execute([request(image[None]) for image in IMAGES])
    assert [response.error is None for response in responses] == [True, True, False]
    assert "/opt/secret/path" not in responses[2].error
    assert "/opt/secret/path" in logged[-1]


def test_answers_stay_after_the_next_run(backend):
    """The runtime reuses its output memory; a response may be sent later."""
    first = backend.execute([request(IMAGES[:1])])[0].outputs[0].array
    kept = first.copy()
    backend.execute([request(IMAGES[1:2])])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 4),
        ({"": "max 100000"}, 4),
        ({"pod/container": "200000 100000", "pod": "max 100000"}, 2),
        ({"pod/container": "max 100000", "pod": "350000 100000"}, 3),
        ({"pod/container": "50000 100000"}, 1),
        ({"": "900000 100000"}, 4),
    ],
    ids=["none", "max", "own", "of the pod", "less than one", "more than there are"],
)
def test_threads_fit_the_processors_this_process_may_use(backend_module, monkeypatch, quotas, expected):
    """Affinity first, then the smallest CPU quota of its own cgroup and those above."""
    files_ = {f"/sys/fs/cgroup/{group}/cpu.max".replace("//", "/"): f"{text}\n" for group, text in quotas.items()}
    files_["/proc/self/cgroup"] = "0::/pod/container\n"

    def read_text(self):
        if str(self) not in files_:
            raise FileNotFoundError(str(self))
        return files_[str(self)]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr(Path, "read_text", read_text)
    assert backend_module.available_cores() == expected
