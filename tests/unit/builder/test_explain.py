"""`build --explain`: the trtexec lines of plans, with nothing built and nothing written."""

from __future__ import annotations

import json
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builder.catalog import MODELS
from builder.cli import main
from builder.folder import Contents, assemble_folder
from builder.golden import PROOF_IMAGES
from builder.publish import Repository

_NAME = "googlenet_96_fp32"
_SPEC = MODELS["GoogLeNet"].at_input_size(96)


@pytest.fixture(autouse=True)
def without_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty PATH has no nvidia-smi."""
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a TensorRT of this version here."""

    def install(version: str) -> None:
        module = types.ModuleType("tensorrt")
        module.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt", module)

    return install


def _assemble(home: Path, profiles: tuple[int, ...]) -> None:
    """A whole model folder whose graph is never read."""
    home.mkdir(parents=True)
    answers = np.random.default_rng(0).dirichlet(np.ones(3), PROOF_IMAGES).astype(np.float32)
    np.save(home.parent / "answers.npy", answers)
    reference = (home.parent / "answers.npy").read_bytes()
    (home.parent / "answers.npy").unlink()
    contents = Contents(
        _SPEC.with_classes(3), "fp32", ["cat", "dog", "owl"], b"graph", reference, 1, {}, profile_sizes=profiles
    )
    assemble_folder(home, contents, contents.release, version=1)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a served folder of one profile, and the same model staged with three."""
    place = Repository(tmp_path / "parent" / "models")
    _assemble(place.path / _NAME, (8,))
    _assemble(place.awaiting_plan / _NAME, (1, 4, 8))
    return place.path


def _words(line: str) -> dict[str, str]:
    program, *options = shlex.split(line)
    assert program == "trtexec"
    return dict(option.partition("=")[::2] for option in options)


def _snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_line_of_each_plan_is_printed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What this command would build, whether it is there yet or not; and nothing is written."""
    before = _snapshot(repository.parent)
    arguments = ["build", "--gpu", "v100", "--model", "GoogLeNet", "--input-size", "96", "--explain"]
    assert main([*arguments, "--repository", str(repository), "--profiles", "4,8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    staged = Repository(repository).awaiting_plan
    assert lines[0] == "# googlenet_96_fp16: sm70.plan on an NVIDIA V100, TensorRT 10.4.0.26"
    assert lines[2] == "# googlenet_96_fp32: sm70.plan on an NVIDIA V100, TensorRT 10.4.0.26"
    for line, name in ((lines[1], "googlenet_96_fp16"), (lines[3], _NAME)):
        assert _words(line)["--onnx"] == str(staged / name / "1" / "model.onnx")
        assert [word for word in shlex.split(line) if word.startswith("--opt")] == [
            "--optShapes=image:4x96x96x3",
            "--optShapes=image:8x96x96x3",
        ]
    assert _snapshot(repository.parent) == before


def test_what_the_line_writes_goes_where_it_is_run(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """trtexec makes no directories, and a served folder is only published to."""
    assert main(["build", "--gpu", "t4", "--stage", "plan", "--explain", "--repository", str(repository)]) == 0
    words = _words(capsys.readouterr().out.splitlines()[1])
    assert words["--saveEngine"] == f"{_NAME}-sm75.plan"
    assert words["--exportLayerInfo"] == f"{_NAME}-sm75.layers.json"
    assert words["--timingCacheFile"].endswith("tensorrt-11.2.1.cache")
    assert "/" not in words["--timingCacheFile"]


def test_an_option_goes_to_the_plans_it_is_about(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TF32 is nothing in a strongly typed FP16 plan, and weak typing nothing in an FP32 plan."""
    arguments = ["build", "--gpu", "v100", "--model", "GoogLeNet", "--explain", "--repository", str(repository)]
    seen = []
    for option in ("--tf32", "--weak-fp16"):
        assert main([*arguments, option]) == 0
        lines = capsys.readouterr().out.splitlines()
        seen += [{"--noTF32", "--stronglyTyped", "--fp16"} & _words(line).keys() for line in (lines[1], lines[3])]
    assert seen == [
        {"--noTF32", "--stronglyTyped"},
        {"--stronglyTyped"},
        {"--noTF32", "--fp16"},
        {"--noTF32", "--stronglyTyped"},
    ]


def test_the_plan_stage_is_explained_by_the_folders_that_are_there(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their own precision and profiles: those staged before those served, those of --from instead of either."""
    explain = ["build", "--gpu", "t4", "--stage", "plan", "--explain", "--json", "--repository", str(repository)]
    assert main(explain) == 0
    (staged,) = json.loads(capsys.readouterr().out)
    assert (staged["served_name"], staged["profiles"]) == (_NAME, [1, 4, 8])
    assert f"--onnx={Repository(repository).awaiting_plan / _NAME / '1' / 'model.onnx'}" in staged["command"]

    copied = tmp_path / "copied"
    _assemble(copied / _NAME, (2, 8))
    assert main([*explain, "--from", str(copied)]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["profiles"] == [2, 8]
    assert f"--onnx={copied / _NAME / '1' / 'model.onnx'}" in plan["command"]


def test_the_json_has_the_line_and_what_it_is_for(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object a plan, without a stage too."""
    arguments = ["build", "--gpu", "v100", "--model", "GoogLeNet", "--precision", "fp32", "--explain"]
    assert main([*arguments, "--repository", str(repository)]) == 0
    _, command = capsys.readouterr().out.splitlines()
    assert main([*arguments, "--repository", str(repository), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "served_name": "googlenet_fp32",
            "target": "v100",
            "tensorrt": "10.4.0.26",
            "profiles": [8],
            "command": command,
        }
    ]


def test_the_line_is_for_the_tensorrt_that_would_build(
    repository: Path, tensorrt: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """That of this host where it is the target's release or asked for; else the image's, which takes other options."""
    explain = ["build", "--gpu", "v100", "--stage", "plan", "--explain", "--json", "--repository", str(repository)]
    for version, options, expected in (
        ("10.4.0", [], "10.4.0"),
        ("11.2.1.2", [], "10.4.0.26"),
        ("10.3.0", ["--tensorrt-of-this-host"], "10.3.0"),
    ):
        tensorrt(version)
        assert main([*explain, *options]) == 0
        (plan,) = json.loads(capsys.readouterr().out)
        assert plan["tensorrt"] == expected
        assert "--stronglyTyped" in plan["command"]


def test_no_folder_to_explain_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the stage itself would."""
    assert main(["build", "--gpu", "t4", "--stage", "plan", "--explain", "--repository", str(tmp_path / "none")]) == 2
    assert "no folder that was asked for" in capsys.readouterr().err
