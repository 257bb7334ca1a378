"""The conditions a figure was taken under: without them it is worth nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

_DISTRIBUTIONS = ("openvino", "onnxruntime", "nvidia-pytriton", "tritonclient", "numpy", "torch")


def machine_facts() -> dict[str, object]:
    """Processor, cores this process may use, memory in GiB, system, and the versions that decide speed."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
    }


def machine_line(facts: dict[str, object]) -> str:
    """The facts in one line, for above a table."""
    versions = facts["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    return f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; Python {facts['python']}, {told}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
