"""Stop the server of a run directory from another process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from serving.access import ACCESS_FILE, read_access
from serving.errors import NotRunning, ServingError
from serving.shared_memory import start_time_of, sweep_dead_regions

_PATIENCE_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.2


def stop_server(run_dir: Path, patience_s: float = _PATIENCE_S) -> int:
    """Stop the server that `serving.json` describes and return its pid once nothing of it is left.

    Only a process with the recorded pid *and* start time is signalled, so never one that took over the pid later.
    Raises `NotRunning`, and `ServingError` if the server has not ended in time or belongs to another user.
    """
    access = read_access(run_dir)
    if start_time_of(access.guard_pid) != access.guard_started:
        (run_dir / ACCESS_FILE).unlink(missing_ok=True)
        sweep_dead_regions()
        raise NotRunning(f"The server of {run_dir} (pid {access.pid}) is gone already; its {ACCESS_FILE} was removed.")
    try:
        os.kill(access.guard_pid, signal.SIGTERM)
    except PermissionError as error:
        raise ServingError(
            f"The server of {run_dir} (pid {access.pid}) belongs to another user, who must stop it."
        ) from error
    deadline_s, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while start_time_of(access.guard_pid) == access.guard_started:
        if time.monotonic() > deadline_s:
            raise ServingError(f"The server of {run_dir} (pid {access.pid}) has not ended after {patience_s:g} s.")
        time.sleep(pause_s)  # a back-off between two looks at a process that is not our child
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return access.pid
