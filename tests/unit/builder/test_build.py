"""Builds of a real, small model: what is done is not done again, and an interruption costs nothing that was done."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builder import publish as publish_module
from builder.build import BuildOptions, Built, build
from builder.catalog import MODELS
from builder.cli import main
from builder.errors import WeightsUnavailable
from builder.manifest import read_manifest
from builder.onnx_stage import OnnxStage
from builder.progress import Progress
from builder.publish import Repository
from builder.seeded import seeded_module
from builder.targets import CPU
from builder.verify import verify
from builder.weight_source import weight_source

_ROOT = Path(__file__).parents[3]
_NAME = "googlenet_fp32"
_OPTIONS = ["--model", "GoogLeNet", "--weights", "seeded"]
# A builder that is stopped as soon as the checked FP32 graph is kept: the longest step is done, nothing is published.
_STOPPED_BUILDER = """
import os, signal, sys
from builder.cli import main
from builder.onnx_stage import OnnxStage

keep = OnnxStage._keep
def keep_and_stop(self, precision, made):
    keep(self, precision, made)
    os.kill(os.getpid(), {signal})
OnnxStage._keep = keep_and_stop
sys.exit(main(["build", "--gpu", "cpu", "--model", "GoogLeNet", "--weights", "seeded", "--repository", sys.argv[1]]))
"""


def _build(repository: Path, **changes: object) -> tuple[list[Built], str]:
    """Build GoogLeNet for the CPU; what was built and what was reported."""
    options = BuildOptions((MODELS["GoogLeNet"],), CPU, ("fp32",), repository, weights="seeded")
    log = io.StringIO()
    return build(dataclasses.replace(options, **changes), Progress(log)), log.getvalue()


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory around one repository with one published model."""
    parent = tmp_path_factory.mktemp("once") / "parent"
    _build(parent / "models")
    return parent


@pytest.fixture
def repository(built_once: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(built_once, tmp_path / "parent")
    return tmp_path / "parent" / "models"


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def _config(folder: Path, path: str = "config.pbtxt") -> model_config_pb2.ModelConfig:
    config: model_config_pb2.ModelConfig = text_format.Parse(
        (folder / path).read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
    )
    return config


def _labels(path: Path, count: int) -> Path:
    path.write_text("".join(f"label {index}\n" for index in range(count)))
    return path


def test_a_build_publishes_a_true_folder(repository: Path) -> None:
    """`verify` is clean; manifest, configs and labels agree on release, classes and names."""
    assert verify(repository) == {_NAME: []}
    manifest = read_manifest(repository / _NAME)
    assert (manifest["version"], manifest["classes"], manifest["precision"]) == (1, 1000, "fp32")
    assert manifest["weights"]["kind"] == "seeded"
    for path in ("config.pbtxt", "configs/cpu.pbtxt"):
        assert _config(repository / _NAME, path).parameters["release"].string_value == manifest["release"]
    assert len((repository / _NAME / "labels.txt").read_text().splitlines()) == 1000
    assert [path.name for path in (repository.parent / ".staging" / "models").iterdir()] == [".lock"]


def test_a_second_build_is_unchanged_and_imports_no_torch(repository: Path) -> None:
    """Nothing is touched, not even a time, and no heavy library is loaded to find that out."""
    before = _snapshot(repository)
    script = (
        "import sys\nfrom builder.cli import main\ncode = main(sys.argv[1:])\n"
        "heavy = [name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    arguments = ["build", "--gpu", "cpu", *_OPTIONS, "--repository", str(repository), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["served_name"], result["status"], result["version"]) == (_NAME, "unchanged", 1)
    assert result["folder"] == str(repository / _NAME)
    assert done.stderr.splitlines() == [f"{_NAME:<26}unchanged"]
    assert _snapshot(repository) == before


def test_what_waits_for_a_plan_is_dropped_when_something_else_is_asked_for(repository: Path) -> None:
    """What is served is what was asked for last: a later plan stage must not replace it by an older wish."""
    staged = Repository(repository).awaiting_plan / _NAME
    shutil.copytree(repository / _NAME, staged)
    (built,), _ = _build(repository)
    assert built.status == "unchanged"
    assert not staged.exists()


@pytest.mark.parametrize("path", ["labels.txt", "1/model.onnx"])
def test_a_damaged_file_is_rebuilt_as_the_same_release(repository: Path, path: str) -> None:
    """Building again is the repair: same inputs, same release, same number."""
    before = read_manifest(repository / _NAME)
    with (repository / _NAME / path).open("r+b") as file:
        file.write(b"\0")
    (built,), _ = _build(repository)
    assert (built.status, built.version, built.release) == ("published", 1, before["release"])
    assert verify(repository) == {_NAME: []}
    assert not list((repository.parent / ".releases" / "models").iterdir())


def test_a_broken_manifest_is_rebuilt(repository: Path) -> None:
    """Also a folder that no longer says what it is gets replaced, and is kept."""
    (repository / _NAME / "1" / "manifest.json").write_text('{"format": 1')
    (built,), _ = _build(repository)
    assert built.status == "published"
    assert verify(repository) == {_NAME: []}
    assert len(list((repository.parent / ".releases" / "models").iterdir())) == 1


def test_other_labels_are_another_release(repository: Path, tmp_path: Path) -> None:
    """What a client would read differently has a new id and a new number; the old release is kept."""
    before = read_manifest(repository / _NAME)["release"]
    (built,), _ = _build(repository, labels=_labels(tmp_path / "labels.txt", 1000))
    assert (built.status, built.version) == ("published", 2)
    assert built.release != before
    assert [path.name for path in (repository.parent / ".releases" / "models").iterdir()] == [f"{_NAME}@1-{before}"]


def test_a_file_system_without_exchange_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renames leave a moment without the model: whoever builds must read that."""
    monkeypatch.setattr(publish_module, "_RENAME_EXCHANGE", 64)  # no flag of renameat2: the kernel answers EINVAL
    _, log = _build(repository, instances=2)
    assert "cannot exchange folders: two renames were made" in log
    assert _config(repository / _NAME).instance_group[0].count == 2


def test_a_killed_build_leaves_the_repository_and_is_resumed(repository: Path, tmp_path: Path) -> None:
    """SIGKILL after the export: the served folder is untouched, and the next build does not export again."""
    shutil.rmtree(repository / _NAME)
    _build(repository, seed=1)
    before = _snapshot(repository)
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_BUILDER.format(signal=int(signal.SIGKILL)), str(repository)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _snapshot(repository) == before
    (built,), log = _build(repository)
    assert (built.status, built.version) == ("published", 3)  # 1 was deleted, 2 is of seed 1
    assert "export to ONNX" not in log
    assert "load weights" not in log
    assert verify(repository) == {_NAME: []}
    assert not list((repository.parent / ".staging" / "models").glob("work-*"))


@pytest.mark.parametrize("record", ["", "{", "[]", '{"sha256": "0"}'], ids=["empty", "cut", "list", "of another file"])
def test_a_kept_graph_whose_record_was_cut_is_made_again(tmp_path: Path, record: str) -> None:
    """The builder may die between the file and its record, or within either."""
    spec = MODELS["GoogLeNet"]
    source = weight_source(spec, "seeded", seed=0, cache_dir=tmp_path, lock_file=tmp_path / "lock", progress=None)
    made = OnnxStage(spec, source, tmp_path / "work", Progress(is_quiet=True)).checked("fp32")
    (tmp_path / "work" / "fp32.json").write_text(record)
    log = io.StringIO()
    again = OnnxStage(spec, source, tmp_path / "work", Progress(log)).checked("fp32")
    assert "export to ONNX" in log.getvalue()
    assert again == made


@pytest.fixture
def interrupted(tmp_path: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A repository whose first build was interrupted from the keyboard, and what that build said."""
    repository = tmp_path / "models"
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_BUILDER.format(signal=int(signal.SIGINT)), str(repository)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return repository, done


def test_an_interrupted_build_says_how_to_go_on(interrupted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Ctrl-C is no stack trace: exit code 130 and one line."""
    repository, done = interrupted
    assert done.returncode == 130
    told = "builder: interrupted; each model of the repository is either as it was or whole and new"
    assert done.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in done.stderr
    assert not list(repository.iterdir())


def test_a_kept_graph_that_was_cut_off_is_made_again(
    interrupted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """What was kept is believed only with the right hash."""
    repository, _ = interrupted
    (kept,) = (repository.parent / ".staging" / "models").glob("work-*/fp32.onnx")
    with kept.open("r+b") as file:
        file.truncate(1000)
    _, log = _build(repository)
    assert "export to ONNX" in log
    assert verify(repository) == {_NAME: []}


def test_a_refusal_of_the_system_is_one_line(
    interrupted: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the file system refuses on the way ends with exit code 1 and its reason, and publishes nothing."""
    repository, _ = interrupted
    (work,) = (repository.parent / ".staging" / "models").glob("work-*")
    shutil.rmtree(work)
    work.write_text("in the way")
    assert main(["build", "--gpu", "cpu", *_OPTIONS, "--quiet", "--repository", str(repository)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("builder: the system refused: ")
    assert str(work) in line
    assert not list(repository.iterdir())


def test_labels_of_the_wrong_length_are_refused_before_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake that takes a second to see is not told after minutes of work."""
    labels = _labels(tmp_path / "labels.txt", 999)
    arguments = ["build", "--gpu", "cpu", *_OPTIONS, "--labels", str(labels), "--repository", str(tmp_path / "models")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "999 labels and the head has 1000 classes" in told
    assert "export to ONNX" not in told
    assert not list((tmp_path / "models").iterdir())


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch file of a GoogLeNet with seven classes."""
    path = tmp_path_factory.mktemp("weights") / "flowers.pt"
    torch.save(seeded_module(MODELS["GoogLeNet"].with_classes(7)).state_dict(), path)
    return path


def test_a_fine_tuned_head_is_served_with_its_own_classes(fine_tuned: Path, tmp_path: Path) -> None:
    """Seven classes in the file, seven in manifest, configs, labels and graph."""
    labels = _labels(tmp_path / "labels.txt", 7)
    (built,), _ = _build(tmp_path / "models", weights=str(fine_tuned), labels=labels)
    manifest = read_manifest(built.folder)
    assert manifest["classes"] == 7
    assert manifest["weights"]["kind"] == "file"
    for path in ("config.pbtxt", "configs/cpu.pbtxt"):
        config = _config(built.folder, path)
        assert list(config.output[0].dims) == [7]
        assert json.loads(config.parameters["labels"].string_value) == labels.read_text().splitlines()
    assert verify(tmp_path / "models") == {_NAME: []}


def test_a_fine_tuned_head_without_labels_is_refused(
    fine_tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ImageNet's names do not belong on seven flowers."""
    arguments = ["build", "--gpu", "cpu", "--model", "GoogLeNet", "--weights", str(fine_tuned)]
    assert main([*arguments, "--repository", str(tmp_path / "models")]) == 2
    assert "give --labels FILE with 7 lines" in capsys.readouterr().err


def test_another_input_size_has_a_name_of_its_own(tmp_path: Path) -> None:
    """googlenet_299 is served beside googlenet: tensors and the client's preprocessing are at 299."""
    arguments = ["build", "--gpu", "cpu", *_OPTIONS, "--input-size", "299", "--quiet"]
    assert main([*arguments, "--repository", str(tmp_path / "models")]) == 0
    assert verify(tmp_path / "models") == {"googlenet_299_fp32": []}
    config = _config(tmp_path / "models" / "googlenet_299_fp32")
    assert list(config.input[0].dims) == [299, 299, 3]
    told = json.loads(config.parameters["preprocess"].string_value)
    assert (told["crop"], told["resize_short"]) == (299, 320)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """GoogLeNet with its official weights where nobody listens (port 9, discard)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    spec = dataclasses.replace(MODELS["GoogLeNet"], weights_url="http://127.0.0.1:9/GoogLeNet_pretrained.pdparams")
    monkeypatch.setattr("builder.build_command.spec_from_name", lambda _name: spec)
    return lambda: spec


def test_weights_that_cannot_be_fetched_are_never_replaced_by_seeded_ones(
    unreachable: Callable[[], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained model answers with confidence and is wrong: it is built only when asked for by name."""
    arguments = ["build", "--gpu", "cpu", "--model", "GoogLeNet", "--repository", str(tmp_path / "models")]
    kept = ["--cache-dir", str(tmp_path / "cache"), "--lock-file", str(tmp_path / "lock.json")]
    assert WeightsUnavailable.exit_code == 1
    assert main([*arguments, *kept]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not to be had" in line
    assert "--weights seeded" in line
    assert not list((tmp_path / "models").iterdir())
    assert not (tmp_path / "lock.json").exists()
