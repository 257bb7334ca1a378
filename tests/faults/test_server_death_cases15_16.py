"""Cases 15 and 16 against the real server: it is killed or told to end while requests are under way, and comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from client import RetryPolicy, ServerUnavailable

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
SLOW, HANGS = 208, 209
NAPS = range(100, 150)
EXIT_TIMEOUT_S = 2  # as the server of the fixture `mortal` has it
DEADLINE_S = 10.0
# Enough tries for the seconds that a restart takes, however often the port refuses.
PATIENT = RetryPolicy(max_retries=200, first_pause_s=0.2, pause_factor=1.0, budget_reserve=1_000.0)


@pytest.fixture
def server(mortal: Any) -> Iterator[Any]:
    """The file's server, running; a test may leave it dead."""
    if not mortal.is_alive():
        mortal.server.restart()
    yield mortal
    if not mortal.is_alive():
        mortal.server.restart()


def kill(server: Any) -> None:
    """SIGKILL, and wait for the end."""
    os.kill(server.server.pid, signal.SIGKILL)
    assert server.server.wait(10)


def test_a_server_killed_in_mid_request_is_unavailable_and_then_found_again(
    server: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Case 15: the call under way and the next one say so in time; after the restart the same client works."""
    caller, before = connect(server, timeout_s=DEADLINE_S), server.began(HANGS)
    caller.classify(solid(1), MODEL)
    under_way = caller.start("classify", solid(HANGS), MODEL)
    assert wait_until(lambda: server.began(HANGS) > before)
    kill(server)
    assert type(under_way.exception(DEADLINE_S)) is ServerUnavailable
    started_s = time.monotonic()
    with pytest.raises(ServerUnavailable, match="start it, or give its address"):
        caller.classify(solid(1), MODEL)
    assert time.monotonic() - started_s < DEADLINE_S
    server.server.restart()
    assert caller.classify(solid(2), MODEL).best.index == 2


def test_a_patient_call_outlives_a_restart(
    server: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Case 15: a stream that loses its server in the middle has every answer, once, in order, when it is back."""
    caller = connect(server, timeout_s=60.0, retries=PATIENT)
    caller.classify(solid(1), MODEL)
    values = list(NAPS)
    seen: list[int] = []
    stream = caller.start_many(
        [solid(value) for value in values], lambda result: seen.append(result.best.index), model=MODEL, batch_size=4
    )
    assert wait_until(lambda: len(seen) > 0)
    kill(server)
    assert not stream.done()
    server.server.restart()
    stream.result(60)
    assert seen == values


def end_with_eight_under_way(
    server: Any, caller: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> list[Any]:
    """SIGTERM while one request is executed and seven wait; returns the eight calls."""
    before = server.began(SLOW)
    caller.classify(solid(1), MODEL)
    calls = [caller.start("classify", solid(SLOW), MODEL)]
    assert wait_until(lambda: server.began(SLOW) > before)
    calls += [caller.start("classify", solid(value), MODEL) for value in range(7)]
    assert wait_until(lambda: server.pending() == 7)
    os.kill(server.server.pid, signal.SIGTERM)
    return calls


def test_a_server_told_to_end_answers_what_is_under_way(
    server: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Case 16: all 8 requests are answered, and the server ends within its grace; the next call finds nobody.

    An idle connection of HTTP holds tritonserver for the whole of its exit timeout: the grace must be longer.
    """
    caller = connect(server, timeout_s=DEADLINE_S)
    calls = end_with_eight_under_way(server, caller, solid, wait_until)
    outcomes = [call.exception(20) or call.result().best.index for call in calls]
    assert outcomes == [SLOW, *range(7)]
    assert server.server.wait(EXIT_TIMEOUT_S + 5)
    with pytest.raises(ServerUnavailable):
        caller.classify(solid(1), MODEL)


def test_whoever_comes_to_a_server_that_is_about_to_end_finds_it_unavailable(
    server: Any,
    connect: Any,
    solid: Callable[[int], np.ndarray],
    wait_until: Callable[..., bool],
) -> None:
    """Case 16: a new client is told so at once, or answered; nothing else is right."""
    caller, newcomer = connect(server, timeout_s=DEADLINE_S), connect(server, timeout_s=DEADLINE_S)
    calls = end_with_eight_under_way(server, caller, solid, wait_until)
    errors = []
    while not server.server.wait(0.1):
        errors.append(newcomer.start("classify", solid(1), MODEL, timeout_s=1.0).exception(10))
    for call in calls:
        call.exception(10)
    assert {type(error) for error in errors} <= {ServerUnavailable, type(None)}, [str(error) for error in errors]
