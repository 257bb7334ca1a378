"""The configs that the builder writes, character for character, against the goldens in tests/data/configs."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builder.catalog import MODELS
from builder.targets import PRECISIONS

_FOLDER = Path(__file__).parents[2] / "data" / "configs"
_SPEC = importlib.util.spec_from_file_location("golden_configs", _FOLDER / "write.py")
assert _SPEC is not None
assert _SPEC.loader is not None
write = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = write  # dataclasses look their module up
_SPEC.loader.exec_module(write)

_AGAIN = "If this change is meant: python tests/data/configs/write.py, then read `git diff tests/data/configs`"


@pytest.mark.parametrize("name", ["config.pbtxt", "cpu.pbtxt"])
@pytest.mark.parametrize("case", write.CASES, ids=lambda case: case.folder)
def test_the_text_of_a_config_changes_only_on_purpose(case, name: str) -> None:
    """Release ids are computed over it: one other character, and every folder in the world gets another release."""
    expected = (_FOLDER / case.folder / name).read_text(encoding="utf-8")
    actual = write.texts_of(case)[name]
    if actual != expected:
        lines = difflib.unified_diff(expected.splitlines(), actual.splitlines(), "golden", "now", lineterm="", n=2)
        pytest.fail("\n".join([f"{case.folder}/{name} is no longer what it was. {_AGAIN}", *lines]), pytrace=False)


def test_every_family_both_precisions_and_several_profiles_have_a_golden() -> None:
    """A new family needs a row in write.py."""
    assert {MODELS[case.model].family for case in write.CASES} == {spec.family for spec in MODELS.values()}
    assert {case.precision for case in write.CASES} == set(PRECISIONS)
    assert {len(case.profile_sizes) for case in write.CASES} == {1, 3}


def test_no_golden_is_left_that_nothing_writes() -> None:
    """A forgotten file would look like a promise."""
    there = {path.relative_to(_FOLDER).as_posix() for path in _FOLDER.rglob("*.pbtxt")}
    assert there == {f"{case.folder}/{name}" for case in write.CASES for name in ("config.pbtxt", "cpu.pbtxt")}


@pytest.mark.parametrize("path", sorted(_FOLDER.rglob("*.pbtxt")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_is_a_config_that_triton_can_parse(path: Path) -> None:
    """Read by Triton's own protobuf, and written by it again without a difference."""
    text = path.read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert text_format.MessageToString(config, as_utf8=True) == text
