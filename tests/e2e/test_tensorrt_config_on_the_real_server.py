"""The real tritonserver reads the TensorRT configs, on a machine without a GPU.

The embedded server (24.10) has no TensorRT backend. Started without `--model-config-name`, as on a GPU host, it parses
and validates each config.pbtxt, looks for that backend and ends. So the one error a right config can bring is that the
backend is missing, which is before any plan is read; what a plan does on a GPU is not shown here.

That folders as they are built load with `--model-config-name=cpu --disable-auto-complete-config`, and answer, is what
every contract test stands on; here only those with several profiles are added.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build import BuildOptions, build
from builder.catalog import MODELS
from builder.progress import Progress
from builder.targets import CPU, GPU_TARGETS, PRECISIONS
from builder.triton_config import configs_from_spec
from serving import serve
from serving.binary import Binary, find_binary
from serving.flags import FlagFacts, server_flags
from serving.ports import FREE_PORTS, claim_ports

NO_BACKEND = "unable to find backend library for backend 'tensorrt'"
NOT_PARSED = "failed to read text proto"
THREE_PROFILES = (1, 4, 8)
END_WITHIN_S = 60
LABELS = ["cat", "dog", "Eule, große"]


@pytest.fixture(scope="module")
def binary() -> Binary:
    """The server without a TensorRT backend; another one would try to load the placeholders."""
    found = find_binary()
    if found.source != "wheel":
        pytest.skip(f"{found.path} may have a TensorRT backend: tests/gpu loads real plans with it")
    return found


def log_of_a_gpu_start(binary: Binary, repository: Path) -> str:
    """All that tritonserver says from its start, with the flags of GPU serving, to the end it comes to by itself."""
    facts = FlagFacts(
        repository=repository,
        device="gpu",
        host="127.0.0.1",
        ports=claim_ports("127.0.0.1", FREE_PORTS),
        token="unused",  # noqa: S106 - nobody connects
        server_id="config-check",
        shm_prefix="inception-config-check",
        exit_timeout_s=5,
        release=binary.release,
        backend_directory=binary.backend_directory,
    )
    flags = server_flags(facts)
    assert "--disable-auto-complete-config" in flags
    assert not any(flag.startswith("--model-config-name") for flag in flags)
    ended = subprocess.run(
        [str(binary.path), *flags],
        env=dict(binary.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=END_WITHIN_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout  # no model can load, and a server that is not whole does not stay
    return ended.stdout


def errors_by_model(log: str, repository: Path) -> dict[str, list[str]]:
    """The error lines that name a model, by model."""
    errors = [line for line in log.splitlines() if re.match(r"E\d{4} ", line)]
    return {
        folder.name: [line for line in errors if f"'{folder.name}'" in line] for folder in sorted(repository.iterdir())
    }


def write_placeholder_folder(
    repository: Path, model: str, precision: str, profile_sizes: tuple[int, ...] = THREE_PROFILES
) -> Path:
    """A folder with the builder's config and, for plans, files that nothing will read. Returns the config's path."""
    spec = MODELS[model].with_classes(len(LABELS))
    configs = configs_from_spec(spec, precision, LABELS, "0123456789abcdef", 2, profile_sizes)
    folder = repository / spec.served_name(precision)
    (folder / "1").mkdir(parents=True)
    for target in GPU_TARGETS:
        (folder / "1" / str(target.plan_filename)).write_bytes(b"a placeholder, no plan")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    (folder / "config.pbtxt").write_text(configs.gpu, encoding="utf-8")
    return folder / "config.pbtxt"


@pytest.mark.parametrize("profile_sizes", [(8,), THREE_PROFILES], ids=str)
def test_every_tensorrt_config_lacks_nothing_but_the_backend(
    binary: Binary, tmp_path: Path, profile_sizes: tuple[int, ...]
) -> None:
    """All models in both precisions: parsed, found valid, and then the missing library is the one error of each."""
    for model in MODELS:
        for precision in PRECISIONS:
            write_placeholder_folder(tmp_path, model, precision, profile_sizes)
    log = log_of_a_gpu_start(binary, tmp_path)
    assert "libprotobuf ERROR" not in log
    errors = errors_by_model(log, tmp_path)
    assert len(errors) == len(MODELS) * len(PRECISIONS)
    for name, lines in errors.items():
        assert len(lines) == 1, (name, lines)
        assert NO_BACKEND in lines[0]


def misspelt(text: str) -> str:
    return text.replace("max_batch_size:", "max_batch_sise:")


def misspelt_inside(text: str) -> str:
    return text.replace("graph_spec {", "graph_specs {", 1)


def too_new(text: str) -> str:
    return text + "model_metrics { }\n"


def without_a_type(text: str) -> str:
    return text.replace("  data_type: TYPE_FP32\n", "")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (misspelt, NOT_PARSED),
        (misspelt_inside, NOT_PARSED),
        (too_new, NOT_PARSED),  # later than the embedded server, which is of 24.10
        (without_a_type, "must specify 'data_type'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_config_is_told_from_a_missing_backend(
    binary: Binary, tmp_path: Path, damage: Callable[[str], str], complaint: str
) -> None:
    """Otherwise the test above could not fail: the damaged model has another error, its neighbour still the usual."""
    config = write_placeholder_folder(tmp_path, "GoogLeNet", "fp16")
    write_placeholder_folder(tmp_path, "GoogLeNet", "fp32")
    before = config.read_text(encoding="utf-8")
    config.write_text(damage(before), encoding="utf-8")
    assert config.read_text(encoding="utf-8") != before
    errors = errors_by_model(log_of_a_gpu_start(binary, tmp_path), tmp_path)
    (damaged,), (whole,) = errors["googlenet_fp16"], errors["googlenet_fp32"]
    assert complaint in damaged
    assert NO_BACKEND not in damaged
    assert NO_BACKEND in whole


@pytest.fixture(scope="module")
def three_profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GoogLeNet in both precisions as `build --gpu cpu --profiles 1,4,8` publishes it."""
    folder = tmp_path_factory.mktemp("three_profiles")
    options = BuildOptions(
        (MODELS["GoogLeNet"],),
        CPU,
        PRECISIONS,
        folder / "repository",
        weights="seeded",
        profile_sizes=THREE_PROFILES,
        cache_dir=folder / "cache",
    )
    build(options, Progress(is_quiet=True))
    return folder / "repository"


def test_a_folder_of_several_profiles_serves_on_the_cpu(three_profiles: Path) -> None:
    """Profiles are a matter of GPUs: with the CPU's config the same folders load and each answers an inference."""
    names = ["googlenet_fp16", "googlenet_fp32"]
    for name in names:
        assert 'profile: "2"' in (three_profiles / name / "config.pbtxt").read_text(encoding="utf-8")
    with serve(three_profiles, ports="auto", device="cpu", exit_timeout_s=5) as server:
        assert sorted(server.first_inference_s) == names


def test_a_built_folder_lacks_nothing_but_the_backend(binary: Binary, three_profiles: Path, tmp_path: Path) -> None:
    """The whole folder, not just its config: what else lies there brings no other error."""
    repository = shutil.copytree(three_profiles, tmp_path / "repository")
    errors = errors_by_model(log_of_a_gpu_start(binary, repository), repository)
    assert list(errors) == ["googlenet_fp16", "googlenet_fp32"]
    for name, lines in errors.items():
        assert len(lines) == 1, (name, lines)
        assert NO_BACKEND in lines[0]
