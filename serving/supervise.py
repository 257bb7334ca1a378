"""Keep a server serving: one inference per model in turn, and a restart when the server, or a model in it, is dead.

tritonserver has no supervisor of its own: when a model's process dies, version 2.51 refuses every later request of that
model and keeps saying that it is ready.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serving.errors import ServerDied
from serving.probe import ProbeFailed, infer_until
from serving.process import Server

_OVERLOADED = 503


@dataclass(frozen=True)
class WatchPolicy:
    """Every model is asked once in `cycle_s` (0: never); after `max_restarts` within `window_s` it is given up."""

    cycle_s: float = 15.0
    max_restarts: int = 3
    window_s: float = 600.0
    answer_timeout_s: float = 10.0


def supervise(server: Server, policy: WatchPolicy, tell: Callable[[str], None]) -> None:
    """Return when the server was told to stop. Raises `ServerDied` when it keeps failing, or what a restart raises."""
    restarts: deque[float] = deque()
    turns = itertools.cycle(server.models)
    pause_s = policy.cycle_s / len(server.models) if policy.cycle_s > 0 else 3600.0
    while True:
        if server.wait(pause_s):
            if server.was_asked_to_stop():
                return
            problem = "tritonserver ended without being asked"
        elif policy.cycle_s > 0:
            failure = failure_of(server, next(turns), policy.answer_timeout_s)
            if failure is None:
                continue
            problem = failure
        else:
            continue
        _note_restart(restarts, policy, problem)
        tell(f"{problem}; restarting the server")
        server.restart()
        tell(f"serving again after {server.ready_s:.1f} s")


def failure_of(server: Server, model: str, answer_timeout_s: float) -> str | None:
    """Why a model is to be taken for dead, None if it is not: it must fail twice in a row.

    A model under load may shed the probe or answer it too late; while it answers other requests it is alive.
    """
    before, problem = _successes(server, model), ""
    for _ in range(2):
        try:
            infer_until(server.probe(answer_timeout_s), model, time.monotonic() + answer_timeout_s)
        except ProbeFailed as error:
            is_perhaps_busy = error.status in (None, _OVERLOADED)
            if is_perhaps_busy and _successes(server, model) > before:
                return None
            problem = f"{model} does not answer ({error})"
        else:
            return None
    return problem


def _successes(server: Server, model: str) -> int:
    try:
        return server.probe().successes(server.metrics_url, model)
    except ProbeFailed:  # the inference says what is wrong; this only tells busy from dead
        return 0


def _note_restart(restarts: deque[float], policy: WatchPolicy, problem: str) -> None:
    now_s = time.monotonic()
    while restarts and now_s - restarts[0] > policy.window_s:
        restarts.popleft()
    if len(restarts) >= policy.max_restarts:
        raise ServerDied(
            f"{problem}, after {len(restarts)} restarts within {policy.window_s:g} s. The server's log says more; "
            "a model that keeps failing can be left out with --model."
        )
    restarts.append(now_s)
