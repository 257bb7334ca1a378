"""What this machine has, and what a target says to it. Standard library only.

TensorRT is what can be imported; of the GPUs, `builder.gpus` tells. A refusal names both sides, found and needed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from dataclasses import dataclass

from builder.errors import IncompleteBuild
from builder.gpus import VISIBLE, Gpu, found_gpus
from builder.targets import GPU_TARGETS, STRONGLY_TYPED_FROM, T4, TENSORRT_FLOOR, Target, version_key

_MAKERS = {"nvidia", "tesla"}  # drivers of several years name one card with either, both or none
# What an installed package may raise while its libraries load: missing ones, another NumPy's, another CUDA's.
_IMPORT_FAILURES = (
    ImportError, OSError, AttributeError, RuntimeError, SystemError, SyntaxError, TypeError, ValueError, LookupError,
)  # fmt: skip


@dataclass(frozen=True)
class Toolchain:
    """What could build a plan here; `notes` are things that are there and do not work, with the reason."""

    gpus: tuple[Gpu, ...]
    tensorrt: str | None
    polygraphy: str | None
    python: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a plan cannot be built here. `is_wrong`: something here is the wrong one; otherwise something is missing."""

    message: str
    is_wrong: bool


def found_toolchain() -> Toolchain:
    """Look at this machine; an `nvidia-smi` or a TensorRT that does not work becomes a note, never an exception."""
    notes: list[str] = []
    gpus = found_gpus(notes)
    try:
        tensorrt = str(importlib.import_module("tensorrt").__version__)
    except ModuleNotFoundError as error:
        tensorrt = None
        if error.name != "tensorrt":
            notes.append(f"tensorrt is installed and cannot be imported: {error}")
    except _IMPORT_FAILURES as error:
        tensorrt = None
        notes.append(f"tensorrt is installed and cannot be imported: {error}")
    return Toolchain(gpus, tensorrt, _installed("polygraphy"), platform.python_version(), tuple(notes))


def gpu_for(target: Target, toolchain: Toolchain) -> Gpu | None:
    """The first GPU of the target's compute capability that CUDA may show."""
    return next((gpu for gpu in toolchain.gpus if gpu.compute_capability == target.compute_capability), None)


def is_same_release(found: str, listed: str) -> bool:
    """Whether two TensorRT versions have the same major and minor number: 10.4.0 and 10.4.0.26, not 10.4 and 10.5."""
    return version_key(found)[:2] == version_key(listed)[:2]


def refusals(
    target: Target, toolchain: Toolchain, *, is_weakly_typed: bool = False, is_other_tensorrt_allowed: bool = False
) -> list[Refusal]:
    """Every reason why this machine cannot build plans for a GPU target; empty when it can.

    Another TensorRT release than the target's is one, unless `is_other_tensorrt_allowed`.
    """
    found = _gpu_refusals(target, toolchain)
    if toolchain.tensorrt is None:
        found.append(
            Refusal(
                f"no TensorRT can be imported here, {_needed_tensorrt(target)}: {_notes(toolchain, 'tensorrt')}"
                f"run this step in {target.tensorrt_image}, which has it",
                is_wrong=False,
            )
        )
    else:
        found += _tensorrt_refusals(
            target,
            toolchain.tensorrt,
            is_weakly_typed=is_weakly_typed,
            is_other_allowed=is_other_tensorrt_allowed,
        )
    if toolchain.polygraphy is None:
        found.append(
            Refusal("polygraphy is not installed here: `pip install 'polygraphy>=0.53,<0.54'` adds it", is_wrong=False)
        )
    return found


def cautions(target: Target, toolchain: Toolchain, *, is_other_tensorrt_allowed: bool = False) -> list[str]:
    """What is allowed and should be known: another TensorRT than that of the target's image, or another card."""
    told, version, gpu = [], toolchain.tensorrt, gpu_for(target, toolchain)
    if (
        version is not None
        and target.tensorrt is not None
        and not _is_same(version, target.tensorrt)
        and not _tensorrt_refusals(target, version, is_weakly_typed=False, is_other_allowed=is_other_tensorrt_allowed)
    ):
        told.append(
            f"TensorRT {version} is here, {target.tensorrt_image} is listed with {target.tensorrt}: only a "
            f"Triton with TensorRT {version} can load the plan"
        )
    if gpu is not None and not _words(target.title) <= _words(gpu.name):
        told.append(f"the GPU here is {gpu.name}: its plan is tuned for that, not for {target.a_title}")
    return told


def target_from_gpu(toolchain: Toolchain) -> Target:
    """The table's row for the first GPU here; for another GPU a row made from it, with the TensorRT that is found.

    Raises `IncompleteBuild` where there is no GPU.
    """
    if not toolchain.gpus:
        raise IncompleteBuild(
            f"--gpu auto takes the GPU of this machine, and there is none: {_gpu_notes(toolchain)}"
            "name a target, such as --gpu t4: everything before the plan needs no GPU"
        )
    gpu = toolchain.gpus[0]
    for row in GPU_TARGETS:
        if row.compute_capability == gpu.compute_capability:
            return row
    return Target(
        name=f"sm{gpu.compute_capability.replace('.', '')}",
        title=gpu.name,
        triton_release=T4.triton_release,
        precisions=T4.precisions,
        compute_capability=gpu.compute_capability,
        tensorrt=toolchain.tensorrt or T4.tensorrt,
        cuda=T4.cuda,
        python=T4.python,
        why="made from the GPU that was found here; not in the table of targets",
    )


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu_refusals(target: Target, toolchain: Toolchain) -> list[Refusal]:
    needed = f"{target.a_title} (compute capability {target.compute_capability})"
    gpu = gpu_for(target, toolchain)
    if not toolchain.gpus:
        told = f"no NVIDIA GPU is found here, {needed} is needed: {_gpu_notes(toolchain)}"
        return [Refusal(f"{told}a plan is built on the GPU it is for", is_wrong=False)]
    if gpu is None:
        found = ", ".join(f"{gpu.name} (compute capability {gpu.compute_capability})" for gpu in toolchain.gpus)
        told = f"the GPU here is {found}, {needed} is needed: {_gpu_notes(toolchain)}"
        return [Refusal(f"{told}build this plan on one", is_wrong=True)]
    branch = version_key(gpu.driver)[:1]
    if target.driver_branch is not None and branch < (target.driver_branch,):
        told = f"driver {gpu.driver} is too old, CUDA {target.cuda} of {target.tensorrt_image} needs branch"
        return [Refusal(f"{told} {target.driver_branch} or newer: update the driver of this host", is_wrong=True)]
    if target.driver_branch_last is not None and branch > (target.driver_branch_last,):
        told = f"driver {gpu.driver} has left {target.title} behind, branch {target.driver_branch_last} is the last"
        return [Refusal(f"{told} that supports it: install that one", is_wrong=True)]
    return []


def _tensorrt_refusals(target: Target, version: str, *, is_weakly_typed: bool, is_other_allowed: bool) -> list[Refusal]:
    found, needed = version_key(version), _needed_tensorrt(target)
    refused = []
    if found < version_key(TENSORRT_FLOOR):
        oldest = needed if target.is_listed else "the oldest that is supported"
        refused.append(f"TensorRT {version} is older than {TENSORRT_FLOOR}, {oldest}: use {target.tensorrt_image}")
    elif target.tensorrt_before is not None and found >= version_key(target.tensorrt_before):
        refused.append(
            f"TensorRT {version} cannot build for {target.a_title} (compute capability {target.compute_capability}): "
            f"{target.tensorrt_before} removed it, {needed}: use {target.tensorrt_image}"
        )
    elif target.tensorrt is not None and not is_same_release(version, target.tensorrt) and not is_other_allowed:
        refused.append(
            f"TensorRT {version} is here, {needed}, since a plan loads only in the TensorRT that built it: use "
            f"{target.tensorrt_image}, or --tensorrt-of-this-host where Triton has TensorRT {version} too"
        )
    if is_weakly_typed and found >= version_key(STRONGLY_TYPED_FROM):
        refused.append(
            f"--weak-fp16 needs TensorRT before {STRONGLY_TYPED_FROM} and {version} is here: leave the option out, the "
            "FP16 file carries its types"
        )
    return [Refusal(message, is_wrong=True) for message in refused]


def _needed_tensorrt(target: Target) -> str:
    return f"TensorRT {target.tensorrt} is needed"


def _is_same(found: str, listed: str) -> bool:
    """Whether one version is the other, or a shorter way to write it."""
    one, other = version_key(found), version_key(listed)
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _words(name: str) -> set[str]:
    """What tells one card from another: {t4} of `Tesla T4` and `NVIDIA T4`, never of `NVIDIA T400`."""
    return set(re.findall(r"[a-z0-9]+", name.lower())) - _MAKERS


def _gpu_notes(toolchain: Toolchain) -> str:
    return _notes(toolchain, "nvidia-smi", VISIBLE)


def _notes(toolchain: Toolchain, *subjects: str) -> str:
    """What is known of the reason, as a clause; empty where there is nothing to say."""
    return "".join(f"{note}; " for note in toolchain.notes if note.startswith(subjects))
