"""How to reach the server of a run directory: `serving.json`, readable by its owner only, gone when the server is."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import AlreadyRunning, NotRunning, UsageError

TOKEN_VARIABLE = "INCEPTION_TOKEN"  # noqa: S105 - the variable's name, not a token
ACCESS_FILE = "serving.json"
_LOCK_FILE = "serving.lock"
_OWNER_ONLY = 0o600
# What passes unchanged through `--http-restricted-api=<categories>:<key>=<value>`, an HTTP header and gRPC metadata.
_TOKEN_PATTERN = re.compile(r"[A-Za-z0-9._~-]{8,256}")


@dataclass(frozen=True)
class Access:
    """Addresses and token of one running server. `guard_pid` and `guard_started` identify the process that holds it."""

    grpc_url: str
    http_url: str
    metrics_url: str
    token: str
    pid: int
    guard_pid: int
    guard_started: int


def choose_token(given: str | None, environment: Mapping[str, str] | None = None) -> str:
    """The token to serve with: the one given, else INCEPTION_TOKEN, else a random one. Raises `UsageError`."""
    environment = os.environ if environment is None else environment
    # A leading '-' would not pass a command line, so none is made.
    token = given or environment.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32).replace("-", "_")
    if not _TOKEN_PATTERN.fullmatch(token) or token.startswith("-"):
        raise UsageError(
            "The token must be 8 to 256 of the characters A-Z a-z 0-9 . _ ~ - and not begin with '-': others do not "
            "survive the server's flags. Leave it out to get a random one."
        )
    return token


def write_access(run_dir: Path, access: Access) -> Path:
    """Write `serving.json`, mode 0600; a reader sees the whole file or none."""
    path = run_dir / ACCESS_FILE
    staging = run_dir / f".{ACCESS_FILE}.{os.getpid()}"
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dataclasses.asdict(access), file, indent=2)
        file.write("\n")
    staging.replace(path)
    return path


def read_access(run_dir: Path) -> Access:
    """What `write_access` wrote. Raises `NotRunning` if there is nothing, or something else, to read."""
    path = run_dir / ACCESS_FILE
    try:
        fields = json.loads(path.read_text())
        return Access(**fields)
    except FileNotFoundError as error:
        raise NotRunning(
            f"{path} does not exist: no server was started with this run directory. "
            "Start one with `python -m serving up`, or name the server with --url."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise NotRunning(
            f"{path} cannot be read as a server's access file: {error}. Start the server again."
        ) from error


def remove_access(run_dir: Path, guard_pid: int) -> None:
    """Remove the `serving.json` that a dead guard left behind, if it is still that guard's."""
    with contextlib.suppress(NotRunning):
        if read_access(run_dir).guard_pid == guard_pid:
            (run_dir / ACCESS_FILE).unlink(missing_ok=True)


def lock_run_dir(run_dir: Path) -> int:
    """Take the run directory; returns the open descriptor that holds it. Raises `AlreadyRunning`.

    The descriptor is handed to the server's guard, so the lock lasts exactly as long as the guard, however it ends.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AlreadyRunning(
            f"A server is already running with the run directory {run_dir}. "
            f"Stop it with `python -m serving down --run-dir {run_dir}`, or choose another --run-dir."
        ) from error
    return descriptor
