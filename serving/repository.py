"""What must be true of a repository before a server is started on it; everything is refused by name.

tritonserver itself is a poor judge here: a folder without `configs/cpu.pbtxt` silently falls back to the GPU config,
and a Python model without `model.py` makes version 2.51 hang instead of failing.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.errors import PlanMissing, RepositoryInvalid, UnsupportedEnvironment, UsageError
from serving.flags import Device

_NVIDIA_SMI_TIMEOUT_S = 20
_CAPABILITY = re.compile(r"\d+\.\d+")
BACKENDS: dict[Device, str] = {"cpu": "python", "gpu": "tensorrt"}


def models_to_serve(repository: Path, models: Sequence[str] | None, device: Device) -> list[str]:
    """Names of the models that a server on this repository will load, each checked for the device.

    Raises `RepositoryInvalid`, `UsageError` for a name that is not there, `PlanMissing` on a GPU without its plan.
    """
    if not repository.is_dir():
        raise RepositoryInvalid(
            f"The model repository {repository} is not a directory. "
            "Build one with `python -m builder build --gpu cpu`, or name yours with --repository."
        )
    there = sorted(entry.name for entry in repository.iterdir() if entry.is_dir())
    if not there:
        raise RepositoryInvalid(
            f"The model repository {repository} holds no model. Build one with `python -m builder build --gpu cpu`."
        )
    missing = sorted(set(models or ()) - set(there))
    if missing:
        raise UsageError(f"{repository} holds no model named {_names(missing)}; it holds {_names(there)}.")
    chosen = sorted(set(models)) if models else there
    for name in chosen:
        _check_folder(repository / name, device)
    if device == "gpu":
        _check_plans(repository, chosen)
    return chosen


def _check_folder(folder: Path, device: Device) -> None:
    if not (folder / "config.pbtxt").is_file():
        raise RepositoryInvalid(
            f"{folder} is not a model folder: it has no config.pbtxt, and tritonserver takes every folder of a "
            "repository for a model. Move it out of the repository."
        )
    versions = sorted((v for v in folder.iterdir() if v.is_dir() and v.name.isdecimal()), key=lambda v: int(v.name))
    if not versions:
        raise RepositoryInvalid(f"{folder} has no version folder (a number, such as 1/). Build the model again.")
    if device == "gpu":
        return
    cpu_config = folder / "configs" / "cpu.pbtxt"
    if not cpu_config.is_file():
        raise RepositoryInvalid(
            f"{folder.name} has no {cpu_config}: without it the server would take the GPU config. "
            "Build the model again with `python -m builder build`, or serve others with --model NAME."
        )
    model_file = versions[-1] / "model.py"
    if "default_model_filename" not in cpu_config.read_text() and not model_file.is_file():
        raise RepositoryInvalid(
            f"{folder.name} has no {model_file}, which CPU serving runs. Build the model again with "
            "`python -m builder build`, or serve others with --model NAME."
        )


@functools.cache
def gpu_compute_capabilities() -> tuple[str, ...]:
    """Compute capability of each NVIDIA GPU that answers, such as `7.5`; empty where there is none.

    The builder asks the same program for more, in `builder.gpus`; this package does not import it.
    """
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return ()
    command = [nvidia_smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_NVIDIA_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedEnvironment(
            f"{nvidia_smi} is there but does not answer ({error}): the GPU driver is not well. "
            "Repair it, or serve without the GPU with --device cpu."
        ) from error
    if answer.returncode != 0:  # installed without a driver or a GPU
        return ()
    lines = (line.strip() for line in answer.stdout.splitlines())
    return tuple(line for line in lines if _CAPABILITY.fullmatch(line))  # a lost GPU answers [N/A] or [GPU is lost]


def _check_plans(repository: Path, models: Iterable[str]) -> None:
    for name in models:
        missing = missing_plan(repository / name, gpu_compute_capabilities())
        if missing:
            capability, plan = missing
            there = sorted(path.name for path in _newest_version(repository / name).glob("*.plan"))
            raise PlanMissing(
                f"{name} has no TensorRT plan for this GPU (compute capability {capability}): {plan}. It has "
                f"{_names(there) or 'no plan at all'}. Run `python -m builder build --gpu auto` on this machine."
            )


def missing_plan(folder: Path, compute_capabilities: Iterable[str]) -> tuple[str, str] | None:
    """The first (compute capability, what is missing) of a model folder; None if every GPU has its plan."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = folder / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryInvalid(
            f"{path} is not a Triton model configuration: {error}. Build the model again."
        ) from error
    newest = _newest_version(folder)
    for capability in compute_capabilities:
        plan = config.cc_model_filenames.get(capability) or config.default_model_filename
        if not plan:
            return capability, f"{path} lists none under cc_model_filenames"
        if not (newest / plan).is_file():
            return capability, f"{newest / plan} does not exist"
    return None


def _newest_version(folder: Path) -> Path:
    return max((v for v in folder.iterdir() if v.name.isdecimal()), key=lambda v: int(v.name))


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
