"""Requests over gRPC, behind one protocol, and the one table from a library's exception to ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import tritonclient.grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from client.contract import ServedConfig, ServedTensor
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    ServerUnavailable,
    UnknownModel,
)
from client.reply import OutputTensor, Reply

T = TypeVar("T")

TOKEN_HEADER = "triton-grpc-protocol-inception-token"  # noqa: S105 - the header's name, not a token
# A config with 1000 labels is 40 KB, a reply 4 KB: what is larger is not an answer to us.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# gRPC doubles its pause between connection attempts up to two minutes; a restarted server is back in seconds.
MAX_RECONNECT_PAUSE_MS = 1_000
FIRST_RECONNECT_PAUSE_MS = 100
MAX_CLEANED_CHARACTERS = 160


@dataclass(frozen=True)
class IndexEntry:
    """One model in the server's repository: whether it is ready, and why not."""

    name: str
    is_ready: bool
    reason: str


class Transport(Protocol):
    """What the client needs of a connection. Every call ends within `timeout_s` and raises only `InceptionError`s."""

    address: str

    def index(self, timeout_s: float) -> tuple[IndexEntry, ...]:
        """Every model in the repository; `NotAllowed` where listing is restricted."""

    def is_model_ready(self, name: str, timeout_s: float) -> bool:
        """Whether a model of that name is served; False for an unknown one."""

    def config(self, name: str, timeout_s: float) -> ServedConfig:
        """What the server says of a model; `UnknownModel` where it serves none of that name."""

    def infer(self, name: str, input_name: str, batch: npt.NDArray[np.uint8], timeout_s: float) -> Reply:
        """One inference on a uint8 batch."""

    def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`."""


class GrpcTransport:
    """A `Transport` over tritonclient.grpc; safe to use from several threads.

    The connection is not encrypted: the token is readable on the wire, so beyond loopback it needs a tunnel.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address
        self._headers = None if token is None else {TOKEN_HEADER: _checked_token(token)}
        self._is_closed = False
        self._client = tritonclient.grpc.InferenceServerClient(address, channel_args=_channel_args(address))

    def index(self, timeout_s: float) -> tuple[IndexEntry, ...]:
        """See `Transport`."""
        listing = self._call(
            lambda: self._client.get_model_repository_index(headers=self._headers, client_timeout=timeout_s)
        )
        return tuple(
            IndexEntry(model.name, model.state == "READY", cleaned(model.reason or model.state))
            for model in listing.models
        )

    def is_model_ready(self, name: str, timeout_s: float) -> bool:
        """See `Transport`."""
        try:
            return bool(
                self._call(lambda: self._client.is_model_ready(name, headers=self._headers, client_timeout=timeout_s))
            )
        except UnknownModel:
            return False

    def config(self, name: str, timeout_s: float) -> ServedConfig:
        """See `Transport`."""
        # The version first: if the model is replaced between the two calls, its first reply shows another version
        # and the client reads the config again. The other order could pair a new version with an old config for good.
        metadata = self._call(
            lambda: self._client.get_model_metadata(name, headers=self._headers, client_timeout=timeout_s)
        )
        response = self._call(
            lambda: self._client.get_model_config(name, headers=self._headers, client_timeout=timeout_s)
        )
        config = response.config
        return ServedConfig(
            name=config.name,
            version=max(metadata.versions, key=_version_number, default=""),
            max_batch_size=config.max_batch_size,
            inputs=tuple(_served_tensor(each) for each in config.input),
            outputs=tuple(_served_tensor(each) for each in config.output),
            parameters={key: value.string_value for key, value in config.parameters.items()},
        )

    def infer(self, name: str, input_name: str, batch: npt.NDArray[np.uint8], timeout_s: float) -> Reply:
        """See `Transport`. The server is told the time left, so that it drops the request from its queue after it."""
        tensor = tritonclient.grpc.InferInput(input_name, batch.shape, "UINT8").set_data_from_numpy(batch)
        response = self._call(
            lambda: self._client.infer(
                name, [tensor], headers=self._headers, client_timeout=timeout_s, timeout=int(timeout_s * 1e6)
            )
        ).get_response()
        data = response.raw_output_contents
        if len(data) != len(response.outputs):
            raise BadResponse(
                f"{name} at {self.address} answered {len(response.outputs)} outputs with {len(data)} tensors of data, "
                "expected one each"
            )
        return Reply(
            model=response.model_name,
            version=response.model_version,
            outputs=tuple(
                OutputTensor(output.name, output.datatype, tuple(output.shape), content)
                for output, content in zip(response.outputs, data, strict=True)
            ),
        )

    def close(self) -> None:
        """See `Transport`."""
        self._is_closed = True
        self._client.close()

    def _call(self, send: Callable[[], Any]) -> Any:
        if self._is_closed:
            raise _closed(self.address)
        try:
            return send()
        except InferenceServerException as error:
            if self._is_closed:
                raise _closed(self.address) from error
            raise error_from_exception(error, self.address) from error
        except ValueError as error:
            # gRPC says ValueError("Cannot invoke RPC on closed channel!") to a call that `close` overtook.
            if self._is_closed:
                raise _closed(self.address) from error
            raise


# Every gRPC status. UNAVAILABLE is several things at once: the texts in `_UNAVAILABLE_TEXTS` are looked for first.
ERROR_BY_STATUS: dict[str, type[InceptionError]] = {
    "StatusCode.OK": BadResponse,  # an error that says it is none
    "StatusCode.CANCELLED": ServerUnavailable,  # by the server, as it shuts down
    "StatusCode.UNKNOWN": InferenceFailed,
    "StatusCode.INVALID_ARGUMENT": InvalidRequest,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.NOT_FOUND": UnknownModel,
    "StatusCode.ALREADY_EXISTS": BadResponse,  # nothing the client asks for can exist already
    "StatusCode.PERMISSION_DENIED": NotAllowed,
    "StatusCode.RESOURCE_EXHAUSTED": Overloaded,
    "StatusCode.FAILED_PRECONDITION": InferenceFailed,
    "StatusCode.ABORTED": InferenceFailed,
    "StatusCode.OUT_OF_RANGE": InvalidRequest,
    "StatusCode.UNIMPLEMENTED": BadResponse,  # a gRPC server, but not Triton
    "StatusCode.INTERNAL": InferenceFailed,
    "StatusCode.UNAVAILABLE": ServerUnavailable,
    "StatusCode.DATA_LOSS": BadResponse,
    "StatusCode.UNAUTHENTICATED": NotAllowed,
}
_UNAVAILABLE_TEXTS: tuple[tuple[str, type[InceptionError]], ...] = (
    ("restricted", NotAllowed),  # Triton 2.51 answers a missing token this way
    ("exceeds maximum queue size", Overloaded),
    ("request timeout expired", Overloaded),
)
_WHAT_HAPPENED: dict[type[InceptionError], str] = {
    BadResponse: "{address} gave an answer that is not Triton's: {text}; is this the gRPC address of a Triton server?",
    ServerUnavailable: "no server answers at {address}: {text}; start it, or give its gRPC address (usually port 8001)",
    DeadlineExceeded: "{address} did not answer in time: {text}; raise timeout_s, or send less at once",
    InvalidRequest: "{address} refused the request: {text}; the same request will be refused again",
    UnknownModel: "{address} does not serve that model: {text}",
    NotAllowed: "{address} restricts this call: {text}; give the right token",
    Overloaded: "{address} is overloaded: {text}; try again later, or send less at once",
    InferenceFailed: "the model failed at {address}: {text}; the server's log says why",
}


def error_from_exception(error: InferenceServerException, address: str) -> InceptionError:
    """Our error for one of tritonclient's. Without a status the library itself refused what it was given."""
    status, text = error.status(), error.message() or ""
    kind = InvalidRequest if status is None else ERROR_BY_STATUS.get(status, BadResponse)
    if kind is ServerUnavailable:
        lowered = text.lower()
        kind = next((special for part, special in _UNAVAILABLE_TEXTS if part in lowered), kind)
    return kind(_WHAT_HAPPENED[kind].format(address=address, text=cleaned(text)))


_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.+@-]+){2,}[/\\]?")


def cleaned(text: str) -> str:
    """A server's first line, short, without file paths and control characters: the rest belongs in its own log."""
    first_line = text.strip().partition("\n")[0]
    printable = "".join(each if each.isprintable() else " " for each in first_line)
    without_paths = _PATH.sub("(path)", printable).strip()
    if len(without_paths) > MAX_CLEANED_CHARACTERS:
        return f"{without_paths[:MAX_CLEANED_CHARACTERS]}..."
    return without_paths or "no reason given"


_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def address_from_url(url: str) -> str:
    """The "host:port" of `host:port` or `grpc://host:port`; `InvalidRequest` for anything else."""
    address = url.removeprefix("grpc://").removesuffix("/") if isinstance(url, str) else ""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise InvalidRequest(
            f"the address {url!r} is not understood; expected host:port or grpc://host:port, Triton's gRPC port is "
            "usually 8001 (http:// is another protocol on another port)"
        )
    return address


def _checked_token(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or token != token.strip():
        raise InvalidRequest(
            "the token holds characters that a gRPC header cannot carry, or is empty; expected printable ASCII "
            "without spaces around it"
        )
    return token


def _channel_args(address: str) -> list[tuple[str, int]]:
    args = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_PAUSE_MS),
        ("grpc.min_reconnect_backoff_ms", FIRST_RECONNECT_PAUSE_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_PAUSE_MS),
        # Clients of one process would otherwise share one connection, and its back-off.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.rpartition(":")[0] in {"localhost", "127.0.0.1", "[::1]"}:
        args.append(("grpc.enable_http_proxy", 0))  # a proxy has another loopback
    return args


def _served_tensor(tensor: Any) -> ServedTensor:
    return ServedTensor(tensor.name, model_config_pb2.DataType.Name(tensor.data_type), tuple(tensor.dims))


def _version_number(version: str) -> int:
    return int(version) if version.isdecimal() else -1


def _closed(address: str) -> ClientClosed:
    return ClientClosed(f"the client of {address} was closed; make a new InceptionClient")
