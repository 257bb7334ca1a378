"""Rules that a written ONNX graph must keep to load in TensorRT 10.4 and 11.x, and the clean-up that makes it so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalog import ModelSpec
from builder.errors import ExportFailed
from builder.tensorrt_rules import OPSET, violations

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["INPUT", "OPSET", "OUTPUT", "check_graph", "fold_identities"]

INPUT, OUTPUT = "image", "probabilities"

# PaddleClas pools InceptionV3 with exclusive=False and InceptionV4 with exclusive=True: a wrong flag moves logits by
# 2.7 to 4.3 and no shape tells.
COUNT_INCLUDE_PAD = {"inception_v3": 1, "inception_v4": 0}

_TOLD = 5  # a wrong exporter setting breaks one rule at a hundred nodes


def fold_identities(graph: GraphProto) -> int:
    """Replace Identity nodes that only rename an initializer; returns how many.

    The exporter shares equal tensors that way, and TensorRT's parser then finds a tensor where it wants a weight.
    """
    stored = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            renamed[node.output[0]] = node.input[0]
    kept = [node for node in graph.node if node.op_type != "Identity" or node.output[0] not in renamed]
    for node in kept:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    del graph.node[:]
    graph.node.extend(kept)
    return len(renamed)


def check_graph(model: ModelProto, spec: ModelSpec) -> None:
    """Raise `ExportFailed`, naming every rule broken, unless the graph is what `config.pbtxt` and TensorRT expect.

    uint8 [batch, H, W, 3] in, float32 [batch, classes] out; the rules of `tensorrt_rules`; pooling as the architecture
    has it.
    """
    graph = model.graph
    _require(_signature(graph) == _expected_signature(spec), f"inputs and outputs are {_signature(graph)}")
    broken = violations(model)
    _require(not broken, "; ".join(_shortened(broken)))
    if spec.family in COUNT_INCLUDE_PAD:
        expected = COUNT_INCLUDE_PAD[spec.family]
        padded = [node for node in graph.node if node.op_type == "AveragePool"]
        flags = {_attribute(node, "count_include_pad", 0) for node in padded}
        _require(flags == {expected}, f"AveragePool count_include_pad is {flags}, {spec.name} needs {expected}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ExportFailed(f"the exported graph breaks a rule: {otherwise}. Nothing was published")


def _shortened(sentences: list[str]) -> list[str]:
    more = len(sentences) - _TOLD
    return [*sentences[:_TOLD], f"and {more} more"] if more > 0 else sentences


def _signature(graph: GraphProto) -> list[tuple[str, int, list[str | int]]]:
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in [*graph.input, *graph.output]
    ]


def _expected_signature(spec: ModelSpec) -> list[tuple[str, int, list[str | int]]]:
    from onnx import TensorProto

    size = spec.input_size
    return [
        (INPUT, TensorProto.UINT8, ["batch", size, size, 3]),
        (OUTPUT, TensorProto.FLOAT, ["batch", spec.classes]),
    ]


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
