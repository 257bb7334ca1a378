"""The Dockerfiles and the packages that they pin. What they build has never been built where these tests run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.targets import CPU, GPU_TARGETS, T4, Target

_ROOT = Path(__file__).parents[2]
_DOCKER = _ROOT / "docker"
_DOCKERFILES = sorted(path.name for path in _DOCKER.glob("*Dockerfile*"))
_CONSTRAINTS = sorted(path.name for path in _DOCKER.glob("constraints-*.txt"))
_HADOLINT = Path(sys.executable).with_name("hadolint")


def _instructions(name: str) -> list[str]:
    """The instructions of a Dockerfile, one string each: without comments, continuation lines joined."""
    lines = [line for line in (_DOCKER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines() if line]


def _arguments(name: str, instruction: str) -> list[str]:
    found = (line.partition(" ") for line in _instructions(name))
    return [rest for word, _, rest in found if word == instruction]


def _pins(path: Path) -> dict[str, tuple[str, str]]:
    """Version and comment of every package of a constraints file; every line must pin exactly one."""
    pins = {}
    for line in path.read_text().splitlines():
        requirement, _, reason = line.partition("#")
        if not requirement.strip():
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", requirement.strip())
        assert pin, f"{path.name}: {line!r} does not pin one version"
        pins[canonicalize_name(pin[1])] = (pin[2], reason.strip())
    return pins


def _asked_for() -> list[Requirement]:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    extras = (line for lines in project["optional-dependencies"].values() for line in lines)
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def test_the_files_are_those_that_are_tested() -> None:
    """A new image has its tests by lying in docker/."""
    assert _DOCKERFILES == ["builder.Dockerfile", "loadtest.Dockerfile", "serve-cpu.Dockerfile"]
    expected = [f"constraints-{target.triton_release}.txt" for target in GPU_TARGETS]
    expected += ["constraints-loadtest.txt", "constraints-serve-cpu.txt"]
    assert expected == _CONSTRAINTS


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    """No finding, and none silenced: neither in the file nor by a configuration of this machine's."""
    command = [str(_HADOLINT), "--disable-ignore-pragma", "-"]
    text = (_DOCKER / name).read_text()
    nowhere = {"HOME": "/nowhere"}
    linted = subprocess.run(
        command, input=text, env=nowhere, cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("builder.Dockerfile", T4.tensorrt_image),  # the default of its argument; docker-compose.yml gives each its own
        ("serve-cpu.Dockerfile", CPU.triton_image),
        ("loadtest.Dockerfile", T4.sdk_image),
    ],
)
def test_base_images_are_those_of_the_targets(name: str, image: str) -> None:
    """One month for building, serving and measuring, and no tag that moves."""
    defaults = dict(line.split("=", 1) for line in _arguments(name, "ARG"))
    (base,) = _arguments(name, "FROM")
    assert base.replace("${BASE_IMAGE}", defaults.get("BASE_IMAGE", "")) == image


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_the_last_user_is_not_root(name: str) -> None:
    """Also for whoever runs the image without docker-compose.yml."""
    assert _arguments(name, "USER") == ["1000:1000"]


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_pip_installs_the_lines_of_a_constraints_file_and_nothing_else(name: str) -> None:
    """One pip call: no dependency that is not listed, nothing compiled, no constraints of the image's own."""
    (install,) = [line for line in _arguments(name, "RUN") if "pip " in line]
    assert install.count(" install ") == 1
    command = install.rpartition("&& ")[2].split()
    assert command[:3] == ["env", "-u", "PIP_CONSTRAINT"]
    assert {"--no-cache-dir", "--no-deps", "--only-binary=:all:"} <= set(command)
    wanted = command[command.index("install") + 1 :]
    options = [word for word in wanted if word.startswith("-") and word not in {"--target", "--requirement"}]
    values = [wanted[place + 1] for place, word in enumerate(wanted) if word in {"--target", "--requirement"}]
    assert len(options) + 2 * len(values) == len(wanted)  # no package is named
    assert "/opt/inception/constraints.txt" in values
    defaults = dict(line.split("=", 1) for line in _arguments(name, "ARG"))
    (source,) = [line.split()[0] for line in _arguments(name, "COPY") if line.endswith("constraints.txt")]
    assert (_ROOT / source.replace("${CONSTRAINTS}", defaults.get("CONSTRAINTS", ""))).is_file()


@pytest.mark.parametrize("name", _DOCKERFILES)
def test_what_pip_installed_comes_before_the_image_s_own(name: str) -> None:
    """Python looks there first: through PYTHONPATH, or for the Python backend through the first `python3` on PATH."""
    (install,) = [line for line in _arguments(name, "RUN") if "pip " in line]
    environment = " ".join(_arguments(name, "ENV"))
    if name == "serve-cpu.Dockerfile":
        assert "--python /opt/inception/venv/bin/python " in install
        assert "PATH=/opt/inception/venv/bin:$PATH" in environment
    else:
        assert "--target /opt/inception/packages " in install
        assert environment.startswith("PYTHONPATH=/opt/inception/packages")


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("builder.Dockerfile", ["builder"]),
        ("serve-cpu.Dockerfile", []),
        ("loadtest.Dockerfile", ["client", "loadtest", "examples/photos"]),
    ],
)
def test_an_image_holds_only_the_folders_that_it_runs(name: str, folders: list[str]) -> None:
    """Each is in the build context, of which .dockerignore leaves nothing but these and the constraints."""
    copied = [line.split() for line in _arguments(name, "COPY") if "constraints" not in line]
    assert copied == [[folder, folder] for folder in folders]
    ignore = (_ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {f"!{folder}" for folder in folders} <= set(rules)
    everything = {"!builder", "!client", "!loadtest", "!examples/photos", "!docker/constraints-*.txt"}
    assert {rule for rule in rules if rule.startswith("!")} == everything


@pytest.mark.parametrize("name", _CONSTRAINTS)
def test_constraints_agree_with_the_lock(name: str) -> None:
    """The tests ran with the versions of requirements.lock; a line that has another, or is not there, says why."""
    lock = _pins(_ROOT / "requirements.lock")
    pins = _pins(_DOCKER / name)
    assert pins
    differing = {package for package, (version, _) in pins.items() if lock.get(package, ("", ""))[0] != version}
    assert differing == {package for package, (_, reason) in pins.items() if reason}


@pytest.mark.parametrize("name", _CONSTRAINTS)
def test_constraints_are_what_pyproject_asks_for(name: str) -> None:
    """No image has a version that the package itself would refuse."""
    pins = _pins(_DOCKER / name)
    there = [wanted for wanted in _asked_for() if canonicalize_name(wanted.name) in pins]
    assert there
    refused = [wanted for wanted in there if not wanted.specifier.contains(pins[canonicalize_name(wanted.name)][0])]
    assert refused == []


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_the_plan_stage_has_its_libraries_and_no_torch(target: Target) -> None:
    """TensorRT is the image's own: another one would build plans that the server of the same month cannot load."""
    pins = _pins(_DOCKER / f"constraints-{target.triton_release}.txt")
    assert {"numpy", "polygraphy", "rich"} <= set(pins)
    assert not [package for package in pins if package.startswith(("tensorrt", "torch", "nvidia", "pillow", "opencv"))]


def test_the_cpu_runtime_is_the_one_that_was_measured() -> None:
    """openvino is pinned in pyproject.toml (docs/cpu-runtime.md says why); the image has that one."""
    (wanted,) = [requirement for requirement in _asked_for() if requirement.name == "openvino"]
    version = _pins(_DOCKER / "constraints-serve-cpu.txt")["openvino"][0]
    assert str(wanted.specifier) == f"=={version}"


def test_the_load_test_has_what_the_client_needs() -> None:
    """Every base dependency of the package, and locust."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["loadtest"]]
    pins = _pins(_DOCKER / "constraints-loadtest.txt")
    assert {canonicalize_name(Requirement(line).name) for line in wanted} <= set(pins)
