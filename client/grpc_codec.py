"""Operations as Triton's gRPC messages, and its replies as answers; no connection here.

tritonclient's `infer` is not used: it copies the pixels four times on the way out, which doubled the time of a call to
a model that answers at once. Its generated protobuf messages are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

from client.connection import Connection
from client.contract import ServedConfig, ServedTensor
from client.mapping import not_triton
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
from client.triton import GRPC_TOKEN_HEADER, highest_version, index_entry

_SERVICE = "/inference.GRPCInferenceService/"
# Field 7 of ModelInferRequest, raw_input_contents, as bytes of a stated length.
_RAW_INPUT_TAG = bytes([7 << 3 | 2])


@dataclass(frozen=True)
class GrpcCall:
    """How one kind of operation travels: `path` of the method, its request as bytes, the answer from the reply."""

    path: str
    request: Callable[[Any, float], bytes]
    reply: Any
    answer: Callable[[Any], Any]

    def decode(self, data: bytes, address: str) -> Any:
        """The answer in the bytes of a reply; `BadResponse` for what is not Triton's."""
        try:
            return self.answer(self.reply.FromString(data))
        except (DecodeError, UnicodeDecodeError, ValueError) as error:
            raise not_triton(
                f"{self.path.rpartition('/')[2]} was answered with what cannot be read", address
            ) from error


def grpc_call(operation: Operation[Any]) -> GrpcCall:
    """How `operation` travels."""
    return _CALLS[type(operation)]


def metadata_of(connection: Connection) -> tuple[tuple[str, str], ...]:
    """What is sent with every call: the user's headers, and the token in the header that opens what is restricted."""
    token = () if connection.token is None else ((GRPC_TOKEN_HEADER, connection.token),)
    return (*connection.headers.items(), *token)


def infer_request(operation: Infer, timeout_s: float) -> bytes:
    """The request on the wire. The server is told the time left, so that it drops the request from its queue after it.

    The pixels are copied once: a protobuf message may be written in parts, one behind the other; the last part is the
    tag of `raw_input_contents`, its length as a varint, its bytes.
    """
    header = service_pb2.ModelInferRequest(model_name=operation.name)
    header.parameters["timeout"].int64_param = int(timeout_s * 1e6)
    tensor = header.inputs.add(name=operation.input_name, datatype="UINT8", shape=operation.batch.shape)
    slot = operation.slot
    if slot is not None:
        tensor.parameters["shared_memory_region"].string_param = slot.name
        tensor.parameters["shared_memory_offset"].int64_param = slot.offset
        tensor.parameters["shared_memory_byte_size"].int64_param = slot.byte_size
        return bytes(header.SerializeToString())
    return with_raw_input(header, operation.batch)


def with_raw_input(header: service_pb2.ModelInferRequest, batch: npt.NDArray[np.uint8]) -> bytes:
    """`header`, then `batch` as its one `raw_input_contents`."""
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


def _reply(response: Any) -> Reply:
    data = response.raw_output_contents
    if len(data) != len(response.outputs):
        raise ValueError(f"{len(response.outputs)} outputs with {len(data)} tensors of data")
    return Reply(
        model=response.model_name,
        version=response.model_version,
        outputs=tuple(
            OutputTensor(output.name, output.datatype, tuple(output.shape), content)
            for output, content in zip(response.outputs, data, strict=True)
        ),
    )


def _index(listing: Any) -> tuple[IndexEntry, ...]:
    return tuple(index_entry(model.name, model.state, model.reason) for model in listing.models)


def _config(response: Any) -> ServedConfig:
    config = response.config
    return ServedConfig(
        name=config.name,
        version="",
        max_batch_size=config.max_batch_size,
        inputs=tuple(_served_tensor(each) for each in config.input),
        outputs=tuple(_served_tensor(each) for each in config.output),
        parameters={key: value.string_value for key, value in config.parameters.items()},
    )


def _served_tensor(tensor: Any) -> ServedTensor:
    return ServedTensor(tensor.name, model_config_pb2.DataType.Name(tensor.data_type), tuple(tensor.dims))


def _statistics(response: Any) -> tuple[ModelStatistics, ...]:
    def phase(duration: Any) -> Phase:
        return Phase(duration.count, duration.ns / 1e6)

    return tuple(
        ModelStatistics(
            served_name=model.name,
            version=model.version,
            images=model.inference_count,
            executions=model.execution_count,
            success=phase(model.inference_stats.success),
            failure=phase(model.inference_stats.fail),
            queue=phase(model.inference_stats.queue),
            compute_input=phase(model.inference_stats.compute_input),
            compute_infer=phase(model.inference_stats.compute_infer),
            compute_output=phase(model.inference_stats.compute_output),
        )
        for model in response.model_stats
    )


def _regions(response: Any) -> tuple[Region, ...]:
    return tuple(Region(region.name, region.key, region.byte_size) for region in response.regions.values())


def _serialized(message: Callable[[Any], Any]) -> Callable[[Any, float], bytes]:
    return lambda operation, _timeout_s: bytes(message(operation).SerializeToString())


_CALLS: dict[type[Operation[Any]], GrpcCall] = {
    ListModels: GrpcCall(
        f"{_SERVICE}RepositoryIndex",
        _serialized(lambda _operation: service_pb2.RepositoryIndexRequest()),
        service_pb2.RepositoryIndexResponse,
        _index,
    ),
    AskReady: GrpcCall(
        f"{_SERVICE}ModelReady",
        _serialized(lambda operation: service_pb2.ModelReadyRequest(name=operation.name)),
        service_pb2.ModelReadyResponse,
        lambda response: bool(response.ready),
    ),
    ReadVersion: GrpcCall(
        f"{_SERVICE}ModelMetadata",
        _serialized(lambda operation: service_pb2.ModelMetadataRequest(name=operation.name)),
        service_pb2.ModelMetadataResponse,
        lambda response: highest_version(list(response.versions)),
    ),
    ReadConfig: GrpcCall(
        f"{_SERVICE}ModelConfig",
        _serialized(lambda operation: service_pb2.ModelConfigRequest(name=operation.name)),
        service_pb2.ModelConfigResponse,
        _config,
    ),
    ReadStatistics: GrpcCall(
        f"{_SERVICE}ModelStatistics",
        _serialized(lambda _operation: service_pb2.ModelStatisticsRequest()),
        service_pb2.ModelStatisticsResponse,
        _statistics,
    ),
    Infer: GrpcCall(f"{_SERVICE}ModelInfer", infer_request, service_pb2.ModelInferResponse, _reply),
    RegisterRegion: GrpcCall(
        f"{_SERVICE}SystemSharedMemoryRegister",
        _serialized(
            lambda operation: service_pb2.SystemSharedMemoryRegisterRequest(
                name=operation.region.name, key=operation.region.key, byte_size=operation.region.byte_size
            )
        ),
        service_pb2.SystemSharedMemoryRegisterResponse,
        lambda _response: None,
    ),
    UnregisterRegion: GrpcCall(
        f"{_SERVICE}SystemSharedMemoryUnregister",
        _serialized(lambda operation: service_pb2.SystemSharedMemoryUnregisterRequest(name=operation.name)),
        service_pb2.SystemSharedMemoryUnregisterResponse,
        lambda _response: None,
    ),
    ListRegions: GrpcCall(
        f"{_SERVICE}SystemSharedMemoryStatus",
        _serialized(lambda _operation: service_pb2.SystemSharedMemoryStatusRequest()),
        service_pb2.SystemSharedMemoryStatusResponse,
        _regions,
    ),
}
