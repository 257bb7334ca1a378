"""Rules that a written ONNX graph must keep to load in TensorRT 10.4 and 11.x, and the clean-up that makes it so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalog import ModelSpec
from builder.errors import ExportFailed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OPSET = 17  # inside what TensorRT 10.4 (9..20) and 11.x (9..25) read
INPUT, OUTPUT = "image", "probabilities"

# PaddleClas pools InceptionV3 with exclusive=False and InceptionV4 with exclusive=True: a wrong flag moves logits by
# 2.7 to 4.3 and no shape tells.
COUNT_INCLUDE_PAD = {"inception_v3": 1, "inception_v4": 0}


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
    """Raise `ExportFailed`, naming the rule, unless the graph is what `config.pbtxt` and TensorRT expect.

    uint8 [batch, H, W, 3] in, float32 [batch, classes] out; Cast, then Transpose, then arithmetic (TensorRT allows no
    other uint8 operation); opset 17; pooling as the architecture has it; weights in this one file.
    """
    graph = model.graph
    _require(
        [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [OPSET],
        f"opset {OPSET} was asked for, the file declares {[(o.domain, o.version) for o in model.opset_import]}",
    )
    _require(_signature(graph) == _expected_signature(spec), f"inputs and outputs are {_signature(graph)}")
    _require(
        _leading_operations(graph) == ["Cast", "Transpose"],
        f"the graph begins with {_leading_operations(graph)}, TensorRT reads uint8 only as Cast, then Transpose",
    )
    stored = {tensor.name for tensor in graph.initializer}
    _require(
        not any(node.op_type == "Identity" and node.input[0] in stored for node in graph.node),
        "an Identity on an initializer is left",
    )
    _require(all(not tensor.external_data for tensor in graph.initializer), "weights lie outside the file")
    if spec.family in COUNT_INCLUDE_PAD:
        expected = COUNT_INCLUDE_PAD[spec.family]
        padded = [node for node in graph.node if node.op_type == "AveragePool"]
        flags = {_attribute(node, "count_include_pad", 0) for node in padded}
        _require(flags == {expected}, f"AveragePool count_include_pad is {flags}, {spec.name} needs {expected}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ExportFailed(f"the exported graph breaks a rule: {otherwise}. Nothing was published")


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


def _leading_operations(graph: GraphProto) -> list[str]:
    """Operation names along the single path that starts at the input."""
    names: list[str] = []
    tensor = INPUT
    for _ in range(2):
        consumers = [node for node in graph.node if tensor in node.input]
        if len(consumers) != 1:
            break
        names.append(consumers[0].op_type)
        tensor = consumers[0].output[0]
    return names


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
