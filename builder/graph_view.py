"""One ONNX model, read once for the rules of `tensorrt_rules`: types, shapes, stored values and readers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto


@dataclass(frozen=True)
class Tensor:
    """ONNX's name of the type, and the axes: a size, a name, or None where nothing is known."""

    type: str
    axes: tuple[int | str | None, ...] | None


class GraphView:
    """One model with the questions that the rules ask of it answered once.

    `stored` holds initializers and Constant nodes by name; `tensors` every tensor whose type is declared or inferred;
    `refusal` says why ONNX itself refuses the graph, "" if it does not.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.proto: GraphProto = model.graph
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.stored: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            value = [each.t for each in node.attribute if each.name == "value" and node.op_type == "Constant"]
            self.stored.update(zip(node.output, value, strict=False))
        self.inputs = [value for value in model.graph.input if value.name not in self.stored]
        self.tensors, self.refusal = _types_and_shapes(model)
        for name, tensor in self.stored.items():
            self.tensors[name] = Tensor(_type_name(tensor.data_type), tuple(tensor.dims))

    def type_of(self, name: str) -> str:
        """ONNX's name of a tensor's type; "" where it is unknown."""
        return self.tensors[name].type if name in self.tensors else ""

    def consumers(self, name: str) -> list[tuple[NodeProto, int]]:
        """Who reads a tensor, and as which input."""
        return [(node, index) for node in self.nodes for index, read in enumerate(node.input) if read == name]

    def first(self, is_bad: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Where it comes from and its name, for each bad tensor that no other bad tensor leads to."""
        bad = {name for name in [*(value.name for value in self.inputs), *self.stored] if is_bad(name)}
        yield from (("the file stores" if name in self.stored else "the graph takes", name) for name in sorted(bad))
        for node in self.nodes:
            if node.op_type == "Constant":
                continue
            written = [name for name in node.output if name and is_bad(name)]
            if not bad.intersection(node.input):
                yield from ((f"{label_of(node)} writes", name) for name in written)
            bad.update(written)


def axes_of(value: ValueInfoProto) -> tuple[int | str | None, ...] | None:
    """The declared axes, as in `Tensor`; None where not even their number is declared."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in kind.shape.dim)


def is_external(tensor: TensorProto) -> bool:
    """Whether the values lie in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def label_of(node: NodeProto) -> str:
    """Operator and name, as a sentence about the node begins; its outputs where it has no name."""
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}"


def input_of(node: NodeProto, position: int) -> str:
    """Name of an input; "" where the node has none there."""
    return node.input[position] if position < len(node.input) else ""


def attribute_of(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute: a list where ONNX has one, text for its bytes."""
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _types_and_shapes(model: ModelProto) -> tuple[dict[str, Tensor], str]:
    """Every tensor that is declared or can be inferred, and why ONNX itself refuses the graph ("" if it does not)."""
    from onnx import checker, shape_inference

    bare, refusal = _without_weights(model), ""
    inferred = bare.graph
    try:
        checker.check_model(bare)
    except checker.ValidationError as error:
        refusal = str(error).splitlines()[0]
    try:
        inferred = shape_inference.infer_shapes(bare, strict_mode=True).graph
    except (shape_inference.InferenceError, RuntimeError) as error:
        # ONNX lists every node behind the fault; the fault comes first, after a heading.
        refusal = refusal or str(error).rsplit("Inference error(s): ", maxsplit=1)[-1].splitlines()[0]
    declared = [*model.graph.input, *model.graph.output]
    return {
        value.name: Tensor(_type_name(value.type.tensor_type.elem_type), axes_of(value))
        for value in [*inferred.value_info, *inferred.input, *inferred.output, *declared]
    }, refusal


def _without_weights(model: ModelProto) -> ModelProto:
    """The same graph with shapes to infer from but no weights, nor shapes that someone else has written into it."""
    from onnx import ModelProto, TensorProto, helper

    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    stored = {tensor.name for tensor in model.graph.initializer}
    bare.graph.input.extend(value for value in model.graph.input if value.name not in stored)
    bare.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and not is_external(tensor):
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def _type_name(number: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(number))
