"""The plan stage runs in NVIDIA's images: nothing but the standard library, numpy, polygraphy and tensorrt is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from builder.catalog import MODELS
from builder.folder import Contents, assemble_folder
from builder.golden import PROOF_IMAGES
from builder.publish import Repository

_ROOT = Path(__file__).parents[3]
# Everything else that a build or a client uses; importing one of them fails as if it were not installed.
_ABSENT = (
    "torch", "PIL", "cv2", "onnx", "onnxruntime", "openvino", "google", "tritonclient", "grpc", "rich", "urllib3",
    "safetensors",
)  # fmt: skip
_BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name + " is not in this image", name=name)

sys.meta_path.insert(0, Absent())
"""
# The whole stage, with an engine that answers what the folder says: proof and publication run, TensorRT does not.
_STAGE = """
import contextlib, json, sys
from pathlib import Path
import numpy as np
from builder.golden import proof_images
from builder.plan_stage import PlanRequest, build_plans, folders_for
from builder.progress import Progress
from builder.targets import V100
from builder.tensorrt_plan import Plan, PlanOptions
from builder.toolchain import Gpu, Toolchain

LAYER = {"Name": "conv", "LayerType": "CaskConvolution", "ParameterType": "Convolution",
         "Weights": {"Type": "Float", "Count": 1},
         "Inputs": [{"Name": "x", "Format/Datatype": "Float"}], "Outputs": [{"Name": "y", "Format/Datatype": "Float"}]}

class Engine:
    def plan_from_onnx(self, job):
        return Plan(b"plan", json.dumps({"Layers": [LAYER]}), "10.4.0", None)

    @contextlib.contextmanager
    def plan_runner(self, plan):
        (stored,) = Path(sys.argv[1]).parent.glob("**/reference.npy")
        answers, images = np.load(stored), proof_images(96)
        def run(profile, batch):
            return np.stack([answers[(images == image).all(axis=(1, 2, 3)).argmax()] for image in batch])
        yield run

request = PlanRequest(V100, Path(sys.argv[1]), PlanOptions(), cache_dir=Path(sys.argv[1]) / ".." / "cache")
toolchain = Toolchain((Gpu(0, "GPU-v", "Tesla V100", "7.0", "550.54.14", 16160),), "10.4.0", "0.53.6", "3.10", ())
(built,) = build_plans(folders_for(request), request, toolchain, Progress(is_quiet=True), Engine())
print(built.status, (built.folder / "1" / "sm70.plan").read_bytes())
"""


def _run(script: str, *arguments: object, absent: tuple[str, ...] = _ABSENT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(absent=absent) + script, *map(str, arguments)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder that awaits its plan; its graph is never read here."""
    answers = np.random.default_rng(0).dirichlet(np.ones(3), PROOF_IMAGES).astype(np.float32)
    np.save(tmp_path / "answers.npy", answers)
    reference = (tmp_path / "answers.npy").read_bytes()
    contents = Contents(
        MODELS["GoogLeNet"].at_input_size(96).with_classes(3), "fp32", ["cat", "dog", "owl"], b"graph", reference, 1, {}
    )
    place = Repository(tmp_path / "models")
    home = place.awaiting_plan / "googlenet_96_fp32"
    home.mkdir(parents=True)
    assemble_folder(home, contents, contents.release, version=1)
    return place.path


def test_the_block_blocks(tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    for name in _ABSENT:
        done = _run(f"import {name}")
        assert done.returncode == 1
        assert "is not in this image" in done.stderr


def test_the_stage_runs_with_nothing_else_installed(repository: Path) -> None:
    """From the staged folder to the published one, lazy imports included."""
    done = _run(_STAGE, repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "published b'plan'"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["build", "--help"], ["doctor"], ["build", "--gpu", "v100", "--explain"], ["list", "--json"]],
    ids=" ".join,
)
def test_a_bare_python_can_ask(arguments: list[str], tmp_path: Path) -> None:
    """Help, doctor and --explain come before any installation: the standard library is enough for them."""
    script = f"from builder.cli import main; sys.exit(main({[*arguments]!r}))"
    done = _run(script, absent=(*_ABSENT, "numpy", "polygraphy", "tensorrt"))
    assert done.returncode == 0, done.stderr


def test_a_bare_python_can_verify(repository: Path) -> None:
    """A copied folder is looked at where it has arrived, before anything is installed."""
    staged = Repository(repository).awaiting_plan
    script = f"from builder.cli import main; sys.exit(main(['verify', {str(staged)!r}]))"
    done = _run(script, absent=(*_ABSENT, "numpy", "polygraphy", "tensorrt"))
    assert (done.returncode, done.stdout.split()) == (0, ["googlenet_96_fp32", "ok"]), done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["build", "--gpu", "cpu", "--weights", "seeded"]], ids=" ".join)
def test_what_needs_more_says_what_is_missing(arguments: list[str], tmp_path: Path) -> None:
    """One line with the name of the package and the command that installs it."""
    script = f"import os; os.chdir({str(tmp_path)!r}); from builder.cli import main; sys.exit(main({arguments!r}))"
    done = _run(f"sys.path.insert(0, {str(_ROOT)!r}); {script}")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("builder: ")]
    assert "which is not installed here: `make install`" in line
    assert "Traceback" not in done.stderr
