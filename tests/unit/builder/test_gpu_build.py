"""`build --gpu t4` on machines of every kind: all that can be done is done, and what is left is said."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build import BuildOptions, build
from builder.catalog import MODELS
from builder.cli import main
from builder.gpu_build import build_both_stages, build_onnx_stage
from builder.install import install
from builder.manifest import has_plan, problems_of, read_manifest
from builder.plan_record import plan_files
from builder.plan_stage import PlanRequest
from builder.progress import Progress
from builder.publish import Repository
from builder.targets import CPU, T4
from builder.tensorrt_plan import PlanOptions

_NAME = "googlenet_96_fp32"
_SPEC = MODELS["GoogLeNet"].at_input_size(96)
_MODEL = ["--model", "GoogLeNet", "--input-size", "96", "--precision", "fp32", "--weights", "seeded"]


@pytest.fixture(scope="module")
def served_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory around a repository that `build --gpu cpu` has written."""
    parent = tmp_path_factory.mktemp("served") / "parent"
    build(BuildOptions((_SPEC,), CPU, ("fp32",), parent / "models", weights="seeded"), Progress(is_quiet=True))
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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

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
    for expected in (str(home), _NAME, "sm75.plan", "NVIDIA T4", "7.5", "11.2.1", "--from DIR"):
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
    options = ["--tf32", "--tensorrt-of-this-host"]
    assert main(["build", "--gpu", "t4", *_MODEL, "--repository", str(repository), *options]) == 3
    told = capsys.readouterr().err
    command = shlex.split(told.partition("on such a host: ")[2].partition(";")[0])
    assert command[:7] == ["python", "-m", "builder", "build", "--gpu", "t4", "--stage"]
    assert set(options) <= set(command)
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
    assert f"run this step in {T4.tensorrt_image}" in told


@pytest.mark.usefixtures("machine")
def test_the_service_is_offered_where_it_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`build-t4` has a fixed command: all that awaits a plan, in the default repository, with default options."""
    monkeypatch.chdir(tmp_path)
    plain = PlanRequest(T4, Path("model_repository"), PlanOptions())
    hint = "(or docker compose run --rm build-t4)"
    for request, is_offered in (
        (plain, True),
        (dataclasses.replace(plain, repository=Path("elsewhere")), False),
        (dataclasses.replace(plain, architectures=("GoogLeNet",)), False),
        (dataclasses.replace(plain, options=PlanOptions(workspace_mib=1)), False),
        (dataclasses.replace(plain, is_other_tensorrt_allowed=True), False),
        (dataclasses.replace(plain, target=dataclasses.replace(T4, name="sm80", title="NVIDIA A100")), False),
    ):
        options = BuildOptions((_SPEC,), request.target, ("fp32",), plain.repository, weights="seeded")
        log = io.StringIO()
        build_onnx_stage(options, request, Progress(log))
        assert "The step left, on such a host: python -m builder build --gpu" in log.getvalue()
        assert (hint in log.getvalue(), "build-" in log.getvalue()) == (is_offered, is_offered)


def test_an_unlisted_gpu_is_left_to_auto(
    repository: Path, machine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither `--gpu sm80` nor a service of that name exists."""
    machine("0, GPU-a, NVIDIA A100-SXM4-40GB, 8.0, 580.95.05, 40960")
    assert main(["build", "--gpu", "auto", *_MODEL, "--repository", str(repository)]) == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert "sm80.plan must be built on an NVIDIA A100-SXM4-40GB" in told
    command = shlex.split(told.partition("on such a host: ")[2].partition(";")[0])
    assert command[:6] == ["python", "-m", "builder", "build", "--gpu", "auto"]
    assert "docker compose" not in told
    assert main(command[3:]) == 3
    assert "shows what --gpu auto needs" in capsys.readouterr().err


def test_another_tensorrt_is_refused_before_any_work_is_lost(
    repository: Path,
    machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Minutes of searching for a plan that the T4's Triton cannot load; both versions are named."""
    machine("0, GPU-t, Tesla T4, 7.5, 580.95.05, 15360")
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.9.0"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    before = _snapshot(repository.parent)
    for stage in ([*_MODEL, "--seed", "7"], ["--stage", "plan"]):
        assert main(["build", "--gpu", "t4", *stage, "--repository", str(repository)]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert all(told in line for told in ("TensorRT 10.9.0", "11.2.1", "--tensorrt-of-this-host"))
    assert _snapshot(repository.parent) == before


def test_the_other_tensorrt_is_a_caution_on_request(
    repository: Path, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is refused, and who asked is told what it means before the first plan: of none, here."""
    machine("0, GPU-t, Tesla T4, 7.5, 580.95.05, 15360")
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.9.0"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    request = PlanRequest(T4, repository, PlanOptions(), is_other_tensorrt_allowed=True)
    log = io.StringIO()
    assert build_both_stages(BuildOptions((), T4, (), repository), request, Progress(log)) == []
    assert "only a Triton with TensorRT 10.9.0 can load the plan" in log.getvalue()


@pytest.mark.usefixtures("machine")
def test_plans_that_are_there_need_no_gpu(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Built elsewhere and copied here: nothing is left, and nothing is refused."""
    facts = {"onnx_sha256": read_manifest(repository / _NAME)["files"]["1/model.onnx"]["sha256"], "profiles": [8]}
    files = plan_files("sm75.plan", b"plan", '{"Layers": []}', facts)
    place = Repository(repository)
    with place.locked():
        install(place, repository / _NAME, files)
    assert has_plan(repository / _NAME, "sm75.plan")
    assert main(["build", "--gpu", "t4", *_MODEL, "--repository", str(repository), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["served_name"], result["status"]) == (_NAME, "unchanged")


@pytest.mark.usefixtures("machine")
def test_what_was_staged_never_replaces_what_was_asked_for_later(repository: Path) -> None:
    """A folder that waits for a plan is dropped when another build of the same name is published."""
    staged = Repository(repository).awaiting_plan / _NAME
    arguments = [*_MODEL, "--repository", str(repository), "--quiet"]
    assert main(["build", "--gpu", "t4", *arguments, "--seed", "9"]) == 3
    assert staged.is_dir()
    assert main(["build", "--gpu", "cpu", *arguments, "--seed", "10"]) == 0
    assert not staged.exists()


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
        (["--gpu", "t4", "--tf32", "--precision", "fp16"], "--tf32 is about fp32 plans"),
        (["--gpu", "v100", "--weak-fp16", "--precision", "fp32", "--explain"], "--weak-fp16 is about fp16 plans"),
        (["--gpu", "cpu", "--tensorrt-of-this-host"], "--tensorrt-of-this-host is about TensorRT plans"),
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
