#!/usr/bin/env python3
"""Is a Triton server really serving? One inference per model; its own word (`/v2/health/ready`) is not believed.

A server whose model process has died still answers 200 there, for ever. This file is standard library only and imports
nothing of its package, so it also runs alone, as a container's health check:

    python probe.py --url http://127.0.0.1:8000 --model inception_v3_fp16 --model googlenet_fp16
    INCEPTION_TOKEN=... python probe.py            # every model that is served, port 8000

Exit code 0: every model answered. 1: at least one did not or was not reached in the time given, or the server could not
be reached. 2: usage.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TOTAL_S = 50.0  # less than the 60 s that docker-compose.yml gives: a probe that is killed names no model
TOKEN_HEADER = "inception-token"  # noqa: S105 - the header's name
TOKEN_VARIABLE = "INCEPTION_TOKEN"  # noqa: S105 - the variable's name
_JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_DEFAULT_PORT, _OVERLOADED = 8000, 503
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

# Triton's data types of fixed size: bytes an element, and the struct code where values are looked at.
_TYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (1, None), "UINT8": (1, None), "UINT16": (2, None), "UINT32": (4, None), "UINT64": (8, None),
    "INT8": (1, None), "INT16": (2, None), "INT32": (4, None), "INT64": (8, None),
    "FP16": (2, "e"), "FP32": (4, "f"), "FP64": (8, "d"), "BF16": (2, None),
}  # fmt: skip


class ProbeFailed(Exception):
    """A model did not answer as its own configuration says it should; `status` is the HTTP status, None without one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Probe:
    """Asks one server, over one connection at a time.

    Every call raises `ProbeFailed` within about `timeout_s`, and when the monotonic clock reads `deadline_s`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        timeout_s: float = 5.0,
        deadline_s: float = math.inf,
    ) -> None:
        self._url = url if "//" in url else f"http://{url}"
        try:
            parts = urllib.parse.urlsplit(self._url)
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
        except ValueError as error:
            raise ProbeFailed(f"{url!r} is not the address of a server: {error}") from error
        if parts.scheme != "http" or not host:
            raise ProbeFailed(f"{url!r} is not the address of a server: http://HOST:PORT was expected.")
        self._host, self._port = host, port
        self._token = token
        self._timeout_s, self._deadline_s = timeout_s, deadline_s

    def server_id(self) -> str:
        """What the server was told to call itself (`--id`)."""
        return str(self._json("GET", "/v2").get("name"))

    def has_metrics(self, metrics_url: str) -> bool:
        """Whether Triton's metrics are served at this address."""
        parts = urllib.parse.urlsplit(metrics_url)
        answer = self._ask("GET", parts.path, port=parts.port)
        return answer.status == http.client.OK and b"nv_" in answer.body

    def successes(self, metrics_url: str, model: str) -> int:
        """How many requests of a model the server has answered well since its start, by its metrics."""
        parts = urllib.parse.urlsplit(metrics_url)
        text = self._succeeded(self._ask("GET", parts.path, port=parts.port), "the metrics").decode(errors="replace")
        rows = [line for line in text.splitlines() if line.startswith("nv_inference_request_success{")]
        return sum(int(float(row.rpartition(" ")[2])) for row in rows if f'model="{model}"' in row)

    def model_config(self, model: str) -> dict[str, Any]:
        """The configuration that the server serves this model with."""
        return self._json("GET", f"{_model_path(model)}/config")

    def served_models(self) -> list[str]:
        """Names of the models that should be ready; needs the token where the repository index is behind one."""
        answer = self._ask("POST", "/v2/repository/index", b"{}")
        if answer.status == http.client.FORBIDDEN:
            raise ProbeFailed(
                f"{self._url} lists its models only to holders of its token: "
                f"name them with --model, or set {TOKEN_VARIABLE}.",
                answer.status,
            )
        rows = _parsed(self._succeeded(answer, "the list of models"))
        # A model that was never asked for has no state, one that was unloaded says so; any other should answer.
        return sorted({row["name"] for row in rows if row.get("state") and row.get("reason") != "unloaded"})

    def infer(self, model: str) -> float:
        """One real inference with an input of zeros, its answer checked; returns its time in seconds."""
        config = self.model_config(model)
        header, tensors = _request(config)
        body = header + tensors
        started_s = time.monotonic()
        answer = self._ask("POST", f"{_model_path(model)}/infer", body, {_JSON_LENGTH_HEADER: str(len(header))})
        elapsed_s = time.monotonic() - started_s
        self._succeeded(answer, f"an inference of {model}")
        try:
            _check_answer(config, answer)
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeFailed(f"{model} answered in another form than Triton's ({error!r}).") from error
        return elapsed_s

    def _json(self, method: str, path: str) -> dict[str, Any]:
        parsed = _parsed(self._succeeded(self._ask(method, path), path))
        if not isinstance(parsed, dict):
            raise ProbeFailed(f"{self._url}{path} answered something else than a JSON object: is this a Triton server?")
        return parsed

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Answer:
        timeout_s = min(self._timeout_s, self._deadline_s - time.monotonic())
        if timeout_s <= 0:
            raise ProbeFailed(f"no time was left to ask {self._url}{path}")
        # http.client obeys no proxy variable: a health check must reach this host itself.
        connection = http.client.HTTPConnection(self._host, port or self._port, timeout=timeout_s)
        sent = dict(headers or {}) | ({TOKEN_HEADER: self._token} if self._token else {})
        # The socket's time-out is for each `recv`: a server that sends a byte now and then would hold the probe.
        ends_s = time.monotonic() + timeout_s
        cut = threading.Timer(timeout_s, _cut, [connection])
        cut.daemon = True
        cut.start()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER_BYTES)
            if time.monotonic() >= ends_s:
                raise TimeoutError("cut")
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= ends_s:
                raise ProbeFailed(f"no answer from {self._url}{path} within {timeout_s:.3g} s") from error
            raise ProbeFailed(f"{self._url} cannot be reached: {error or type(error).__name__}") from error
        finally:
            cut.cancel()
            connection.close()

    def _succeeded(self, answer: Answer, what: str) -> bytes:
        if answer.status == http.client.OK:
            return answer.body
        text = answer.body[:2000].decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):  # not Triton's own error form: shown as it is
            text = json.loads(text)["error"]
        reason = " ".join(str(text).split())
        raise ProbeFailed(f"{self._url} answered {answer.status} to {what}: {reason}", answer.status)


def infer_until(probe: Probe, model: str, deadline_s: float) -> float:
    """`Probe.infer`, tried again while the server sheds load (503), until the monotonic clock reads `deadline_s`."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return probe.infer(model)
        except ProbeFailed as error:
            if error.status != _OVERLOADED or time.monotonic() + pause_s > deadline_s:
                raise
        time.sleep(pause_s)  # a back-off between two probes of a busy server
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _model_path(model: str) -> str:
    return "/v2/models/" + urllib.parse.quote(model, safe="")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ProbeFailed(f"the answer is not JSON ({error}): is this a Triton server?") from error


def _element(tensor: Mapping[str, Any], model: str) -> tuple[str, int]:
    name = str(tensor.get("data_type", tensor.get("datatype"))).removeprefix("TYPE_")
    if name not in _TYPES:
        raise ProbeFailed(f"{model}: a tensor of type {name} cannot be probed, only numbers can.")
    return name, _TYPES[name][0]


def _request(config: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """JSON header and binary tensors of a batch of one, all zeros."""
    model, inputs, tensors = config["name"], [], b""
    batch = [1] if config.get("max_batch_size", 0) > 0 else []
    for tensor in config["input"]:
        shape = batch + [int(size) for size in tensor["dims"]]
        if any(size < 1 for size in shape):
            raise ProbeFailed(f"{model}: input {tensor['name']} has no fixed shape ({shape}), so it cannot be probed.")
        datatype, element_bytes = _element(tensor, model)
        content = bytes(math.prod(shape) * element_bytes)
        parameters = {"binary_data_size": len(content)}
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": datatype, "parameters": parameters})
        tensors += content
    header = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return json.dumps(header).encode(), tensors


def _check_answer(config: Mapping[str, Any], answer: Answer) -> None:
    """Every promised output is there, of the promised type, with as many bytes as its shape says, and finite."""
    model = config["name"]
    json_length = int(answer.headers.get(_JSON_LENGTH_HEADER.lower(), len(answer.body)))
    outputs = {output["name"]: output for output in _parsed(answer.body[:json_length]).get("outputs", [])}
    position, contents = json_length, {}
    for name, output in outputs.items():
        size = output.get("parameters", {}).get("binary_data_size", 0)
        contents[name] = answer.body[position : position + size]
        position += size
    for promised in config["output"]:
        name = promised["name"]
        if name not in outputs:
            raise ProbeFailed(f"{model} answered without its output {name}.")
        datatype, element_bytes = _element(promised, model)
        shape = [int(size) for size in outputs[name]["shape"]]
        dims = [int(size) for size in promised["dims"]]
        fits = len(shape) >= len(dims) and all(d in (-1, s) for d, s in zip(dims, shape[-len(dims) :], strict=True))
        if outputs[name]["datatype"] != datatype or not fits:
            raise ProbeFailed(f"{model} answered {name} as {outputs[name]['datatype']} {shape}, not {datatype} {dims}.")
        if len(contents[name]) != math.prod(shape) * element_bytes:
            raise ProbeFailed(f"{model} answered {len(contents[name])} bytes for {name} of shape {shape}.")
        code = _TYPES[datatype][1]
        if code and not all(math.isfinite(value) for (value,) in struct.iter_unpack(f"<{code}", contents[name])):
            raise ProbeFailed(f"{model} answered {name} with values that are not finite numbers.")


def _cut(connection: http.client.HTTPConnection) -> None:
    """Let whoever waits at the connection go on with an error."""
    opened = connection.sock
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe from the command line; prints one line a model."""
    parser = argparse.ArgumentParser(description="One real inference per model of a Triton server.")
    parser.add_argument("--url", default=DEFAULT_URL, help="the server's HTTP address (default: %(default)s)")
    parser.add_argument(
        "--model", action="append", help="a model to ask; may be repeated (default: all, needs the token)"
    )
    parser.add_argument(
        "--token", default=os.environ.get(TOKEN_VARIABLE), help=f"default: the variable {TOKEN_VARIABLE}"
    )
    parser.add_argument("--timeout-s", type=float, default=5.0, help="for each answer (default: %(default)s)")
    parser.add_argument(
        "--total-timeout-s", type=float, default=DEFAULT_TOTAL_S, help="for all of them (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    deadline_s = time.monotonic() + options.total_timeout_s
    try:
        probe = Probe(options.url, options.token, options.timeout_s, deadline_s)
        models = options.model or probe.served_models()
    except ProbeFailed as error:
        sys.stderr.write(f"FAILED {error}\n")
        return 1
    if not models:
        sys.stderr.write(f"FAILED {options.url} serves no model\n")
        return 1
    return 0 if report(probe, models, options.timeout_s, deadline_s) else 1


def report(probe: Probe, models: Sequence[str], timeout_s: float, deadline_s: float) -> bool:
    """Ask each model until the monotonic clock reads `deadline_s`, print a line for each; True if all answered."""
    is_well = True
    for model in models:
        now_s = time.monotonic()
        if now_s >= deadline_s:
            sys.stderr.write(f"FAILED {model}: not reached, the models before it took all the time\n")
            is_well = False
            continue
        try:
            elapsed_s = infer_until(probe, model, min(now_s + timeout_s, deadline_s))
            sys.stdout.write(f"ok     {model}  {1000 * elapsed_s:.1f} ms\n")
        except ProbeFailed as error:
            sys.stderr.write(f"FAILED {model}: {error}\n")
            is_well = False
    return is_well


if __name__ == "__main__":
    sys.exit(main())
