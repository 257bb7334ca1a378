"""Shared memory against the real server: what is refused, what survives a restart, and what a dead client leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import ClientClosed, NotAllowed

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to
NAME = re.compile(r"inception-client-[\w-]+")
CLIENT = """
import sys
import numpy as np
from client import InceptionClient

with InceptionClient(sys.argv[1], token=sys.argv[2]) as client, client.shared_memory() as fast:
    values = [int(value) for value in sys.argv[3].split(",")]
    results = fast.classify_batch([np.full((64, 64, 3), value, np.uint8) for value in values], "GoogLeNet")
    print([result.best.index for result in results] == values, flush=True)
    sys.stdin.readline()
"""


def regions(*pids: int) -> set[str]:
    """The files that the clients of these processes (none: of this one) have in shared memory, hidden ones too."""
    owners = [f"inception-client-{pid}-" for pid in pids or (os.getpid(),)]
    return {path.name for path in SHARED_MEMORY.iterdir() if any(owner in path.name for owner in owners)}


def regions_on(server: Any) -> set[str]:
    """The regions of clients that the server has mapped."""
    return set(NAME.findall(server.regions()))


def start_client(server: Any, values: list[int]) -> subprocess.Popen[str]:
    """A process with an open arena that has had its right answers, and waits for a line."""
    command = [sys.executable, "-c", CLIENT, server.grpc_url, server.token, ",".join(map(str, values))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Kill it if it lives, and close its pipes."""
    process.kill()
    process.communicate(timeout=10)


def test_it_answers_and_is_gone_afterwards(obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]) -> None:
    """Inside the block the server reads our memory; after it, neither side has any."""
    caller = connect(obedient)
    with caller.shared_memory() as fast:
        assert regions() == regions_on(obedient) != set()
        values = list(range(30))
        assert [result.best.index for result in fast.classify_batch(map(solid, values), MODEL)] == values
    assert regions() == regions_on(obedient) == set()
    with pytest.raises(ClientClosed, match="open it again"):
        fast.classify(solid(1), MODEL)
    assert caller.classify(solid(2), MODEL).best.index == 2


def test_without_the_token_it_is_not_allowed(obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]) -> None:
    """The server restricts it: `NotAllowed` that says so, nothing left behind, and the client goes on over the wire."""
    for token in (None, "wrong-token"):
        caller = connect(obedient, token=token)
        with pytest.raises(NotAllowed, match="shared memory"), caller.shared_memory():
            pass
        assert regions() == set()
        assert caller.classify(solid(3), MODEL).best.index == 3


def test_a_restarted_server_is_told_again(mortal: Any, connect: Any, solid: Callable[[int], np.ndarray]) -> None:
    """Case 15: it has forgotten the regions; the next call inside the block works all the same."""
    with connect(mortal, timeout_s=20.0).shared_memory() as fast:
        assert fast.classify(solid(4), MODEL).best.index == 4
        os.kill(mortal.server.pid, signal.SIGKILL)
        assert mortal.server.wait(10)
        mortal.server.restart()
        assert fast.classify(solid(5), MODEL).best.index == 5
        assert regions() == regions_on(mortal)
    assert regions() == regions_on(mortal) == set()


def test_a_server_that_is_gone_does_not_keep_the_memory(
    mortal: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """The block ends without an error, and without its files, though nobody can be told."""
    with connect(mortal, timeout_s=5.0).shared_memory() as fast:
        assert fast.classify(solid(6), MODEL).best.index == 6
        os.kill(mortal.server.pid, signal.SIGKILL)
        assert mortal.server.wait(10)
    assert regions() == set()
    mortal.server.restart()


def test_what_a_killed_client_left_is_swept_here_and_on_the_server(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """Case 15: its files and its registrations stay behind; whoever opens shared memory next removes both."""
    process = start_client(obedient, [7, 8])
    left = regions(process.pid)
    end(process)
    assert left == regions(process.pid) == regions_on(obedient) != set()
    with connect(obedient).shared_memory() as fast:
        assert regions(process.pid) == set()
        assert regions() == regions_on(obedient) != left
        assert fast.classify(solid(9), MODEL).best.index == 9
    assert regions() == regions_on(obedient) == set()


def test_two_processes_leave_each_other_alone(obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]) -> None:
    """Both have memory at once; opening and closing one does not touch the other's."""
    process = start_client(obedient, [10, 11])
    try:
        theirs = regions(process.pid)
        with connect(obedient).shared_memory() as fast:
            assert theirs == regions(process.pid) != set()
            assert theirs | regions() == regions_on(obedient)
            assert fast.classify(solid(12), MODEL).best.index == 12
        assert regions() == set()
        assert regions(process.pid) == regions_on(obedient) == theirs
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    finally:
        end(process)
    assert regions(process.pid) == regions_on(obedient) == set()
