"""Every folder that the builder can write is loaded by the real tritonserver as a CPU serves it, and answers.

The session's repository has all eight models in FP32 and two in FP16. Here are the other FP16 ones, with three profiles
for TensorRT, which the CPU is to know nothing of.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from builder.catalog import MODELS
from builder.folder import Contents, assemble_folder
from builder.labels import labels_for
from builder.precision import half_onnx_from_onnx
from client import InceptionClient
from serving import serve


@pytest.fixture(scope="module")
def others(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP16 folders that the session's repository lacks."""
    path = tmp_path_factory.mktemp("others") / "repository"
    for spec in MODELS.values():
        name = spec.served_name("fp16")
        if (repository / name).exists():
            continue
        single = onnx.load(repository / spec.served_name("fp32") / "1" / "model.onnx")
        half = half_onnx_from_onnx(single).SerializeToString()
        reference = (repository / spec.served_name("fp32") / "1" / "reference.npy").read_bytes()
        labels = labels_for(spec.classes, None)
        contents = Contents(spec, "fp16", labels, half, reference, None, {}, profile_sizes=(1, 4, 8))
        (path / name).mkdir(parents=True)
        assemble_folder(path / name, contents, contents.release, version=1)
    return path


def test_the_folders_that_no_other_test_serves_are_loaded_and_answer(others: Path, photos: list[Path]) -> None:
    """One real inference each, and each says that its FP16 is imitated."""
    names = {path.name for path in others.iterdir()}
    assert len(names) == 6
    with (
        serve(others, ports="auto", exit_timeout_s=5) as server,
        InceptionClient(server.grpc_url, token=server.token, timeout_s=60.0) as client,
    ):
        assert {each.served_name for each in client.health() if each.is_healthy} == names
        for name in names:
            assert client.classify(photos[0], model=name).emulated == "fp16 weights, fp32 arithmetic"
