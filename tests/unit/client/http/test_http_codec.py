"""Operations as requests of Triton's HTTP API, and every answer either read or refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from client.errors import (
    BadResponse,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    QueueFull,
    RegionLost,
    ServerUnavailable,
    UnknownModel,
)
from client.http_codec import JSON_LENGTH_HEADER, answer, http_call
from client.operations import (
    AskReady,
    Infer,
    ListModels,
    ListRegions,
    Operation,
    ReadConfig,
    ReadStatistics,
    ReadVersion,
    Region,
    RegisterRegion,
    Slot,
    UnregisterRegion,
)

BATCH = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
INFER = Infer("m", "image", BATCH)
EVERY = (
    ListModels(),
    AskReady("m"),
    ReadVersion("m"),
    ReadConfig("m"),
    ReadStatistics(),
    INFER,
    RegisterRegion(Region("r", "/key", 4096)),
    UnregisterRegion("r"),
    ListRegions(),
)
OUTPUT = {"name": "p", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
REPLY = {"model_name": "m", "model_version": "1", "outputs": [OUTPUT]}
CONFIG = {"name": "m", "max_batch_size": 8, "input": [], "output": [], "parameters": {}}
PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
STATISTICS = {
    "name": "m",
    "version": "1",
    "inference_count": 1,
    "execution_count": 1,
    "inference_stats": {phase: {"count": 1, "ns": 1} for phase in PHASES},
}
SOUND: list[tuple[Operation[Any], Any]] = [
    (ListModels(), [{"name": "m", "state": "READY", "reason": ""}]),
    (ReadVersion("m"), {"versions": ["1"]}),
    (ReadConfig("m"), CONFIG | {"input": [{"name": "i", "data_type": "TYPE_UINT8", "dims": [1]}]}),
    (ReadConfig("m"), CONFIG | {"parameters": {"k": {"string_value": "v"}}}),
    (ReadStatistics(), {"model_stats": [STATISTICS]}),
    (INFER, REPLY),
    (ListRegions(), [{"name": "r", "key": "/k", "offset": 0, "byte_size": 1}]),
]
TEMPERED = [None, True, -1.5, math.inf, 2**70, "x", "9" * 5000, [], {}, [[]], [None], {"": 0}, [{"name": 1}]]


def read(operation: Operation[Any], content: Any, *, data: bytes = b"12345678", status: int = 200) -> Any:
    """The answer in `content` as JSON; an inference's is followed by `data`."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {JSON_LENGTH_HEADER: str(len(body))}
    if isinstance(operation, Infer) and status == 200:
        body += data
    return answer(operation, status, headers, body, "http://host:8000")


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: type(operation).__name__)
def test_every_operation_is_a_request_of_tritons_api(operation: Operation[Any]) -> None:
    """Names stand in the path, and whatever a name holds cannot lead out of its place."""
    call = http_call(operation, 5.0)
    assert call.method in {"GET", "POST"}
    assert call.path.startswith("/v2/")
    assert bool(call.body) == (call.method == "POST")


@pytest.mark.parametrize("name", ["../../x", "a b", "a?b#c", "ä", "a\r\nHost: evil", "%2e", "a/b"])
@pytest.mark.parametrize("kind", [AskReady, ReadVersion, ReadConfig, UnregisterRegion])
def test_a_name_cannot_leave_its_place_in_the_path(kind: type[Any], name: str) -> None:
    """No slash, question mark or line end of a name is one in the request."""
    usual, odd = http_call(kind("m"), 1.0).path, http_call(kind(name), 1.0).path
    assert odd.count("/") == usual.count("/")
    assert not set(odd) & set(" ?#\r\n")
    assert odd.isascii()


def test_an_inference_is_json_and_the_pixels_as_they_lie() -> None:
    """The pixels are not copied, the length of the JSON is in the header, the time left is told in microseconds."""
    call = http_call(INFER, 2.5)
    header, pixels = call.body
    content = json.loads(header)
    assert call.headers[JSON_LENGTH_HEADER] == str(len(header))
    assert np.shares_memory(np.frombuffer(pixels, np.uint8), BATCH)
    assert content["inputs"][0] == {
        "name": "image",
        "datatype": "UINT8",
        "shape": [2, 3, 3, 3],
        "parameters": {"binary_data_size": 54},
    }
    assert content["parameters"] == {"timeout": 2_500_000, "binary_data_output": True}


def test_pixels_that_do_not_lie_in_order_are_put_in_order() -> None:
    """A mirrored view is sent as it looks."""
    pixels = http_call(Infer("m", "image", BATCH[:, :, ::-1]), 1.0).body[1]
    assert bytes(pixels) == BATCH[:, :, ::-1].tobytes()


def test_no_time_left_is_not_told_as_the_servers_own_limit() -> None:
    """0 microseconds would mean that."""
    assert json.loads(http_call(INFER, 1e-9).body[0])["parameters"]["timeout"] == 1


def test_a_slot_replaces_the_pixels() -> None:
    """With shared memory the request is JSON alone, and no header splits it."""
    call = http_call(Infer("m", "image", BATCH, Slot("r", 4096, 54)), 1.0)
    assert JSON_LENGTH_HEADER not in call.headers
    assert json.loads(b"".join(call.body))["inputs"][0]["parameters"] == {
        "shared_memory_region": "r",
        "shared_memory_offset": 4096,
        "shared_memory_byte_size": 54,
    }


def test_long_numbers_may_come_as_texts() -> None:
    """JSON made from protobuf messages writes int64 so."""
    tensor = {"name": "i", "data_type": "TYPE_UINT8", "dims": ["224", 224, "-1"]}
    config = read(ReadConfig("m"), CONFIG | {"input": [tensor]})
    assert config.inputs[0].dims == (224, 224, -1)


def test_an_inference_is_read_with_its_data() -> None:
    """Each output has as many bytes as the JSON says, in its order."""
    second = OUTPUT | {"name": "q", "parameters": {"binary_data_size": 2}}
    reply = read(INFER, REPLY | {"outputs": [OUTPUT, second]}, data=b"12345678ab")
    assert [(each.name, each.data) for each in reply.outputs] == [("p", b"12345678"), ("q", b"ab")]


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_lengths_that_do_not_add_up_are_refused(data: bytes) -> None:
    """Neither are bytes missing, nor is one left over."""
    with pytest.raises(BadResponse, match="host:8000"):
        read(INFER, REPLY, data=data)


@pytest.mark.parametrize("length", [None, "", "0", "-1", "x", "9" * 20, "100000"])
def test_a_json_length_that_cannot_be_is_refused(length: str | None) -> None:
    """Without the header there is no telling where the JSON ends."""
    headers = {} if length is None else {JSON_LENGTH_HEADER: length}
    with pytest.raises(BadResponse):
        answer(INFER, 200, headers, json.dumps(REPLY).encode() + b"12345678", "a:1")


GARBAGE = [b"", b"null", b"3", b"\xff\xfe\x00", b"<html>", b"[" * 200_000, b'{"a":' * 200_000, b"9" * 10_000, b"{}}"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:8]))
@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: type(operation).__name__)
def test_garbage_is_refused_by_name(operation: Operation[Any], garbage: bytes) -> None:
    """Only `BadResponse`, whatever comes; the three that have no answer may be told nothing."""
    has_no_answer = isinstance(operation, AskReady | RegisterRegion | UnregisterRegion)
    if has_no_answer and not garbage:
        assert read(operation, garbage) in {None, True}
    else:
        with pytest.raises(BadResponse):
            read(operation, garbage)


def variations(value: Any) -> list[Any]:
    """`value` with every part of it, in turn, left out or replaced by what does not belong there."""
    found: list[Any] = list(TEMPERED)
    if isinstance(value, dict):
        for key, part in value.items():
            found.append({other: kept for other, kept in value.items() if other != key})
            found.extend(value | {key: changed} for changed in variations(part))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            found.extend([*value[:position], changed, *value[position + 1 :]] for changed in variations(part))
    return found


@pytest.mark.parametrize(("operation", "content"), SOUND, ids=lambda value: type(value).__name__)
def test_any_part_may_be_wrong_and_only_our_errors_come_of_it(operation: Operation[Any], content: Any) -> None:
    """Missing keys, wrong types, numbers beyond 64 bits: an answer of the promised types, or `BadResponse`."""
    read(operation, content)
    refused = 0
    for changed in variations(content):
        try:
            read(operation, changed)
        except BadResponse:
            refused += 1
    assert refused > len(TEMPERED) // 2


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        # What tritonserver 2.51 says, see http_codec.
        (404, "Request for unknown model: 'nope' is not found", UnknownModel),
        (404, "Not Found", BadResponse),
        (404, "Unable to find shared memory region: 'zz'", RegionLost),
        (400, "shared memory region 'r1' already in manager", InvalidRequest),
        (500, "Unable to open shared memory region: '/nokey'", InvalidRequest),
        (400, "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'm'", InvalidRequest),
        (500, "Failed to process the request(s) for model 'm_0_0', message: RuntimeError: boom", InferenceFailed),
        (500, "RuntimeError: restricted; exceeds maximum queue size", InferenceFailed),
        (503, "[request id: <id_unknown>] Exceeds maximum queue size", QueueFull),
        (503, "Request timeout expired", Overloaded),
        (403, "This API is restricted, expecting header 'inception-token'", NotAllowed),
        (405, "Method Not Allowed", BadResponse),
        (299, "x", BadResponse),
    ],
)
def test_a_status_and_its_reason_become_one_of_our_errors(status: int, text: str, kind: type[InceptionError]) -> None:
    """The kind is exact: `QueueFull` is tried again, `Overloaded` is not."""
    with pytest.raises(InceptionError) as caught:
        read(INFER, {"error": text}, status=status)
    assert type(caught.value) is kind
    assert "host:8000" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, BadResponse),
        (400, BadResponse),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, BadResponse),
        (413, InvalidRequest),
        (429, Overloaded),
        (500, BadResponse),
        (502, ServerUnavailable),
        (503, ServerUnavailable),
        (504, DeadlineExceeded),
        (799, BadResponse),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html><h1>nginx</h1></html>", b'{"error": 3}', b"\xff"])
def test_what_a_proxy_says_is_told_from_what_another_server_says(
    status: int, kind: type[InceptionError], body: bytes
) -> None:
    """Without Triton's {"error": ...}, only what a proxy says for itself is taken at its word."""
    with pytest.raises(InceptionError) as caught:
        read(INFER, body, status=status)
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("body", [b"", b'{"error":"Model version not ready"}'])
def test_a_model_that_is_not_there_is_not_ready(body: bytes) -> None:
    """2.51 says so with status 400, of an unknown model as of one that is loading."""
    assert answer(AskReady("nope"), 400, {}, body, "a:1") is False
