"""The yardstick runs the model as the server does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from loadtest.errors import MeasurementFailed, UsageError
from loadtest.inprocess import model_file, served_names

ROOT = Path(__file__).parent.parent.parent.parent


def runtime_settings(path: Path) -> dict[str, str]:
    """The OpenVINO settings that a file writes out: its one dictionary with PERFORMANCE_HINT in it."""
    (found,) = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict) and any(getattr(key, "value", None) == "PERFORMANCE_HINT" for key in node.keys)
    )
    pairs = zip(found.keys, found.values, strict=True)
    return {key.value: value.value if isinstance(value, ast.Constant) else "computed" for key, value in pairs}


def test_the_yardstick_has_the_settings_of_the_cpu_backend():
    """loadtest may not import the builder, so the settings stand in two files; a ratio is only fair if they are one."""
    backend = runtime_settings(ROOT / "builder" / "cpu_backend" / "model.py")
    assert runtime_settings(ROOT / "loadtest" / "inprocess.py") == backend
    assert backend == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": "computed",
        "INFERENCE_PRECISION_HINT": "f32",
    }


def test_the_yardstick_has_as_many_threads_as_the_cpu_backend():
    """Processors are counted by the same lines in both files."""

    def counting_function(path: Path) -> str:
        (found,) = (
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name == "available_cores"
        )
        return ast.unparse(found)

    backend = ROOT / "builder" / "cpu_backend" / "model.py"
    assert counting_function(ROOT / "loadtest" / "inprocess.py") == counting_function(backend)


def test_models_are_found_by_their_config(tmp_path):
    """Other folders are none."""
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        served_names(tmp_path)
    for name in ("b_fp32", "a_fp32"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    assert served_names(tmp_path) == ["a_fp32", "b_fp32"]


def test_a_folder_without_its_one_version_is_not_measured(tmp_path):
    """Which of two would it have been?"""
    for version in ("1", "2"):
        (tmp_path / "a_fp32" / version).mkdir(parents=True)
        (tmp_path / "a_fp32" / version / "model.onnx").touch()
    with pytest.raises(MeasurementFailed, match="2 version directories"):
        model_file(tmp_path, "a_fp32")
