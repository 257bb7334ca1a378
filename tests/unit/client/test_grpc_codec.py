"""Operations as Triton's gRPC messages."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from client.connection import connection_from_urls
from client.errors import BadResponse
from client.grpc_codec import grpc_call, infer_request, metadata_of, with_raw_input
from client.operations import Infer, ListModels, Operation, ReadConfig, ReadVersion, Slot


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 6, 7, 3), (1, 299, 299, 3), (8, 299, 299, 3)])
def test_a_request_written_in_parts_is_the_one_protobuf_would_write(shape: tuple[int, ...]) -> None:
    """The pixels are appended to the message by hand; every length of the length field must come out right."""
    batch = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8).reshape(shape)
    header = service_pb2.ModelInferRequest(model_name="inception_v3_fp32")
    header.inputs.add(name="image", datatype="UINT8", shape=shape)
    expected = service_pb2.ModelInferRequest()
    expected.CopyFrom(header)
    expected.raw_input_contents.append(batch.tobytes())
    assert service_pb2.ModelInferRequest.FromString(with_raw_input(header, batch)) == expected


def test_a_strided_view_is_sent_in_its_own_order() -> None:
    """A caller may hold a view; its bytes in memory are not its pixels."""
    batch = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)[::-1, :, ::2]
    sent = service_pb2.ModelInferRequest.FromString(with_raw_input(service_pb2.ModelInferRequest(), batch))
    assert [batch.tobytes()] == list(sent.raw_input_contents)


def test_pixels_in_shared_memory_are_named_not_sent() -> None:
    """The request says where they lie, and holds none of them."""
    batch = np.zeros((2, 299, 299, 3), dtype=np.uint8)
    request = infer_request(Infer("a_fp32", "image", batch, Slot("region", 4096, batch.nbytes)), 1.5)
    sent = service_pb2.ModelInferRequest.FromString(request)
    assert len(request) < 300
    assert list(sent.raw_input_contents) == []
    told = dict(sent.inputs[0].parameters.items())
    assert told["shared_memory_region"].string_param == "region"
    assert told["shared_memory_offset"].int64_param == 4096
    assert told["shared_memory_byte_size"].int64_param == batch.nbytes
    assert sent.parameters["timeout"].int64_param == 1_500_000


def test_every_operation_can_be_sent() -> None:
    """A new one needs a row here and in HTTP."""
    assert all(grpc_call(kind.__new__(kind)).path for kind in Operation.__subclasses__())


@pytest.mark.parametrize(
    "operation", [ListModels(), ReadConfig("a"), ReadVersion("a")], ids=lambda each: type(each).__name__
)
def test_bytes_that_are_no_message_are_a_bad_response(operation: Operation[object]) -> None:
    """Never protobuf's own exception."""
    with pytest.raises(BadResponse, match="host:1"):
        grpc_call(operation).decode(b"\xff\xff<html>", "host:1")


def test_outputs_without_data_are_a_bad_response() -> None:
    """One tensor of data for each output."""
    response = service_pb2.ModelInferResponse(model_name="a", model_version="1")
    response.outputs.add(name="probabilities", datatype="FP32", shape=(1, 4))
    call = grpc_call(Infer("a", "image", np.zeros((1, 1, 1, 3), np.uint8)))
    with pytest.raises(BadResponse):
        call.decode(response.SerializeToString(), "host:1")


def test_the_users_headers_and_the_token_travel_as_metadata(token: str) -> None:
    """The token in the header that Triton prefixes for gRPC."""
    connection = connection_from_urls("a:1", token=token, headers={"X-Team": "vision"})
    assert metadata_of(connection) == (("x-team", "vision"), ("triton-grpc-protocol-inception-token", token))
