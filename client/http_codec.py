"""Operations as requests of Triton's HTTP API, and its answers as ours; no connection here.

Bodies of requests and replies are JSON, but for the tensors of an inference: those follow the JSON as they are ("binary
tensor data extension"), and a header says where it ends. What a reply holds is taken for nobody's word until it is
looked at: every value is checked for its type, and what does not fit is `BadResponse`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NoReturn, cast
from urllib.parse import quote

import numpy as np

from client.contract import ServedConfig, ServedTensor
from client.errors import InceptionError
from client.mapping import error_from_http, not_triton
from client.operations import (
    AskReady,
    IndexEntry,
    Infer,
    ListModels,
    ListRegions,
    Operation,
    ReadConfig,
    ReadStatistics,
    ReadVersion,
    Region,
    RegisterRegion,
    UnregisterRegion,
)
from client.reply import OutputTensor, Reply
from client.results import ModelStatistics, Phase
from client.triton import highest_version, index_entry

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_JSON_TYPE = "application/json"
_BINARY_TYPE = "application/octet-stream"
# A proxy may say these itself; with any other status that is not 200, Triton gives its reason as {"error": "..."}.
_PROXY_STATUSES = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True)
class HttpCall:
    """One request: `path` from the root of Triton's API on, `body` in parts that follow one another."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: tuple[bytes | memoryview, ...] = ()


@dataclass(frozen=True)
class HttpReply:
    """One answer with status 200: what `_answer` functions read. The names of `headers` match in any case."""

    headers: Mapping[str, str]
    body: bytes


def http_call(operation: Operation[Any], timeout_s: float) -> HttpCall:
    """How `operation` travels."""
    return _CALLS[type(operation)](operation, timeout_s)


def answer(operation: Operation[Any], status: int, headers: Mapping[str, str], body: bytes, address: str) -> Any:
    """What the server answered; raises what its status means, and `BadResponse` for what is not Triton's.

    The names in `headers` must match in any case, as those of urllib3's and aiohttp's mappings do.
    """
    try:
        if status == HTTPStatus.OK:
            return _ANSWERS[type(operation)](HttpReply(headers, body))
        # 2.51 says 400 "Model version not ready" of a model that it does not have, too; others say it without words.
        if isinstance(operation, AskReady) and status == HTTPStatus.BAD_REQUEST and (not body or _reason(body)):
            return False
    except _Unreadable as error:
        raise not_triton(f"{type(operation).__name__} was answered with {error}", address) from error
    raise _error(status, body, address)


def _error(status: int, body: bytes, address: str) -> InceptionError:
    """What a status other than 200 means.

    2.51 answers: unknown model 404 "Request for unknown model: ..."; unknown path 404 "Not Found"; queue full 503
    "Exceeds maximum queue size"; too long in the queue 503 "Request timeout expired"; missing or wrong token 403;
    a request of the wrong shape 400; JSON that it cannot read, and a model that failed, 500.
    """
    reason = _reason(body)
    if reason is None:
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "no status of HTTP"
        if status not in _PROXY_STATUSES:
            return not_triton(f"HTTP status {status} ({phrase}) without a reason of Triton's", address)
        reason = f"HTTP status {status} ({phrase})"
    return error_from_http(status, reason, address)


def _reason(body: bytes) -> str | None:
    """The text of Triton's {"error": text}; None where there is none."""
    try:
        return _text(_object(_json(body)), "error")
    except _Unreadable:
        return None


# Requests. Triton takes what stands in the path as it is: it does not decode "%20". Names of this project need no
# encoding; any other finds nothing, which is an answer, and cannot leave its place in the path.


def _path(*parts: str) -> str:
    return "/".join(("", "v2", *(quote(part, safe="") for part in parts)))


def _json_call(path: str, content: Any) -> HttpCall:
    return HttpCall("POST", path, {"Content-Type": _JSON_TYPE}, (_dumped(content),))


def _dumped(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def infer_call(operation: Infer, timeout_s: float) -> HttpCall:
    """The request. The server is told the time left, so that it drops the request from its queue after it.

    The pixels are not copied, unless they do not lie one behind the other.
    """
    batch, slot = operation.batch, operation.slot
    if slot is None:
        parameters: dict[str, Any] = {"binary_data_size": batch.nbytes}
    else:
        parameters = {
            "shared_memory_region": slot.name,
            "shared_memory_offset": slot.offset,
            "shared_memory_byte_size": slot.byte_size,
        }
    tensor = {"name": operation.input_name, "datatype": "UINT8", "shape": batch.shape, "parameters": parameters}
    # 0 would mean the server's own limit.
    timeout_us = max(1, int(timeout_s * 1e6))
    header = _dumped({"inputs": [tensor], "parameters": {"timeout": timeout_us, "binary_data_output": True}})
    path = _path("models", operation.name, "infer")
    if slot is not None:
        return HttpCall("POST", path, {"Content-Type": _JSON_TYPE}, (header,))
    headers = {"Content-Type": _BINARY_TYPE, JSON_LENGTH_HEADER: str(len(header))}
    return HttpCall("POST", path, headers, (header, np.ascontiguousarray(batch).data.cast("B")))


def _register_call(operation: RegisterRegion, _timeout_s: float) -> HttpCall:
    region = operation.region
    content = {"key": region.key, "offset": 0, "byte_size": region.byte_size}
    return _json_call(_path("systemsharedmemory", "region", region.name, "register"), content)


_CALLS: dict[type[Operation[Any]], Callable[[Any, float], HttpCall]] = {
    ListModels: lambda _operation, _timeout_s: _json_call(_path("repository", "index"), {}),
    AskReady: lambda operation, _timeout_s: HttpCall("GET", _path("models", operation.name, "ready")),
    ReadVersion: lambda operation, _timeout_s: HttpCall("GET", _path("models", operation.name)),
    ReadConfig: lambda operation, _timeout_s: HttpCall("GET", _path("models", operation.name, "config")),
    ReadStatistics: lambda _operation, _timeout_s: HttpCall("GET", _path("models", "stats")),
    Infer: infer_call,
    RegisterRegion: _register_call,
    UnregisterRegion: lambda operation, _timeout_s: _json_call(
        _path("systemsharedmemory", "region", operation.name, "unregister"), {}
    ),
    ListRegions: lambda _operation, _timeout_s: HttpCall("GET", _path("systemsharedmemory", "status")),
}


# Answers.


class _Unreadable(Exception):
    """The reply is not what Triton answers; the text says what it is instead."""


def _unreadable(what: str, cause: Exception | None = None) -> NoReturn:
    raise _Unreadable(what) from cause


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # bytes that are no text are a ValueError, too
        _unreadable("what is not JSON", error)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else _unreadable("JSON that is no object where one belongs")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [_object(each) for each in value] if isinstance(value, list) else _unreadable("JSON without a list")


def _text(content: dict[str, Any], key: str, default: str | None = None) -> str:
    value = content.get(key, default)
    return value if isinstance(value, str) else _unreadable(f"JSON without a text for {key!r}")


def _integer(value: Any, key: str) -> int:
    """A whole number of at most 64 bits; JSON made from protobuf messages has the long ones as texts."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is int and abs(value) <= _MAX_INT64:
        return value
    return _unreadable(f"JSON without a whole number for {key!r}")


def _integers(content: dict[str, Any], key: str) -> tuple[int, ...]:
    values = content.get(key)
    if not isinstance(values, list):
        _unreadable(f"JSON without a list for {key!r}")
    return tuple(_integer(each, key) for each in values)


def _nothing(reply: HttpReply) -> None:
    """2.51 sends no body; a JSON object would be no surprise, a web page is from another server."""
    if reply.body:
        _object(_json(reply.body))


def _is_ready(reply: HttpReply) -> bool:
    _nothing(reply)
    return True


def _index(reply: HttpReply) -> tuple[IndexEntry, ...]:
    return tuple(
        index_entry(_text(each, "name"), _text(each, "state", ""), _text(each, "reason", ""))
        for each in _objects(_json(reply.body))
    )


def _version(reply: HttpReply) -> str:
    versions = _object(_json(reply.body)).get("versions")
    if not isinstance(versions, list) or not all(isinstance(version, str) for version in versions):
        _unreadable("JSON without texts for 'versions'")
    try:
        return highest_version(cast("Sequence[str]", versions))
    except ValueError as error:
        _unreadable("a version of thousands of digits", error)


def _config(reply: HttpReply) -> ServedConfig:
    config = _object(_json(reply.body))
    return ServedConfig(
        name=_text(config, "name"),
        version="",
        max_batch_size=_integer(config.get("max_batch_size"), "max_batch_size"),
        inputs=tuple(_served_tensor(each) for each in _objects(config.get("input"))),
        outputs=tuple(_served_tensor(each) for each in _objects(config.get("output"))),
        parameters={
            key: _text(_object(value), "string_value") for key, value in _object(config.get("parameters", {})).items()
        },
    )


def _served_tensor(tensor: dict[str, Any]) -> ServedTensor:
    return ServedTensor(_text(tensor, "name"), _text(tensor, "data_type"), _integers(tensor, "dims"))


def _statistics(reply: HttpReply) -> tuple[ModelStatistics, ...]:
    return tuple(_model_statistics(each) for each in _objects(_object(_json(reply.body)).get("model_stats")))


def _model_statistics(model: dict[str, Any]) -> ModelStatistics:
    durations = _object(model.get("inference_stats"))

    def phase(key: str) -> Phase:
        duration = _object(durations.get(key))
        return Phase(_integer(duration.get("count"), "count"), _integer(duration.get("ns"), "ns") / 1e6)

    return ModelStatistics(
        served_name=_text(model, "name"),
        version=_text(model, "version"),
        images=_integer(model.get("inference_count"), "inference_count"),
        executions=_integer(model.get("execution_count"), "execution_count"),
        success=phase("success"),
        failure=phase("fail"),
        queue=phase("queue"),
        compute_input=phase("compute_input"),
        compute_infer=phase("compute_infer"),
        compute_output=phase("compute_output"),
    )


def _regions(reply: HttpReply) -> tuple[Region, ...]:
    return tuple(
        Region(_text(each, "name"), _text(each, "key"), _integer(each.get("byte_size"), "byte_size"))
        for each in _objects(_json(reply.body))
    )


def _reply(reply: HttpReply) -> Reply:
    """The JSON, then the data of each output in the order and with the sizes that it says."""
    length = _integer(reply.headers.get(JSON_LENGTH_HEADER), JSON_LENGTH_HEADER)
    if not 0 < length <= len(reply.body):
        _unreadable(f"{len(reply.body)} bytes, {length} of them JSON")
    content = _object(_json(reply.body[:length]))
    outputs = []
    start = length
    for output in _objects(content.get("outputs")):
        size = _integer(_object(output.get("parameters")).get("binary_data_size"), "binary_data_size")
        if not 0 <= size <= len(reply.body) - start:
            _unreadable(f"an output of {size} bytes, with {len(reply.body) - start} left")
        data = reply.body[start : start + size]
        outputs.append(OutputTensor(_text(output, "name"), _text(output, "datatype"), _integers(output, "shape"), data))
        start += size
    if start != len(reply.body):
        _unreadable(f"{len(reply.body) - start} bytes that are no output's")
    return Reply(_text(content, "model_name"), _text(content, "model_version"), tuple(outputs))


_ANSWERS: dict[type[Operation[Any]], Callable[[HttpReply], Any]] = {
    ListModels: _index,
    AskReady: _is_ready,
    ReadVersion: _version,
    ReadConfig: _config,
    ReadStatistics: _statistics,
    Infer: _reply,
    RegisterRegion: _nothing,
    UnregisterRegion: _nothing,
    ListRegions: _regions,
}
