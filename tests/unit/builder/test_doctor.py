"""`doctor` looks and says: what is here, what is needed, one command for each target."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from builder.cli import main
from builder.publish import Repository
from builder.targets import TARGETS

_T4 = "0, GPU-11, Tesla T4, 7.5, 580.95.05, 15360"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH and an empty working directory."""
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
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
    """GPU and driver are right, TensorRT is in the image: one compose command; the V100's plan is for elsewhere."""
    _nvidia_smi(tools, _T4)
    seen = _seen(capsys)
    assert seen["here"]["gpus"][0]["name"] == "Tesla T4"
    assert seen["t4"]["command"] == "docker compose run --rm build-t4"
    assert (seen["t4"]["can_build_here"], seen["t4"]["then"]) == (False, "")
    assert seen["v100"]["command"] == "python -m builder build --gpu v100 --stage onnx"
    assert "Tesla T4" in " ".join(seen["v100"]["refusals"])


def test_a_host_that_has_everything_builds(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the right GPU and TensorRT the command is the build itself."""
    _nvidia_smi(tools, _T4)
    module = types.ModuleType("tensorrt")
    module.__version__ = "11.2.1.2"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    seen = _seen(capsys)
    assert (seen["t4"]["can_build_here"], seen["t4"]["refusals"]) == (True, [])
    assert seen["t4"]["command"] == "python -m builder build --gpu t4"
    assert "cannot build for an NVIDIA V100" in " ".join(seen["v100"]["refusals"])


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
    assert "1 folders for a plan" in capsys.readouterr().out
