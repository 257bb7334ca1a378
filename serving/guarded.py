"""The owner's end of a guard: one tritonserver that cannot outlive this process. See `guard.py` for the other end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serving import guard, server_log
from serving.access import remove_access
from serving.errors import ServerDied, UnsupportedEnvironment

_OWNER_ONLY = 0o600
_LAUNCH_TIMEOUT_S = 20.0
_STOP_MARGIN_S = 8.0  # beyond the server's own exit timeout: the guard's margin and its clearing up


class GuardedServer:
    """Starts the guard at once and the server with `launch`. The log is new; the one before it is kept as `NAME.1`.

    `lock` is an open descriptor that the guard keeps open until its end.
    """

    def __init__(self, log_path: Path, lock: int) -> None:
        self._log_path = log_path
        self._received = b""
        self._reports: list[dict[str, Any]] = []
        self._has_ended = False
        self._shm_prefix = ""
        self._access_path = Path()
        self._exit_timeout_s = 0.0
        self.pid = 0
        log = _new_log(log_path)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(guard.__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                pass_fds=(lock,),
                start_new_session=True,  # a terminal's Ctrl-C reaches the owner only, which then stops the server
                cwd="/",
            )
        finally:
            os.close(log)

    @property
    def guard_pid(self) -> int:
        """Process id of the guard; the names of the server's shared memory are made from it."""
        return self._guard.pid

    @property
    def was_asked(self) -> bool:
        """Whether the ended server was told to stop, by its owner or with SIGTERM to its guard."""
        return bool(self._report_with("returncode").get("asked", False))

    @property
    def returncode(self) -> int | None:
        """How the server ended, as `subprocess` counts it; None while it runs or if the guard was killed."""
        code = self._report_with("returncode").get("returncode")
        return None if code is None else int(code)

    def launch(
        self,
        *,
        command: list[str],
        environment: dict[str, str],
        shm_prefix: str,
        access_path: Path,
        exit_timeout_s: float,
    ) -> None:
        """Start the server; returns when it is a process. Raises `UnsupportedEnvironment`, `ServerDied`."""
        self._shm_prefix, self._access_path, self._exit_timeout_s = shm_prefix, access_path, exit_timeout_s
        order = {
            "command": command,
            "environment": environment,
            "shm_prefix": shm_prefix,
            "access_path": str(access_path.resolve()),
            "exit_timeout_s": exit_timeout_s,
        }
        self._send(json.dumps(order).encode() + b"\n")
        deadline_s = time.monotonic() + _LAUNCH_TIMEOUT_S
        while not self._reports and not self._has_ended and time.monotonic() < deadline_s:
            self._receive(_LAUNCH_TIMEOUT_S)
        first = self._reports[0] if self._reports else {}
        if "error" in first:
            raise UnsupportedEnvironment(
                f"{command[0]} cannot be executed: {first['error']}. Is it a program for this machine?"
            )
        if "pid" not in first:
            raise ServerDied(
                f"The server's guard process did not start the server. {server_log.ending(self._log_path)}"
            )
        self.pid = int(first["pid"])

    def wait(self, timeout_s: float) -> bool:
        """True as soon as the server has ended and nothing of it is left; False if it lives after `timeout_s`.

        It always looks: with 0 it tells what is so now.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._has_ended:
            # What is there already is read to its end, also without time left: the last report comes before the EOF.
            if not self._receive(max(0.0, deadline_s - time.monotonic())):
                break
        return self._has_ended

    def stop(self, grace_s: float | None = None) -> None:
        """End the server within `grace_s` (default: its exit timeout) and wait for the end. Safe after its own end."""
        if grace_s is not None:
            self._send(f"stop {grace_s:g}\n".encode())
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        limit_s = (self._exit_timeout_s if grace_s is None else grace_s) + _STOP_MARGIN_S
        if not self.wait(limit_s):
            self._guard.kill()  # the kernel then kills the server; what the guard would have removed is left to us
        self._guard.wait()
        if self._guard.stdout is not None:
            self._guard.stdout.close()
        if self.pid and self.returncode is None:  # the guard was killed before it could clear up
            guard.remove_regions(self._shm_prefix)
            remove_access(self._access_path.parent, self.guard_pid)

    def _send(self, line: bytes) -> None:
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # the guard has ended, which `wait` reports
                self._guard.stdin.write(line)

    def _receive(self, timeout_s: float) -> bool:
        """Whether the guard said something, its end included, within the time."""
        stdout = self._guard.stdout
        if stdout is None or stdout.closed:
            self._has_ended = True
            return True
        readable, _, _ = select.select([stdout], [], [], timeout_s)
        if not readable:
            return False
        chunk = os.read(stdout.fileno(), 4096)
        self._has_ended = not chunk
        *lines, self._received = (self._received + chunk).split(b"\n")
        self._reports += [json.loads(line) for line in lines]
        return True

    def _report_with(self, key: str) -> dict[str, Any]:
        return next((report for report in self._reports if key in report), {})


def _new_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, _OWNER_ONLY)
