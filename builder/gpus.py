"""The GPUs of this machine that a program may use: what `nvidia-smi` tells of, less what CUDA_VISIBLE_DEVICES hides.

Standard library only. Whatever is there and does not work becomes a note, never an exception.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from builder.targets import version_key

VISIBLE = "CUDA_VISIBLE_DEVICES"
_NVIDIA_SMI_TIMEOUT_S = 20
_FIELDS = ("index", "uuid", "name", "compute_cap", "driver_version", "memory.total")
_UUID = "GPU-"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, as its driver tells."""

    index: int
    uuid: str
    name: str
    compute_capability: str
    driver: str
    memory_mib: int | None


def found_gpus(notes: list[str]) -> tuple[Gpu, ...]:
    """Those that CUDA will show a program started now, the first one first; what is wrong or hidden is noted."""
    return _visible(_installed_gpus(notes), notes)


def _visible(gpus: tuple[Gpu, ...], notes: list[str]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, in its order; as for CUDA, what follows a wrong entry is hidden."""
    named = os.environ.get(VISIBLE)
    if named is None or not gpus:
        return gpus
    entries = [entry.strip() for entry in named.split(",")]
    if any(entry.isdecimal() for entry in entries) and not _are_numbers_certain(gpus):
        uuids = ", ".join(f"{gpu.uuid} {gpu.name}" for gpu in gpus)
        notes.append(
            f"{VISIBLE}={named} gives numbers to GPUs of several kinds, and CUDA counts them in another order than "
            f"nvidia-smi: name them by UUID ({uuids}) or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
        return ()
    visible: list[Gpu] = []
    for entry in entries:
        gpu = _named(entry, gpus)
        if gpu is None or gpu in visible:
            break
        visible.append(gpu)
    if len(visible) < len(gpus):
        notes.append(f"{VISIBLE}={named} hides {len(gpus) - len(visible)} of {len(gpus)} GPUs")
    return tuple(visible)


def _are_numbers_certain(gpus: Sequence[Gpu]) -> bool:
    """CUDA counts the fastest GPU first unless told otherwise, nvidia-smi by slot: the same only for equal ones."""
    return os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) == 1


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """The GPU of a number, or of the beginning of a UUID that is no other's; None for anything else."""
    if entry.startswith(_UUID):
        found = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    else:
        found = [gpu for gpu in gpus if str(gpu.index) == entry]
    return found[0] if len(found) == 1 else None


def _installed_gpus(notes: list[str]) -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        notes.append(f"nvidia-smi gave no answer within {_NVIDIA_SMI_TIMEOUT_S} s: the driver is not well")
        return ()
    except OSError as error:
        notes.append(f"nvidia-smi cannot be run: {error}")
        return ()
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    if "compute_cap" in said:
        notes.append(f"nvidia-smi does not know compute capabilities, its driver is too old: {said}")
        return ()
    if done.returncode != 0:
        notes.append(f"nvidia-smi ended with {done.returncode}: {said or 'no word why'}")
        return ()
    if not said:
        notes.append("nvidia-smi answered nothing")
    gpus = []
    for line in filter(str.strip, done.stdout.splitlines()):
        gpu = _gpu_from_line(line)
        if gpu is None:
            notes.append(f"nvidia-smi answered a line that is no GPU in order: {line.strip()}")
        else:
            gpus.append(gpu)
    return tuple(gpus)


def _gpu_from_line(line: str) -> Gpu | None:
    """None for a line that is not in order: a GPU that fell off the bus has words where its numbers should be."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_FIELDS):
        return None
    index, uuid, name, capability, driver, memory = cells
    if not index.isdecimal() or len(version_key(capability)) != 2 or not version_key(driver):
        return None
    return Gpu(int(index), uuid, name, capability, driver, int(memory) if memory.isdecimal() else None)
