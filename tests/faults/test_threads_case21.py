"""Case 21 against the real server: one client, many threads, each with its own answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from client import ClientClosed, InceptionClient

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
THREADS, CALLS = 8, 25
SLOW = 208


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_eight_threads_share_one_client(obedient: Any, solid: Callable[[int], np.ndarray], protocol: str) -> None:
    """They begin together, with the very first connection; each gets the answers to its own images, in its order."""
    url = obedient.http_url if protocol == "http" else obedient.grpc_url
    together = threading.Barrier(THREADS)

    def answers(thread: int) -> list[int]:
        together.wait(30)
        values = [(thread * CALLS + call) % 97 for call in range(CALLS)]
        return [client.classify(solid(value), MODEL).best.index - value for value in values]

    with InceptionClient(url, token=obedient.token) as client, ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(answers, range(THREADS))) == [[0] * CALLS] * THREADS


def test_closing_in_one_thread_ends_the_calls_of_the_others(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Each waiting call ends with `ClientClosed`, at once, and so does the next."""
    caller, before = connect(obedient), obedient.began(SLOW)
    caller.classify(solid(1), MODEL)
    calls = [caller.start("classify", solid(SLOW), MODEL) for _ in range(THREADS)]
    assert wait_until(lambda: obedient.began(SLOW) > before)
    caller.start("close").result(10)
    errors = [call.exception(10) for call in calls]
    assert ClientClosed in map(type, errors)
    assert set(map(type, errors)) <= {ClientClosed, type(None)}
    with pytest.raises(ClientClosed):
        caller.classify(solid(1), MODEL)
