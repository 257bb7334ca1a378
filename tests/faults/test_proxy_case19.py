"""Case 19: what a network does to a connection, done by a real proxy in front of the real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client import BadResponse, DeadlineExceeded, InceptionError, RetryPolicy, ServerUnavailable

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
DEADLINE_S = 1.0
RECOVERS_WITHIN_S = 15.0
MAX_TRIES = 1 + RetryPolicy().max_retries
FAULTS: dict[str, tuple[dict[str, Any], type[InceptionError]]] = {
    "delay": ({"delay_s": 1.5}, DeadlineExceeded),
    "black hole": ({"is_black_hole": True}, DeadlineExceeded),
    "reset": ({"resets": True}, ServerUnavailable),
    "cut in the first line": ({"cut_after": 12}, ServerUnavailable),
    "cut in the body": ({"cut_after": 900}, ServerUnavailable),
    "garbage": ({"is_garbage": True}, BadResponse),
}
# Where a protocol's library cannot tell one from the other: what may come in place of the error above.
MAY_BE: dict[tuple[str, str], type[InceptionError]] = {
    ("grpc", "delay"): ServerUnavailable,  # a connection that is not made in time
    ("grpc", "black hole"): ServerUnavailable,
    ("grpc", "garbage"): ServerUnavailable,  # no HTTP/2
    ("http", "cut in the first line"): BadResponse,  # for http.client, the end of the stream ends the headers
}


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_network_is_an_error_in_time(  # noqa: PLR0917 - fixtures and parameters
    proxy: Callable[..., Any],
    connect: Any,
    solid: Callable[[int], np.ndarray],
    wait_until: Callable[..., bool],
    name: str,
    is_connected: bool,
) -> None:
    """On a connection that has worked and on a new one: the error that says so, within the deadline; when the network
    is well, the same client answers.
    """
    changes, kind = FAULTS[name]
    faulty = proxy(connect.kind.protocol)
    caller = connect(faulty, timeout_s=DEADLINE_S)
    if is_connected:
        assert caller.classify(solid(3), MODEL, timeout_s=20.0).best.index == 3
    nothing, asked = faulty.fault, faulty.http_requests
    faulty.fault = type(nothing)(**changes)
    started_s = time.monotonic()
    with pytest.raises(InceptionError) as raised:
        caller.classify(solid(4), MODEL)
    assert time.monotonic() - started_s < 1.5 * DEADLINE_S + 2.0
    assert type(raised.value) in {kind, MAY_BE.get((connect.kind.protocol, name), kind)}
    if is_connected:  # then the inference is the first that fails
        assert faulty.http_requests - asked <= MAX_TRIES
    faulty.fault = nothing

    def is_answered() -> bool:
        try:
            return caller.classify(solid(5), MODEL, timeout_s=10.0).best.index == 5
        except ServerUnavailable:
            return False  # gRPC waits a little before it connects again

    assert wait_until(is_answered, RECOVERS_WITHIN_S)


def test_no_more_connections_are_tried_than_the_policy_allows(
    proxy: Callable[..., Any], connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """Each is reset as it is used: the first try, and as many more as there are retries. gRPC connects by a clock of
    its own, which may tick once more for each.
    """
    faulty = proxy(connect.kind.protocol)
    faulty.fault = type(faulty.fault)(resets=True)
    error = connect(faulty, timeout_s=10.0).start("classify", solid(4), MODEL).exception(20)
    assert type(error) is ServerUnavailable
    assert 1 <= faulty.connections <= MAX_TRIES * (2 if connect.kind.protocol == "grpc" else 1)


@pytest.mark.parametrize("delay_s", [0.1, 0.8])
def test_a_slow_network_is_no_fault(
    proxy: Callable[..., Any],
    connect: Any,
    solid: Callable[[int], np.ndarray],
    delay_s: float,
) -> None:
    """A delay that fits into the deadline only takes its time."""
    faulty = proxy(connect.kind.protocol)
    faulty.fault = type(faulty.fault)(delay_s=delay_s)
    caller = connect(faulty, timeout_s=30.0)
    future = caller.start("classify", solid(6), MODEL)
    error = future.exception(40)
    assert error is None, str(error)
    assert future.result().best.index == 6
