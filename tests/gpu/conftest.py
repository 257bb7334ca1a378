"""What the GPU tests need, and why they are skipped where it is not: on any NVIDIA GPU with TensorRT they run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.targets import Target
from builder.toolchain import Toolchain, found_toolchain, refusals, target_from_gpu

_ROOT = Path(__file__).parents[2]
MODELS = ("GoogLeNet", "InceptionV3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder carries the marker `gpu`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """This machine's; skips, with the reason in words, where it cannot build a plan."""
    found = found_toolchain()
    if not found.gpus:
        pytest.skip("no NVIDIA GPU in this machine: " + ("; ".join(found.notes) or "no nvidia-smi"))
    reasons = [refusal.message for refusal in refusals(target_from_gpu(found), found, is_other_tensorrt_allowed=True)]
    if reasons:
        pytest.skip("; ".join(reasons))
    return found


@pytest.fixture(scope="session")
def target(toolchain: Toolchain) -> Target:
    """The row of the GPU that is here, from the table or made from it."""
    return target_from_gpu(toolchain)


@pytest.fixture(scope="session")
def build(target: Target) -> Callable[..., list[dict[str, object]]]:
    """`python -m builder build --gpu auto` with seeded weights into a repository, as a user types it; its results."""
    models = [word for name in MODELS for word in ("--model", name)]

    def run(repository: Path, *options: str) -> list[dict[str, object]]:
        command = [sys.executable, "-m", "builder", "build", "--gpu", "auto", *models, "--weights", "seeded", "--json"]
        command += ["--repository", str(repository), "--cache-dir", str(repository.parent / "cache"), *options]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"for {target.name}: {done.stderr}"
        return list(json.loads(done.stdout))

    return run


@pytest.fixture(scope="session")
def gpu_repository(build: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, without and with batch normalisation, in both precisions and with their plans for this GPU."""
    repository = tmp_path_factory.mktemp("gpu") / "models"
    build(repository)
    return repository


@pytest.fixture(scope="session")
def tritonserver() -> str:
    """A tritonserver on PATH: the wheel's has no TensorRT backend."""
    program = shutil.which("tritonserver")
    if program is None:
        pytest.skip("no tritonserver on PATH: run this in the Triton image of the plans' TensorRT")
    return program
