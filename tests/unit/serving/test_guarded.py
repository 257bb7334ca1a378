import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.access import ACCESS_FILE, lock_run_dir
from serving.errors import UnsupportedEnvironment
from serving.guarded import GuardedServer

HANG_S = 30.0  # ends a test that would otherwise wait for ever


def launch(guarded: GuardedServer, run_dir: Path, *command: str) -> None:
    guarded.launch(
        command=list(command),
        environment=dict(os.environ),
        shm_prefix=f"inception_test_{guarded.guard_pid}_",
        access_path=run_dir / ACCESS_FILE,
        exit_timeout_s=1,
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedServer]:
    """A guard that has nothing to guard yet."""
    lock = lock_run_dir(tmp_path)
    guard = GuardedServer(tmp_path / "server.log", lock)
    os.close(lock)
    yield guard
    guard.stop(0)


def wait_for_end(pid: int) -> bool:
    """Whether a process has ended, seen from the kernel and not from what the guard says."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], HANG_S)[0])
    finally:
        os.close(descriptor)


def test_waiting_for_no_time_sees_what_has_already_happened(guarded, tmp_path):
    """False for a live server; True, with how it ended, for one that was killed and cleared up: report and EOF."""
    launch(guarded, tmp_path, "/bin/sleep", "600")
    assert guarded.wait(0) is False
    os.kill(guarded.pid, signal.SIGKILL)
    assert wait_for_end(guarded.guard_pid)
    assert guarded.wait(0) is True
    assert (guarded.returncode, guarded.was_asked) == (-signal.SIGKILL, False)


def test_waiting_for_no_time_sees_a_dead_guard(guarded, tmp_path):
    """It had no time for a report; its end is one."""
    launch(guarded, tmp_path, "/bin/sleep", "600")
    os.kill(guarded.guard_pid, signal.SIGKILL)
    assert wait_for_end(guarded.guard_pid)
    assert guarded.wait(-1.0) is True
    assert guarded.returncode is None


def test_a_program_that_cannot_be_executed_is_named(guarded, tmp_path):
    """With the system's reason."""
    with pytest.raises(UnsupportedEnvironment, match=r"/absent cannot be executed: .*No such file"):
        launch(guarded, tmp_path, "/absent")
