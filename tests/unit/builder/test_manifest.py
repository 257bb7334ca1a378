"""Manifests: what is in a folder is what the manifest says, byte for byte; a release id is what decides an answer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.catalog import MODELS
from builder.errors import RepositoryDamaged
from builder.folder import Contents, assemble_folder
from builder.manifest import manifest_path, problems_of, read_manifest
from builder.plan_record import plan_files

_ROOT = Path(__file__).parents[3]
_NAME = "googlenet_fp32"
_LISTED = ("1/model.onnx", "1/model.py", "1/reference.npy", "config.pbtxt", "configs/cpu.pbtxt", "labels.txt")
_CONTENTS = Contents(
    spec=MODELS["GoogLeNet"].with_classes(3),
    precision="fp32",
    labels=["cat", "dog", "owl"],
    onnx=b"not a graph, but bytes",
    reference=b"answers",
    instances=1,
    provenance={"weights": {"kind": "seeded"}},
)


def _write(parent: Path) -> Path:
    folder = parent / _NAME
    folder.mkdir()
    assemble_folder(folder, _CONTENTS, _CONTENTS.release, version=1)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _write(tmp_path)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for many examples: each puts back what it changed."""
    return _write(tmp_path_factory.mktemp("shared"))


def _edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _add_plan(folder: Path) -> Path:
    graph = read_manifest(folder)["files"]["1/model.onnx"]["sha256"]
    for name, content in plan_files("sm75.plan", b"a plan", "{}", {"onnx_sha256": graph, "profiles": [8]}).items():
        (folder / "1" / name).write_bytes(content)
    return folder / "1" / "sm75.plan"


def test_an_untouched_folder_has_no_problems(folder: Path) -> None:
    """The manifest lists every file but itself, with SHA-256 and size."""
    assert problems_of(folder) == []
    assert tuple(sorted(read_manifest(folder)["files"])) == _LISTED


@settings(derandomize=True, max_examples=60, deadline=None)
@given(path=st.sampled_from(_LISTED), place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_is_named(shared_folder: Path, path: str, place: float, mask: int) -> None:
    """One byte of one listed file: exactly that file is named."""
    file = shared_folder / path
    original = file.read_bytes()
    changed = bytearray(original)
    changed[int(place * len(original))] ^= mask
    file.write_bytes(changed)
    try:
        (problem,) = problems_of(shared_folder)
        assert problem.startswith(f"{_NAME}/{path} differs")
    finally:
        file.write_bytes(original)
    assert problems_of(shared_folder) == []


@pytest.mark.parametrize("path", _LISTED)
def test_a_truncated_file_is_named_with_both_sizes(folder: Path, path: str) -> None:
    """A short write is told apart from a changed byte."""
    size = (folder / path).stat().st_size
    with (folder / path).open("r+b") as file:
        file.truncate(size - 1)
    assert problems_of(folder) == [f"{_NAME}/{path} differs: {size - 1} bytes, the manifest says {size}"]


@pytest.mark.parametrize("path", _LISTED)
def test_a_missing_file_is_named(folder: Path, path: str) -> None:
    """A folder that has lost a file is not the published one."""
    (folder / path).unlink()
    assert f"{_NAME}/{path} is missing" in problems_of(folder)


@pytest.mark.parametrize("path", ["1/notes.txt", "model.onnx", "1/.hidden", "configs/gpu.pbtxt", "1/sm75.txt"])
def test_a_file_that_the_manifest_does_not_list_is_named(folder: Path, path: str) -> None:
    """Nothing may lie beside what was published: a config of another name would be taken by the server."""
    (folder / path).write_text("extra")
    assert problems_of(folder) == [f"{_NAME}/{path} does not belong: the manifest does not list it"]


def test_a_link_is_not_the_file(folder: Path) -> None:
    """A symbolic link to the very same bytes is refused: what it points to may change under the server."""
    file = folder / "labels.txt"
    file.rename(folder.parent / "labels.txt")
    file.symlink_to(folder.parent / "labels.txt")
    assert problems_of(folder) == [f"{_NAME}/labels.txt is missing"]


def test_a_linked_version_directory_is_named(folder: Path) -> None:
    """Also a directory must be one."""
    (folder / "1").rename(folder.parent / "elsewhere")
    (folder / "1").symlink_to(folder.parent / "elsewhere")
    assert f"{_NAME}/1 does not belong: the manifest does not list it" in problems_of(folder)


def test_a_renamed_version_directory_is_named(folder: Path) -> None:
    """The directory's number is the manifest's, or a rollback would count wrongly."""
    (folder / "1").rename(folder / "7")
    problems = problems_of(folder)
    assert f"{_NAME}/7: the manifest calls itself version 1" in problems
    assert f"{_NAME}/1/model.onnx is missing" in problems


def test_a_second_version_directory_is_named_even_when_it_is_empty(folder: Path) -> None:
    """Triton serves the highest number it finds, files or not."""
    (folder / "2").mkdir()
    assert problems_of(folder) == [f"{_NAME}/2 does not belong: the manifest does not list it"]


def test_the_highest_number_is_taken_as_a_number(folder: Path) -> None:
    """10 is above 9; a directory that is no number is no version."""
    for version in ("9", "10", "2old"):
        (folder / version).mkdir()
        (folder / version / "manifest.json").write_text((folder / "1" / "manifest.json").read_text())
    assert manifest_path(folder) == folder / "10" / "manifest.json"


def test_bytecode_of_the_model_is_tolerated(folder: Path) -> None:
    """Triton's Python backend writes it when it loads the model: that is no damage."""
    (folder / "1" / "__pycache__").mkdir()
    assert problems_of(folder) == []
    (folder / "1" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"bytecode")
    assert problems_of(folder) == []


@pytest.mark.parametrize("path", ["1/__pycache__/other.txt", "__pycache__/model.cpython-311.pyc"])
def test_other_files_in_a_bytecode_folder_are_named(folder: Path, path: str) -> None:
    """A tolerated folder is no hiding place."""
    (folder / path).parent.mkdir()
    (folder / path).write_bytes(b"hidden")
    assert problems_of(folder) == [f"{_NAME}/{path} does not belong: the manifest does not list it"]


def test_a_plan_with_its_record_belongs(folder: Path) -> None:
    """The second GPU's plan is added later, and changes nothing in the manifest."""
    _add_plan(folder)
    assert problems_of(folder) == []


@pytest.mark.parametrize("record", [None, "{", "[]", "{}"])
def test_a_plan_without_a_readable_record_is_named(folder: Path, record: str | None) -> None:
    """A plan is only as good as what is known of it."""
    path = _add_plan(folder).with_suffix(".json")
    path.unlink() if record is None else path.write_text(record)
    assert f"{_NAME}/1/sm75.plan has no readable record sm75.json" in problems_of(folder)


@pytest.mark.parametrize("left", ["sm75.json", "sm75.layers.json"])
def test_what_is_left_of_a_plan_is_named(folder: Path, left: str) -> None:
    """Whoever removes a plan by hand leaves its record: told as a plan that is missing, not as a foreign file."""
    (folder / "1" / left).write_text("{}")
    assert problems_of(folder) == [f"{_NAME}/1/sm75.plan is missing, and {left} is left of it"]


def test_plans_may_be_left_out_of_the_question(folder: Path) -> None:
    """For who makes a plan anew: its files may be in any state, everything else is looked at as always."""
    _add_plan(folder).write_bytes(b"b plan")
    (folder / "1" / "sm70.json").write_text("{}")
    assert len(problems_of(folder)) == 2
    assert problems_of(folder, are_plans_checked=False) == []
    (folder / "labels.txt").unlink()
    assert problems_of(folder, are_plans_checked=False) == [f"{_NAME}/labels.txt is missing"]


def test_a_plan_that_differs_from_its_record_is_named(folder: Path) -> None:
    """Changed bytes and a link are both not the plan that was built."""
    plan = _add_plan(folder)
    plan.write_bytes(b"b plan")
    assert problems_of(folder) == [f"{_NAME}/1/sm75.plan differs from its record sm75.json"]
    (folder.parent / "plan").write_bytes(b"a plan")
    plan.unlink()
    plan.symlink_to(folder.parent / "plan")
    assert problems_of(folder) == [f"{_NAME}/1/sm75.plan differs from its record sm75.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\ud800".encode("utf-8", "surrogatepass"),
        '{"format": 2, "files": {}, "served_name": "a", "release": "b", "version": 1}',
        '{"format": 1, "files": [], "served_name": "a", "release": "b", "version": 1}',
        '{"format": 1, "files": {}, "served_name": "a", "release": "b"}',
        '{"format": 1, "files": {}, "served_name": "a", "release": "b", "version": "1"}',
        '{"format": 1, "files": {}, "served_name": "a", "release": 3, "version": 1}',
        '{"format": 1, "files": {"labels.txt": 3}, "served_name": "a", "release": "b", "version": 1}',
        '{"format": 1, "files": {"labels.txt": {"size": 3}}, "served_name": "a", "release": "b", "version": 1}',
    ],
)
def test_a_manifest_that_is_none_is_one_problem(folder: Path, text: str | bytes) -> None:
    """Broken JSON and someone else's JSON are both told in a sentence that ends in what to do."""
    (folder / "1" / "manifest.json").write_bytes(text.encode() if isinstance(text, str) else text)
    (problem,) = problems_of(folder)
    assert "manifest.json" in problem
    assert "rebuild" in problem
    with pytest.raises(RepositoryDamaged):
        read_manifest(folder)


def test_a_folder_without_a_manifest_says_that_it_is_not_ours(folder: Path) -> None:
    """Any other model folder is named, not guessed at."""
    (folder / "1" / "manifest.json").unlink()
    (problem,) = problems_of(folder)
    assert "was not published by this builder" in problem


def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    """A repository of another user's ends in a sentence, not in a stack trace."""
    (folder / "labels.txt").chmod(0)
    script = (
        "import ctypes, sys\nfrom pathlib import Path\nfrom builder.manifest import problems_of\n"
        # Without capabilities also root obeys the modes of files.
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0\n"
        "print(problems_of(Path(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([f"{_NAME}/labels.txt cannot be read: Permission denied"])


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["cat", "dog", "eagle"]},
        {"onnx": b"not a graph, but Bytes"},
        {"instances": 2},
        {"precision": "fp16"},
        {"spec": MODELS["GoogLeNet"].at_input_size(299).with_classes(3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_an_answer_changes_the_release(change: dict[str, Any]) -> None:
    """Labels, weights, precision, size and serving configuration are all part of the id."""
    assert dataclasses.replace(_CONTENTS, **change).release != _CONTENTS.release


def test_where_it_came_from_does_not_change_the_release() -> None:
    """The same bytes built elsewhere are the same release."""
    assert dataclasses.replace(_CONTENTS, provenance={"weights": {"kind": "file"}}).release == _CONTENTS.release


def test_a_release_is_the_same_in_another_process() -> None:
    """16 hex digits that depend on nothing but the content: no hash seed, no order of a set."""
    script = (
        "from builder.catalog import MODELS\nfrom builder.folder import Contents\n"
        "print(Contents(MODELS['GoogLeNet'].with_classes(3), 'fp32', ['cat', 'dog', 'owl'], b'not a graph, but bytes', "
        "b'answers', 1, {}).release)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _CONTENTS.release
    assert len(_CONTENTS.release) == 16
    assert set(_CONTENTS.release) <= set("0123456789abcdef")
