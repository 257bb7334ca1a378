"""`doctor` looks and says: what is here, what is needed, one command for each target."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.cli import main
from builder.publish import Repository
from builder.targets import TARGETS

_T4 = "0, GPU-11, Tesla T4, 7.5, 580.95.05, 15360"
_V100 = "1, GPU-22, Tesla V100-SXM2-16GB, 7.0, 550.54.14, 16160"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH and an empty working directory."""
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tools"


def _nvidia_smi(tools: Path, *rows: str) -> None:
    lines = "".join(f"echo '{row}'\n" for row in rows)
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}")
    (tools / "nvidia-smi").chmod(0o755)


def _seen(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    assert main(["doctor", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    return seen | {target["name"]: target for target in seen["targets"]}


@pytest.mark.usefixtures("tools")
def test_a_machine_without_a_gpu_gets_a_command_for_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be done here, and where the rest is done."""
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "none found" in shown
    for command in ("--gpu t4 --stage onnx", "--gpu v100 --stage onnx", "--gpu cpu"):
        assert f"run         python -m builder build {command}" in shown
    assert shown.count("then        the plan, on an NVIDIA") == 2
    for target in TARGETS.values():
        assert f"\n{target.name} - {target.title}\n" in shown
        if target.tensorrt:
            assert f"{target.tensorrt_image}: TensorRT {target.tensorrt}, Python {target.python}" in shown


def test_a_t4_host_is_sent_to_the_image(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GPU and driver are right, TensorRT is in the image; there is nothing yet to build a plan of, and the V100's plan
    is for elsewhere.
    """
    _nvidia_smi(tools, _T4)
    seen = _seen(capsys)
    assert seen["here"]["gpus"][0]["name"] == "Tesla T4"
    assert seen["t4"]["command"] == "python -m builder build --gpu t4 --stage onnx"
    assert (seen["t4"]["can_build_here"], seen["t4"]["then"]) == (False, "docker compose run --rm build-t4")
    assert seen["v100"]["command"] == "python -m builder build --gpu v100 --stage onnx"
    assert "Tesla T4" in " ".join(seen["v100"]["refusals"])


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a TensorRT of this version here; Polygraphy and torch are those of the test environment."""

    def install(version: str) -> None:
        module = types.ModuleType("tensorrt")
        module.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt", module)

    return install


def test_a_host_that_has_everything_builds(
    tools: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the right GPU and TensorRT the command is the build itself."""
    _nvidia_smi(tools, _T4)
    tensorrt("11.2.1.2")
    seen = _seen(capsys)
    assert (seen["t4"]["can_build_here"], seen["t4"]["refusals"]) == (True, [])
    assert seen["t4"]["command"] == "python -m builder build --gpu t4"
    assert "cannot build for an NVIDIA V100" in " ".join(seen["v100"]["refusals"])


def test_a_v100_host_with_too_new_a_tensorrt_is_sent_to_the_image(
    tools: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """GPU and driver are right, and the image brings the TensorRT that still knows Volta."""
    _nvidia_smi(tools, _T4, _V100)
    tensorrt("11.2.1.2")
    seen = _seen(capsys)
    assert not seen["v100"]["can_build_here"]
    assert seen["v100"]["cautions"] == []
    assert seen["v100"]["then"] == "docker compose run --rm build-v100"
    assert seen["t4"]["command"] == "python -m builder build --gpu t4"


def test_the_text_for_a_gpu_host_has_one_command_a_target(
    tools: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is here, what it means for each target, and what to type; another patch than listed is a caution."""
    _nvidia_smi(tools, _T4.replace("15360", "[N/A]"))
    tensorrt("11.2.0")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "  GPU         Tesla T4, compute capability 7.5, driver 580.95.05, unknown memory\n" in shown
    assert "  TensorRT    11.2.0\n" in shown
    assert shown.count("  caution  ") == 1
    assert "  caution     TensorRT 11.2.0 is here" in shown
    assert [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("  run  ")] == [
        "python -m builder build --gpu t4",
        "python -m builder build --gpu v100 --stage onnx",
        "python -m builder build --gpu cpu",
    ]
    assert [line for line in shown.splitlines() if "plans here" in line] == [
        "  plans here  yes",
        "  plans here  no",
    ]


@pytest.mark.usefixtures("tools")
def test_a_long_command_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in one line, however long the path is."""
    repository = tmp_path / "a-path with spaces and-hyphens" / ("long-name-" * 12)
    assert main(["doctor", "--repository", str(repository)]) == 0
    shown = capsys.readouterr().out
    assert f"  run         python -m builder build --gpu t4 --stage onnx --repository '{repository}'\n" in shown


def test_the_json_is_complete_and_the_same_each_time(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read it: every key is there for every target, with a GPU or without."""
    _nvidia_smi(tools, _T4)
    seen = _seen(capsys)
    assert seen == _seen(capsys)
    assert set(seen) - set(TARGETS) == {"here", "awaiting_plan", "targets"}
    assert set(seen["here"]) == {"gpus", "tensorrt", "polygraphy", "python", "notes"}
    (gpu,) = seen["here"]["gpus"]
    assert list(gpu.values()) == [0, "GPU-11", "Tesla T4", "7.5", "580.95.05", 15360]
    assert [target["name"] for target in seen["targets"]] == list(TARGETS)
    for target in seen["targets"]:
        assert set(target) == {
            "name", "title", "compute_capability", "plan", "needs", "can_build_here", "refusals", "cautions",
            "command", "then",
        }  # fmt: skip
        assert set(target["needs"]) == {"image", "tensorrt", "driver", "python", "why"}


def test_an_old_driver_is_not_sent_to_the_image(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The container would fail there: the driver comes first, the work before the plan can be done meanwhile."""
    _nvidia_smi(tools, _T4.replace("580.95.05", "470.57.02"))
    seen = _seen(capsys)
    assert seen["t4"]["command"] == "python -m builder build --gpu t4 --stage onnx"
    assert "470.57.02" in seen["t4"]["refusals"][0]


@pytest.mark.usefixtures("tools")
def test_folders_that_wait_for_a_plan_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever comes to the GPU host later sees what is left to do."""
    home = Repository(tmp_path / "model_repository").awaiting_plan
    (home / "googlenet_fp16").mkdir(parents=True)
    assert _seen(capsys)["awaiting_plan"] == {"directory": str(home), "folders": ["googlenet_fp16"]}
    assert main(["doctor"]) == 0
    assert "1 folder for a plan" in capsys.readouterr().out
    (home / "xception41_fp32").mkdir()
    assert main(["doctor"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"2 folders for a plan in {home}: googlenet_fp16, xception41_fp32" in told


def test_where_folders_wait_the_command_is_their_plans(
    tools: Path, tensorrt: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All before the plan is done: it need not be done again, nor can it be where they were copied from elsewhere."""
    _nvidia_smi(tools, _T4)
    tensorrt("11.2.1.2")
    assert _seen(capsys)["t4"]["command"] == "python -m builder build --gpu t4"
    (Repository(tmp_path / "model_repository").awaiting_plan / "googlenet_fp16").mkdir(parents=True)
    seen = _seen(capsys)
    assert seen["t4"]["command"] == "python -m builder build --gpu t4 --stage plan"
    assert seen["v100"]["command"] == "python -m builder build --gpu v100 --stage onnx"


def test_the_service_is_for_the_default_repository(
    tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a fixed command; for another repository the image is named, and what to run there."""
    _nvidia_smi(tools, _T4)
    place = ["--repository", "elsewhere"]
    assert main(["doctor", "--json", *place]) == 0
    before = json.loads(capsys.readouterr().out)["targets"][0]
    assert before["command"] == "python -m builder build --gpu t4 --stage onnx --repository elsewhere"
    (Repository(tmp_path / "elsewhere").awaiting_plan / "googlenet_fp16").mkdir(parents=True)
    assert main(["doctor", "--json", *place]) == 0
    after = json.loads(capsys.readouterr().out)["targets"][0]
    assert after["command"] == "python -m builder build --gpu t4 --stage plan --repository elsewhere"
    image = TARGETS["t4"].tensorrt_image
    assert [image in before["then"], image in after["then"]] == [True, True]


def test_a_gpu_that_is_not_in_the_table_is_for_auto(
    tools: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own paragraph, and no service that does not exist."""
    _nvidia_smi(tools, "0, GPU-a, NVIDIA A100-SXM4-40GB, 8.0, 580.95.05, 40960")
    seen = _seen(capsys)
    assert [target["name"] for target in seen["targets"]] == [*TARGETS, "sm80"]
    assert seen["sm80"]["command"] == "python -m builder build --gpu auto --stage onnx"
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "\nsm80 - NVIDIA A100-SXM4-40GB\n  needs       compute capability 8.0\n" in shown
    assert "docker compose" not in shown
    tensorrt("10.9.0")
    assert _seen(capsys)["sm80"]["command"] == "python -m builder build --gpu auto"


def test_what_the_user_has_hidden_is_told(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine with a GPU that is called one without would be a riddle."""
    _nvidia_smi(tools, _T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    seen = _seen(capsys)
    assert (seen["here"]["gpus"], seen["here"]["notes"]) == ([], ["CUDA_VISIBLE_DEVICES= hides 1 of 1 GPUs"])
    assert "hides 1 of 1 GPUs" in seen["t4"]["refusals"][0]


def test_another_card_than_the_target_is_a_caution(
    tools: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It may build, for one that is alike."""
    _nvidia_smi(tools, _T4.replace("Tesla T4", "Quadro RTX 6000"))
    tensorrt("11.2.1")
    seen = _seen(capsys)["t4"]
    assert (seen["can_build_here"], ["Quadro RTX 6000" in caution for caution in seen["cautions"]]) == (True, [True])
