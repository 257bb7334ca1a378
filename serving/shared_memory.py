"""Names of the Python backend's regions in /dev/shm, and the removal of those whose server is gone.

A region is named `inception_<pid namespace>_<guard pid>_<guard start time>_<uuid>`: a region belongs to a dead server
only if that very process, in this very pid namespace, is gone. Containers that share /dev/shm therefore leave each
other alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from serving.guard import SHARED_MEMORY, remove_regions

_OURS = re.compile(r"(?P<prefix>inception_(?P<namespace>\d+)_(?P<pid>\d+)_(?P<started>\d+)_).+")


def prefix_of(guard_pid: int) -> str:
    """The region prefix of the server that the guard with this pid holds."""
    return f"inception_{_pid_namespace()}_{guard_pid}_{start_time_of(guard_pid) or 0}_"


def start_time_of(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, which tells it from a later one with the same pid; None if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the program's name may contain blanks and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def sweep_dead_regions(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the regions of our servers that are gone; returns their names."""
    removed: list[str] = []
    for region in sorted(folder.glob("inception_*")):
        match = _OURS.fullmatch(region.name)
        if match is None or int(match["namespace"]) != _pid_namespace():
            continue
        if start_time_of(int(match["pid"])) != int(match["started"]):
            removed += remove_regions(match["prefix"], folder)
    return removed


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
