"""Requests over gRPC, behind one protocol, and the one table from a library's exception to ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

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

TOKEN_HEADER = "triton-grpc-protocol-inception-token"  # noqa: S105 - the header's name, not a token
# A config with 1000 labels is 40 KB, a reply 4 KB: what is larger is not an answer to us.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# gRPC doubles its pause between connection attempts up to two minutes; a restarted server is back in seconds.
MAX_RECONNECT_PAUSE_MS = 1_000
FIRST_RECONNECT_PAUSE_MS = 100
MAX_CLEANED_CHARACTERS = 160
# Field 7 of ModelInferRequest, raw_input_contents, as bytes of a stated length.
_RAW_INPUT_TAG = bytes([7 << 3 | 2])


@dataclass(frozen=True)
class IndexEntry:
    """One model in the server's repository: whether it is ready, and why not; `is_unloaded`: nobody wants it to be."""

    name: str
    is_ready: bool
    reason: str
    is_unloaded: bool = False


class Transport(Protocol):
    """What the client needs of a connection. Every call ends within `timeout_s` and raises only `InceptionError`s."""

    address: str

    def index(self, timeout_s: float) -> tuple[IndexEntry, ...]:
        """Every model in the repository, loaded or not; `NotAllowed` where listing is restricted."""

    def is_model_ready(self, name: str, timeout_s: float) -> bool:
        """Whether a model of that name is served; False for an unknown one."""

    def config(self, name: str, timeout_s: float) -> ServedConfig:
        """What the server says of a model; `UnknownModel` where it serves none of that name."""

    def infer(self, name: str, input_name: str, batch: npt.NDArray[np.uint8], timeout_s: float) -> Reply:
        """One inference on a uint8 batch."""

    def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`."""


class GrpcTransport:
    """A `Transport` over gRPC, with Triton's own protocol messages; safe to use from several threads.

    tritonclient's `infer` is not used: it copies the pixels four times on the way out, which doubled the time of a call
    to a model that answers at once. The connection is not encrypted: the token is readable on the wire, so beyond
    loopback it needs a tunnel.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address
        self._metadata = () if token is None else ((TOKEN_HEADER, _checked_token(token)),)
        self._is_closed = False
        self._channel = grpc.insecure_channel(address, options=_channel_args(address))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # The stub's own `ModelInfer` would serialize the pixels once more.
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    def index(self, timeout_s: float) -> tuple[IndexEntry, ...]:
        """See `Transport`."""
        listing = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), timeout_s)
        return tuple(_index_entry(model) for model in listing.models)

    def is_model_ready(self, name: str, timeout_s: float) -> bool:
        """See `Transport`."""
        try:
            return bool(self._call(self._stub.ModelReady, service_pb2.ModelReadyRequest(name=name), timeout_s).ready)
        except UnknownModel:
            return False

    def config(self, name: str, timeout_s: float) -> ServedConfig:
        """See `Transport`."""
        # The version first: if the model is replaced between the two calls, its first reply shows another version
        # and the client reads the config again. The other order could pair a new version with an old config for good.
        metadata = self._call(self._stub.ModelMetadata, service_pb2.ModelMetadataRequest(name=name), timeout_s)
        config = self._call(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name=name), timeout_s).config
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
        header = service_pb2.ModelInferRequest(model_name=name)
        header.parameters["timeout"].int64_param = int(timeout_s * 1e6)
        header.inputs.add(name=input_name, datatype="UINT8", shape=batch.shape)
        response = self._call(self._infer, with_raw_input(header, batch), timeout_s)
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
        self._channel.close()

    def _call(self, send: Callable[..., Any], request: object, timeout_s: float) -> Any:
        if self._is_closed:
            raise _closed(self.address)
        try:
            return send(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            if self._is_closed:
                raise _closed(self.address) from error
            raise error_from_status(error.code(), error.details() or "", self.address) from error
        except ValueError as error:
            # gRPC says ValueError("Cannot invoke RPC on closed channel!") to a call that `close` overtook.
            if self._is_closed:
                raise _closed(self.address) from error
            raise


def with_raw_input(header: service_pb2.ModelInferRequest, batch: npt.NDArray[np.uint8]) -> bytes:
    """The request on the wire: `header`, then `batch` as its one `raw_input_contents`, copied once.

    A protobuf message may be written in parts, one behind the other; this part is the field's tag, its length as a
    varint, its bytes.
    """
    pixels = np.ascontiguousarray(batch)
    return b"".join((header.SerializeToString(), _RAW_INPUT_TAG, _varint(pixels.nbytes), pixels.data.cast("B")))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have their top bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# Every gRPC status. UNAVAILABLE is several things at once: the texts in `_UNAVAILABLE_TEXTS` are looked for first.
ERROR_BY_STATUS: dict[grpc.StatusCode, type[InceptionError]] = {
    grpc.StatusCode.OK: BadResponse,  # an error that says it is none
    grpc.StatusCode.CANCELLED: ServerUnavailable,  # by the server, as it shuts down
    grpc.StatusCode.UNKNOWN: InferenceFailed,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.ALREADY_EXISTS: BadResponse,  # nothing the client asks for can exist already
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: InferenceFailed,
    grpc.StatusCode.ABORTED: InferenceFailed,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: BadResponse,  # a gRPC server, but not Triton
    grpc.StatusCode.INTERNAL: InferenceFailed,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DATA_LOSS: BadResponse,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
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


def error_from_status(status: grpc.StatusCode, text: str, address: str) -> InceptionError:
    """Our error for a call that ended with `status` and the server's `text`."""
    kind = ERROR_BY_STATUS[status]
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


def _index_entry(model: Any) -> IndexEntry:
    # In explicit mode Triton lists a model that was never loaded without a state, and one that was taken off as
    # UNAVAILABLE with this very reason; a model that failed to load is UNAVAILABLE with the reason of the failure.
    is_unloaded = not model.state or (model.state == "UNAVAILABLE" and model.reason == "unloaded")
    return IndexEntry(model.name, model.state == "READY", cleaned(model.reason or model.state), is_unloaded)


def _served_tensor(tensor: Any) -> ServedTensor:
    return ServedTensor(tensor.name, model_config_pb2.DataType.Name(tensor.data_type), tuple(tensor.dims))


def _version_number(version: str) -> int:
    return int(version) if version.isdecimal() else -1


def _closed(address: str) -> ClientClosed:
    return ClientClosed(f"the client of {address} was closed; make a new InceptionClient")
