"""Plans for the GPU of this machine: built, proved, and served by the TensorRT backend. Never run so far."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builder.golden import GOLDEN_NAMES, golden_images
from builder.manifest import read_manifest
from builder.targets import STRONGLY_TYPED_FROM, Target, version_key
from builder.tensorrt_plan import plan_runner
from builder.toolchain import Toolchain
from builder.verify import verify
from client import InceptionClient
from serving import serve


def _record(folder: Path, target: Target) -> dict:
    version = str(read_manifest(folder)["version"])
    return json.loads((folder / version / str(target.plan_filename)).with_suffix(".json").read_text())


def test_every_model_has_a_proved_plan(gpu_repository: Path, target: Target, toolchain: Toolchain) -> None:
    """Hashes hold, the record names GPU and TensorRT, and the verdict has each batch size on each profile."""
    report = verify(gpu_repository, target)
    assert len(report) == 4
    assert not any(report.values())
    for name in report:
        record = _record(gpu_repository / name, target)
        assert record["gpu"] == toolchain.gpus[0].name
        assert record["toolchain"]["tensorrt"] == toolchain.tensorrt
        assert [run["batch_size"] for run in record["verdict"]["runs"]] == [1, 3, 8]


def test_an_fp16_plan_is_smaller_and_computes_in_fp16(gpu_repository: Path, target: Target) -> None:
    """Half the weights, and most convolutions in half precision: the size is the check that no wrapper can fake."""
    for slug in ("googlenet", "inception_v3"):
        half, single = (_record(gpu_repository / f"{slug}_{precision}", target) for precision in ("fp16", "fp32"))
        assert half["size"] < 0.75 * single["size"]
        assert half["verdict"]["layers"]["half"] > half["verdict"]["layers"]["single"]
        assert single["verdict"]["layers"]["single"] > single["verdict"]["layers"]["half"]


def test_a_second_build_builds_nothing(gpu_repository: Path, build: Callable) -> None:
    """Minutes on the GPU are spent once."""
    assert {result["status"] for result in build(gpu_repository)} == {"unchanged"}


def test_a_published_plan_answers_as_the_file_beside_it(gpu_repository: Path, target: Target) -> None:
    """Read back from the repository, as Triton will: top-1 of the photographs is that of the FP32 graph."""
    folder = gpu_repository / "inception_v3_fp32"
    version = folder / str(read_manifest(folder)["version"])
    reference = np.load(version / "reference.npy", allow_pickle=False)[: len(GOLDEN_NAMES)]
    with plan_runner((version / str(target.plan_filename)).read_bytes()) as run:
        answer = run(0, golden_images(299))
    assert answer.argmax(1).tolist() == reference.argmax(1).tolist()
    assert np.allclose(answer.sum(1), 1, atol=1e-3)


def test_three_profiles_are_built_and_proved(tmp_path: Path, target: Target, build: Callable) -> None:
    """`--profiles 1,4,8`: each profile at each size that it admits."""
    build(tmp_path / "models", "--profiles", "1,4,8")
    record = _record(tmp_path / "models" / "googlenet_fp16", target)
    proved = {(run["profile"], run["batch_size"]) for run in record["verdict"]["runs"]}
    assert proved == {(0, 1), (1, 1), (1, 3), (2, 1), (2, 3), (2, 8)}


def test_weak_typing_builds_where_it_exists(
    tmp_path: Path, target: Target, toolchain: Toolchain, build: Callable
) -> None:
    """The A/B switch of TensorRT 10."""
    if version_key(str(toolchain.tensorrt)) >= version_key(STRONGLY_TYPED_FROM):
        pytest.skip(f"TensorRT {toolchain.tensorrt} has no weakly typed networks")
    build(tmp_path / "models", "--weak-fp16", "--precision", "fp16")
    assert _record(tmp_path / "models" / "googlenet_fp16", target)["options"]["is_weakly_typed"]


@pytest.mark.usefixtures("tritonserver")
def test_the_repository_is_served_by_the_tensorrt_backend(gpu_repository: Path, photos: list[Path]) -> None:
    """Warm-up, CUDA graphs and batching included: every model answers, as the release that was built."""
    with (
        serve(gpu_repository, ports="auto", device="gpu") as server,
        InceptionClient(server.grpc_url, token=server.token, timeout_s=60.0) as client,
    ):
        for name in server.models:
            answers = [client.classify(photo, model=name) for photo in photos]
            assert {answer.release for answer in answers} == {read_manifest(gpu_repository / name)["release"]}
            assert not any(answer.emulated for answer in answers)
