"""What is installed is what is locked, and light imports stay light."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

_ROOT = Path(__file__).parents[2]


def _locked() -> dict[str, Version]:
    lines = (_ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if not line.startswith("#")]
    assert all(pins), "every line of the lock is NAME==VERSION"
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}


def _direct() -> list[Requirement]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]


def test_every_locked_distribution_is_installed_in_that_version() -> None:
    """Tests and figures speak of the locked versions. A local suffix such as +cpu names a build, not a version."""
    installed = {name: Version(importlib.metadata.version(name)) for name in _locked()}
    assert {name: Version(version.public) for name, version in installed.items()} == _locked()


def test_every_direct_dependency_is_locked_within_its_bounds() -> None:
    """pyproject.toml says what is allowed and why, the lock says what is taken: neither without the other."""
    locked = _locked()
    for requirement in _direct():
        if requirement.marker is None or requirement.marker.evaluate():
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_a_distribution_is_locked_once() -> None:
    """Two spellings of one name would make the second pin win silently."""
    lines = [line for line in (_ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(_locked())


@pytest.mark.parametrize("module", ["builder.catalog", "builder.cli", "client"])
def test_a_light_import_stays_light(module: str) -> None:
    """Listing models and sending images need no torch: start-up stays fast and the client installs without it."""
    heavy = ["torch", "onnx", "onnxruntime", "openvino", "safetensors"]
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["inception-builder", "inception-client", "inception-serving"])
def test_each_command_is_installed(command: str) -> None:
    """The names in pyproject.toml lead to something that runs."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=command)
    assert callable(entry.load())
