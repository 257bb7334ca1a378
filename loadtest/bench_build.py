"""What a build and a start cost: seconds and memory, of the commands a user runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import MeasurementFailed
from serving import serve


@dataclass(frozen=True)
class BuildCost:
    """One run of `python -m builder build`: wall seconds, peak resident memory in GB, whether torch was imported."""

    title: str
    wall_s: float
    peak_gb: float
    is_torch_imported: bool


@dataclass(frozen=True)
class StartCost:
    """One start of a server: seconds until every model had answered, and memory in GB of all its processes (PSS)."""

    title: str
    ready_s: float
    memory_gb: float


def build_cost(title: str, repository: Path, cache_dir: Path) -> BuildCost:
    """Run the build of all eight models in FP32 with seeded weights; what it did is up to what lies there already.

    Raises `MeasurementFailed` when the build fails.
    """
    command = [sys.executable, "-X", "importtime", "-m", "builder", "build", "--gpu", "cpu", "--weights", "seeded"]
    command += ["--repository", str(repository), "--cache-dir", str(cache_dir)]
    log = repository.parent / "build.log"
    with log.open("w", encoding="utf-8") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    told = log.read_text(encoding="utf-8")
    if process.returncode != 0:
        last = [line for line in told.splitlines() if not line.startswith("import time:")][-1:]
        raise MeasurementFailed(f"the build ended with {process.returncode}: {' '.join(last)}")
    modules = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    return BuildCost(title, wall_s, usage.ru_maxrss * 1024 / 1e9, "torch" in modules)


def start_cost(title: str, repository: Path, models: list[str] | None) -> StartCost:
    """Start a server of `models` (all of the repository where None) and stop it again."""
    with serve(repository, ports="auto", models=models) as server:
        return StartCost(title, server.ready_s, _memory_gb(server.pid))


def _memory_gb(pid: int) -> float:
    """Proportional set size of a process and its descendants: pages that several share are counted once."""
    total_kb = 0
    for process in _with_descendants(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total_kb += int(line.split()[1])
    return total_kb * 1024 / 1e9


def _with_descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _with_descendants(int(child))
    return found
