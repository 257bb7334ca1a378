"""Cases 10 to 13 and 18 against the real server: requests that cannot be answered, and models that fail or hang."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client import BadResponse, DeadlineExceeded, InceptionError, InferenceFailed, InvalidRequest, UnknownModel
from client.connect import transport_for
from client.connection import connection_from_urls
from client.operations import Infer

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL, SERVED, OTHER = "GoogLeNet", "googlenet_fp32", "InceptionV3"
RAISES, REFUSES, ANSWERS_NONE, ANSWERS_TOO_FEW, TOO_SMALL, NOT_A_NUMBER, SUM_OF_TWO, SLOW, HANGS = range(201, 210)
DEADLINE_S = 1.0
END_WITHIN_S = 1.5 * DEADLINE_S + 2.0
PATH = re.compile(r"/\w+/\w+")


def failure(caller: Any, image: np.ndarray, model: str = MODEL, **options: Any) -> InceptionError:
    """The error of one call, which came within its deadline."""
    started_s = time.monotonic()
    with pytest.raises(InceptionError) as raised:
        caller.classify(image, model, timeout_s=DEADLINE_S, **options)
    assert time.monotonic() - started_s < END_WITHIN_S
    return raised.value


@pytest.mark.parametrize("model", ["InceptionV4", "googlenet_fp16", "no such model", "../googlenet_fp32"])
def test_an_unknown_model_is_refused_with_what_is_served(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], model: str
) -> None:
    """Case 10: the message lists it; the next good call works."""
    caller = connect(obedient)
    error = failure(caller, solid(7), model)
    assert type(error) is UnknownModel
    assert "served are: googlenet_fp32, inception_v3_fp32" in str(error)
    assert caller.classify(solid(7), MODEL).best.index == 7


def test_more_than_the_largest_batch_travels_in_several(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """Case 11: a user cannot exceed the served maximum; the order is kept."""
    values = [3 * place for place in range(19)]
    results = connect(obedient).classify_batch([solid(value) for value in values], MODEL)
    assert [result.best.index for result in results] == values


@pytest.mark.parametrize(
    "request_json",
    [
        {"inputs": [{"name": "image", "shape": [9, 224, 224, 3], "datatype": "UINT8", "data": [0]}]},
        {"inputs": [{"name": "image", "shape": [1, 3, 224, 224], "datatype": "UINT8", "data": [0] * 150_528}]},
        {"inputs": [{"name": "image", "shape": [1, 224, 224, 3], "datatype": "FP32", "data": [0.5] * 150_528}]},
        {"inputs": [{"name": "image", "shape": [1, -224, 224, 3], "datatype": "UINT8", "data": [0]}]},
        {"inputs": []},
        "no object",
    ],
    ids=["batch of 9", "channels first", "floats", "negative", "no input", "no object"],
)
def test_a_request_made_by_hand_does_no_harm(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], request_json: object
) -> None:
    """Case 11: the server refuses it, lives, and answers the next good call of a client."""
    post = urllib.request.Request(  # noqa: S310 - http, loopback
        f"{obedient.http_url}/v2/models/{SERVED}/infer", json.dumps(request_json).encode()
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(post, timeout=10)  # noqa: S310 - likewise
    refused.value.close()
    assert refused.value.code in {400, 500}
    assert obedient.is_alive()
    assert connect(obedient).classify(solid(8), MODEL).best.index == 8


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("shape", [(9, 224, 224, 3), (1, 64, 64, 3)], ids=["batch of 9", "too small"])
def test_a_request_of_a_wrong_form_is_refused(obedient: Any, protocol: str, shape: tuple[int, ...]) -> None:
    """Case 11: `classify` sends none such, so the transport below it does; both protocols have one error for it."""
    url = obedient.grpc_url if protocol == "grpc" else obedient.http_url
    transport = transport_for(connection_from_urls(url, token=obedient.token))
    try:
        for input_name in ("image", "no such input"):
            with pytest.raises(InvalidRequest) as raised:
                transport.send(Infer(SERVED, input_name, np.zeros(shape, np.uint8)), DEADLINE_S)
            assert not raised.value.is_retryable
        assert obedient.is_alive()
        assert transport.send(Infer(SERVED, "image", np.zeros((1, 224, 224, 3), np.uint8)), DEADLINE_S).outputs
    finally:
        transport.close()


def test_a_model_that_raises_is_inference_failed(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray]
) -> None:
    """Case 12: said once, not tried again, without the server's paths; the next call is fine."""
    caller, before = connect(obedient), obedient.began(RAISES)
    error = failure(caller, solid(RAISES))
    assert type(error) is InferenceFailed
    assert not PATH.search(str(error))
    assert "Traceback" not in str(error)
    assert obedient.began(RAISES) == before + 1
    assert caller.classify(solid(9), MODEL).best.index == 9


def test_those_in_one_execution_with_a_failing_request_are_answered(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Case 12: the server executes what waited together; one error among the responses is that one request's."""
    caller, before = connect(obedient), obedient.began(SLOW)
    caller.classify(solid(1), MODEL)
    slow = caller.start("classify", solid(SLOW), MODEL)
    assert wait_until(lambda: obedient.began(SLOW) > before)
    calls = [caller.start("classify", solid(value), MODEL) for value in (1, REFUSES, 2)]
    assert slow.result(10).best.index == SLOW
    assert calls[0].result(10).best.index == 1
    assert calls[2].result(10).best.index == 2
    error = calls[1].exception(10)
    assert type(error) is InferenceFailed
    assert not PATH.search(str(error))


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (ANSWERS_NONE, DeadlineExceeded),
        (ANSWERS_TOO_FEW, InferenceFailed),
        (TOO_SMALL, BadResponse),
        (NOT_A_NUMBER, BadResponse),
        (SUM_OF_TWO, BadResponse),
    ],
    ids=["none", "too few", "too small", "nan", "sum of two"],
)
def test_a_wrong_answer_is_an_error_in_time(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], command: int, kind: type[InceptionError]
) -> None:
    """Case 13: never a prediction, never a hang, never tried again; the next good call works."""
    caller = connect(obedient)
    caller.classify(solid(1), MODEL)
    before = obedient.began(command)
    error = failure(caller, solid(command))
    assert type(error) is kind
    assert obedient.began(command) == before + 1
    assert caller.classify(solid(10), MODEL).best.index == 10


def test_a_hung_model_ends_at_the_deadline_and_holds_up_no_other(
    obedient: Any, connect: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool]
) -> None:
    """Case 18: `DeadlineExceeded` not before the deadline; meanwhile another model answers, afterwards this one too."""
    caller, before = connect(obedient), obedient.began(HANGS)
    caller.classify(solid(1), MODEL)
    caller.classify(solid(1), OTHER)
    started_s = time.monotonic()
    hung = caller.start("classify", solid(HANGS), MODEL, timeout_s=1.0)
    assert wait_until(lambda: obedient.began(HANGS) == before + 1)
    assert caller.classify(solid(11), OTHER, timeout_s=1.0).best.index == 11
    assert not hung.done()
    assert type(hung.exception(10)) is DeadlineExceeded
    assert 0.9 <= time.monotonic() - started_s < 1.5 + 2.0
    assert caller.classify(solid(12), MODEL, timeout_s=20).best.index == 12
    assert obedient.began(HANGS) == before + 1
