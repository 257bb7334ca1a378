"""A repository against its manifests: every folder is looked at, and nothing else may lie there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.catalog import MODELS
from builder.errors import UsageError
from builder.folder import Contents, assemble_folder
from builder.manifest import read_manifest
from builder.plan_record import folder_facts, plan_files
from builder.targets import TARGETS
from builder.verify import verify


def _add(repository: Path, model: str) -> Path:
    contents = Contents(MODELS[model].with_classes(2), "fp32", ["no", "yes"], model.encode(), b"answers", 1, {})
    folder = repository / contents.spec.served_name("fp32")
    folder.mkdir(parents=True)
    assemble_folder(folder, contents, contents.release, version=1)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _add(tmp_path / "models", "GoogLeNet")
    _add(tmp_path / "models", "InceptionV3")
    return tmp_path / "models"


def test_a_true_repository_has_no_problems(repository: Path) -> None:
    """Every model is in the report, also one that is as published."""
    assert verify(repository) == {"googlenet_fp32": [], "inception_v3_fp32": []}


def test_one_damaged_model_does_not_hide_another(repository: Path) -> None:
    """All folders are looked at: the report is complete, not the first finding."""
    (repository / "googlenet_fp32" / "labels.txt").unlink()
    (repository / "inception_v3_fp32" / "1" / "manifest.json").write_text("{")
    report = verify(repository)
    assert report["googlenet_fp32"] == ["googlenet_fp32/labels.txt is missing"]
    assert len(report["inception_v3_fp32"]) == 1


def test_the_text_that_explains_the_directory_may_lie_there(repository: Path) -> None:
    """README.md is no model and no damage."""
    (repository / "README.md").write_text("Models.")
    assert not any(verify(repository).values())


def test_a_stray_file_beside_the_models_is_named(repository: Path) -> None:
    """Triton reads the whole directory: what is no model folder does not belong."""
    (repository / "notes.txt").write_text("x")
    assert verify(repository)["."] == ["notes.txt does not belong: only model folders do"]


def test_a_linked_model_folder_is_named(repository: Path) -> None:
    """What a link points to can change without a publication."""
    (repository / "googlenet_fp32").rename(repository.parent / "elsewhere")
    (repository / "googlenet_fp32").symlink_to(repository.parent / "elsewhere")
    assert verify(repository)["."] == ["googlenet_fp32 does not belong: only model folders do"]


def test_a_folder_under_another_name_is_named(repository: Path) -> None:
    """Triton refuses a folder whose config carries another name; `verify` says so before it is started."""
    shutil.copytree(repository / "googlenet_fp32", repository / "googlenet_copy")
    (problem,) = verify(repository)["googlenet_copy"]
    assert problem == "googlenet_copy was published as googlenet_fp32: it was renamed"


def test_a_folder_that_is_no_model_is_named(repository: Path) -> None:
    """An unrelated directory is a problem of its own, under its own name."""
    (repository / "tmp").mkdir()
    assert "was not published by this builder" in verify(repository)["tmp"][0]


@pytest.mark.parametrize("make", ["nothing", "a file", "an empty directory"])
def test_no_repository_is_a_mistake_of_the_user(tmp_path: Path, make: str) -> None:
    """A mistyped path must not read as `all is well`."""
    path = tmp_path / "models"
    if make == "a file":
        path.write_text("x")
    elif make == "an empty directory":
        path.mkdir()
    with pytest.raises(UsageError, match=str(path)):
        verify(path)


@pytest.mark.parametrize(("tensorrt", "is_loaded"), [("11.2.1.2", True), ("11.3.0", False), (None, False)])
def test_a_plan_of_another_tensorrt_than_the_gpus_image_is_named(
    repository: Path, tensorrt: str | None, is_loaded: bool
) -> None:
    """A plan loads only in the TensorRT that built it: found before a server is started, not by it."""
    folder = repository / "googlenet_fp32"
    facts = folder_facts(read_manifest(folder))
    toolchain = {} if tensorrt is None else {"tensorrt": tensorrt}
    told = {"onnx_sha256": facts.onnx_sha256, "profiles": list(facts.profiles), "toolchain": toolchain}
    for name, content in plan_files("sm75.plan", b"plan", "{}", told).items():
        (folder / "1" / name).write_bytes(content)
    problems = verify(repository, TARGETS["t4"])["googlenet_fp32"]
    if is_loaded:
        assert problems == []
    else:
        (problem,) = problems
        assert f"was built with TensorRT {tensorrt or 'an unknown version'}" in problem
        assert "tensorrt:26.08-py3, run `python -m builder build --gpu t4 --stage plan" in problem
