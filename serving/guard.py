"""The process between us and tritonserver: whatever ends the owner, the server ends too and leaves nothing behind.

Run as a script (`python -I -S guard.py`), standard library only. The owner writes one JSON line to its standard input
and keeps the pipe open. The guard stops the server when the pipe closes (the owner ended, by whatever signal), when a
line `stop <grace_s>` arrives, or on SIGTERM; then it ends the stubs, removes the server's shared memory and
`serving.json`. If the guard itself is killed, the kernel kills the server (PR_SET_PDEATHSIG), and its stubs follow by
themselves.

Why not PR_SET_PDEATHSIG straight from the owner: it is tied to the thread that started the child, so a server started
from a worker thread would die with that thread; and code between fork and exec is not safe in a threaded owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's name for it
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_OWNER_CHECK_S = 1.0
# tritonserver counts its own exit timeout in whole seconds and then still joins threads.
_EXIT_MARGIN_S = 3.0


def remove_regions(prefix: str, folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the shared memory regions of this prefix that are ours to remove; returns their names."""
    removed = []
    for region in sorted(folder.glob(f"{prefix}*")):
        # Gone meanwhile, or another user's: neither is ours to mend.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            region.unlink()
            removed.append(region.name)
    return removed


class _Guard:
    def __init__(self, owner_pid: int, order: dict[str, Any]) -> None:
        self._owner_pid = owner_pid
        self._order = order
        self._grace_s = order["exit_timeout_s"] + _EXIT_MARGIN_S
        self._is_asked = False
        self._wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # the wake-up pipe carries the news
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is the owner's to answer

    def run(self) -> int:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphaned stubs become our children, so their end can be awaited
        try:
            server = self._start(prctl)
        except OSError as error:
            self._report({"error": str(error)})
            return 1
        self._report({"pid": server.pid})
        self._watch(server.pid)
        if not _has_ended(server.pid):
            self._end(server.pid)
        returncode = self._clear_up(server.pid)
        self._report({"returncode": returncode, "asked": self._is_asked})
        return 0

    def _start(self, prctl: Callable[..., int]) -> subprocess.Popen[bytes]:
        guard_pid = os.getpid()

        def die_with_guard() -> None:  # this process has one thread, so code before exec is safe here
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard_pid:  # it died before the line above
                os._exit(1)

        return subprocess.Popen(
            self._order["command"],
            env=self._order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=die_with_guard,  # noqa: PLW1509 - see above
        )

    def _watch(self, pid: int) -> None:
        """Return when the server has ended or must end."""
        while not _has_ended(pid):
            readable, _, _ = select.select([sys.stdin, self._wake_fd], [], [], _OWNER_CHECK_S)
            signals = self._signals() if self._wake_fd in readable else b""
            if sys.stdin in readable:
                words = os.read(sys.stdin.fileno(), 64).split()
                self._grace_s = float(words[1]) if words else self._grace_s
            # The parent is compared too: a forked child of the owner may hold the pipe open after the owner's end.
            if sys.stdin in readable or signal.SIGTERM in signals or os.getppid() != self._owner_pid:
                self._is_asked = True
                return

    def _end(self, pid: int) -> None:
        """SIGTERM, and SIGKILL to the whole group once the grace is over."""
        os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + self._grace_s
        while not _has_ended(pid) and (left_s := deadline_s - time.monotonic()) > 0:
            select.select([self._wake_fd], [], [], left_s)
            self._signals()

    def _clear_up(self, pid: int) -> int:
        """No process of the server's group, no region and no access file is left when this returns."""
        # The server is not yet reaped, so its group id cannot have been given to anybody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        returncode = 0
        while True:
            for orphan in _children():  # a model may have started processes outside the group
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            try:
                ended_pid, status = os.wait()
            except ChildProcessError:
                break
            if ended_pid == pid:
                returncode = os.waitstatus_to_exitcode(status)
        remove_regions(self._order["shm_prefix"])
        Path(self._order["access_path"]).unlink(missing_ok=True)
        return returncode

    def _signals(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._wake_fd, 256)
        return b""

    def _report(self, facts: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: nobody is left to tell
            os.write(sys.stdout.fileno(), json.dumps(facts).encode() + b"\n")


def _read_order() -> dict[str, Any] | None:
    """The owner's line, or None if the owner ended before it was complete."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as unbuffered:
        line = unbuffered.readline()  # and not a byte more: what follows must stay visible to select
    return json.loads(line) if line.endswith(b"\n") else None


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except FileNotFoundError:  # a kernel without the list: the group was all there is to end
        return []


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _main() -> int:
    owner_pid = os.getppid()
    order = _read_order()
    return 0 if order is None else _Guard(owner_pid, order).run()


if __name__ == "__main__":
    sys.exit(_main())
