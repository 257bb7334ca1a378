"""`build --gpu t4` on machines of every kind: all that can be done is done, and what is left is said."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build import BuildOptions, build
from builder.catalog import MODELS
from builder.cli import main
from builder.manifest import problems_of, read_manifest
from builder.progress import Progress
from builder.publish import Repository
from builder.targets import CPU

_NAME = "googlenet_96_fp32"
_MODEL = ["--model", "GoogLeNet", "--input-size", "96", "--precision", "fp32", "--weights", "seeded"]


@pytest.fixture(scope="module")
def served_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory around a repository that `build --gpu cpu` has written."""
    parent = tmp_path_factory.mktemp("served") / "parent"
    spec = MODELS["GoogLeNet"].at_input_size(96)
    build(BuildOptions((spec,), CPU, ("fp32",), parent / "models", weights="seeded"), Progress(is_quiet=True))
    return parent


@pytest.fixture
def repository(served_once: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(served_once, tmp_path / "parent")
    return tmp_path / "parent" / "models"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this machine one with the GPU that an `nvidia-smi` on PATH tells of; by itself, one without."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))

    def with_gpu(row: str) -> None:
        program = tools / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{row}'\n")
        program.chmod(0o755)

    return with_gpu


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.mark.usefixtures("machine")
def test_without_a_gpu_everything_before_the_plan_is_kept(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3 names folder, plan, GPU, TensorRT and the command left; the repository is as it was."""
    before = _snapshot(repository)
    arguments = ["build", "--gpu", "t4", *_MODEL, "--seed", "5", "--repository", str(repository)]
    assert main(arguments) == 3
    told = capsys.readouterr().err
    home = Repository(repository).awaiting_plan
    for expected in (str(home), _NAME, "sm75.plan", "NVIDIA T4", "7.5", "11.2.1", "--from DIR", "build-t4"):
        assert expected in told
    assert "Traceback" not in told
    assert problems_of(home / _NAME) == []
    assert not list(repository.parent.rglob("*.plan"))
    assert _snapshot(repository) == before

    assert main(arguments) == 3
    assert f"{_NAME:<26}unchanged" in capsys.readouterr().err


@pytest.mark.usefixtures("machine")
def test_a_served_folder_of_the_same_inputs_awaits_its_plan_where_it_is(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `build --gpu cpu` has published is not built again for the GPU: the plan will join it."""
    assert main(["build", "--gpu", "v100", *_MODEL, "--repository", str(repository), "--json"]) == 3
    captured = capsys.readouterr()
    (result,) = json.loads(captured.out)
    assert (result["status"], result["folder"]) == ("unchanged", str(repository / _NAME))
    assert "export to ONNX" not in captured.err
    assert str(repository) in captured.err.splitlines()[-1]


@pytest.mark.usefixtures("machine")
def test_the_step_left_can_be_typed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of the message is understood here, and says what this machine lacks."""
    assert main(["build", "--gpu", "t4", *_MODEL, "--repository", str(repository), "--tf32"]) == 3
    told = capsys.readouterr().err
    command = shlex.split(told.partition("on such a host: ")[2].partition(" (or ")[0])
    assert command[:7] == ["python", "-m", "builder", "build", "--gpu", "t4", "--stage"]
    assert "--tf32" in command
    assert main(command[3:]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "Nothing was begun and nothing is lost" in line
    assert "GPU" in line


@pytest.mark.usefixtures("machine")
def test_the_onnx_stage_alone_ends_well(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for no more than this machine can do, the answer is 0 and what comes next."""
    arguments = ["build", "--gpu", "t4", "--stage", "onnx", *_MODEL, "--seed", "6", "--repository", str(repository)]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    (result,) = json.loads(captured.out)
    assert (result["served_name"], result["status"]) == (_NAME, "staged")
    assert "--stage plan" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("row", "sides"),
    [
        ("0, GPU-v, Tesla V100-SXM2-16GB, 7.0, 550.54.14, 16160", ["7.0", "7.5"]),
        ("0, GPU-t, Tesla T4, 7.5, 470.57.02, 15360", ["470", "580"]),
    ],
    ids=["wrong GPU", "old driver"],
)
def test_the_wrong_machine_is_refused_before_any_work(
    repository: Path,
    machine: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    row: str,
    sides: list[str],
) -> None:
    """Minutes of export for a plan that this GPU can never build would be minutes lost; both sides are named."""
    machine(row)
    before = _snapshot(repository.parent)
    assert main(["build", "--gpu", "t4", *_MODEL, "--seed", "7", "--repository", str(repository)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert all(side in line for side in sides)
    assert "Nothing was begun" in line
    assert _snapshot(repository.parent) == before


def test_a_gpu_without_tensorrt_still_does_the_onnx_stage(
    repository: Path, machine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual T4 host: TensorRT is in the image, torch is not."""
    machine("0, GPU-t, Tesla T4, 7.5, 580.95.05, 15360")
    assert main(["build", "--gpu", "t4", *_MODEL, "--seed", "8", "--repository", str(repository)]) == 3
    told = capsys.readouterr().err
    assert "compare with torch" in told
    assert "docker compose run --rm build-t4" in told


@pytest.mark.usefixtures("machine")
def test_what_was_staged_never_replaces_what_was_asked_for_later(repository: Path) -> None:
    """A folder that waits for a plan is dropped when another build of the same name is published."""
    staged = Repository(repository).awaiting_plan / _NAME
    arguments = [*_MODEL, "--repository", str(repository), "--quiet"]
    assert main(["build", "--gpu", "t4", *arguments, "--seed", "9"]) == 3
    assert staged.is_dir()
    assert main(["build", "--gpu", "cpu", *arguments, "--seed", "10"]) == 0
    assert not staged.exists()


@pytest.mark.usefixtures("machine")
def test_explain_prints_the_trtexec_line_and_builds_nothing(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a model, with the paths where the files are."""
    before = _snapshot(repository.parent)
    arguments = ["build", "--gpu", "v100", "--model", "GoogLeNet", "--input-size", "96", "--explain"]
    assert main([*arguments, "--repository", str(repository), "--profiles", "1,4,8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert len(commands) == 2
    assert all(command[0] == "trtexec" for command in commands)
    assert f"--onnx={repository / _NAME / '1' / 'model.onnx'}" in commands[1]
    assert "# googlenet_96_fp32: sm70.plan on an NVIDIA V100" in lines[2]
    assert _snapshot(repository.parent) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--gpu", "cpu", "--stage", "onnx"], "--stage is about TensorRT plans"),
        (["--gpu", "cpu", "--explain"], "--explain is about TensorRT plans"),
        (["--gpu", "cpu", "--weak-fp16"], "--weak-fp16 is about TensorRT plans"),
        (["--gpu", "t4", "--stage", "plan", "--weights", "seeded"], "--weights was decided"),
        (["--gpu", "t4", "--stage", "plan", "--profiles", "8"], "--profiles was decided"),
        (["--gpu", "t4", "--stage", "onnx", "--tf32"], "--tf32 goes with --stage plan"),
        (["--gpu", "t4", "--from", "."], "--from goes with --stage plan"),
        (["--gpu", "t4", "--stage", "plan", "--from", "nowhere"], "no such directory"),
        (["--gpu", "t4", "--profiles", "1,4"], "end with 8"),
        (["--gpu", "t4", "--profiles", "8,4"], "end with 8"),
        (["--gpu", "t4", "--workspace-mib", "0"], "1 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_without_effect_are_refused(
    options: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever gives an option expects it to do something: exit code 2, one line."""
    monkeypatch.chdir(tmp_path)
    assert main(["build", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_verify_names_the_models_that_a_gpu_could_not_serve(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a server is started on the GPU host, with the command that helps."""
    assert main(["verify", str(repository)]) == 0
    capsys.readouterr()
    assert main(["verify", str(repository), "--gpu", "t4"]) == 4
    shown = capsys.readouterr().out
    assert "sm75.plan" in shown
    assert f"python -m builder build --gpu t4 --stage plan --repository {repository}" in shown


def test_publish_installs_a_folder_from_elsewhere(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Name, version and release are told; a damaged one is refused and the one before it stays published."""
    other = tmp_path / "other" / "models"
    assert main(["publish", str(repository / _NAME), "--repository", str(other), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["served_name"], result["version"]) == (_NAME, 1)
    assert result["release"] == read_manifest(repository / _NAME)["release"]
    assert problems_of(other / _NAME) == []
    damaged = tmp_path / "damaged"
    shutil.copytree(repository / _NAME, damaged)
    (damaged / "labels.txt").write_text("cut")
    assert main(["publish", str(repository / _NAME), str(damaged), "--repository", str(other)]) == 4
    captured = capsys.readouterr()
    assert _NAME in captured.out
    assert "labels.txt" in captured.err
    assert problems_of(other / _NAME) == []
