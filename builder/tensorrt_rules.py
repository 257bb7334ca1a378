"""What TensorRT 10.4 and 11.x ask of an ONNX file, rule by rule, checked on a machine that has no TensorRT.

    file -> opset, domain, operators -> inferred types and shapes -> the rules of each node -> one sentence per breach

Sources: the operator table and importers of onnx-tensorrt (docs/operators.md of its 9.2 and 10.15 states, which
bracket 10.4; its static checks of pooling, BatchNormalization, Dropout and UINT8), TensorRT's release notes, and what
the parsers of TensorRT 8.6 and TensorRT-RTX 1.7.1 said. Shown the damage in this module's tests, the latter refuses
an unknown operator, the Scan, a tensor written twice, uint8 outside the one Cast's input, groups that do not fit, pool
dilations, Indices, training mode, external data and inputs of mixed type (a contract test asks it each time). It reads
the rest: those rules keep one graph for every version, with torch's answers. Nothing here replaces a build on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from builder.graph_view import GraphView, Tensor, attribute_of, axes_of, input_of, is_external, label_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Inside what TensorRT 10.4 (9..20) and 11.x (9..24, 25 from 11.5) read; the rules below are written for its operators.
OPSET = 17

# What the Inception family is made of, and what an exporter may put in its place; each is "Y" in both states of the
# table, for FP32 and FP16. Another operator is one more word here, after a look at its row and its restrictions.
SUPPORTED_OPERATORS = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv", "Div", "Dropout",
    "Flatten", "Gemm", "GlobalAveragePool", "Identity", "MatMul", "MaxPool", "Mul", "Pad", "ReduceMean", "Relu",
    "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip

# Input positions that must be known when the file is read: an initializer or a Constant node. ReduceMean's axes are
# an attribute until opset 18.
STATIC_INPUTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Clip": (1, 2),
    "Conv": (1, 2),
    "Dropout": (1, 2),
    "Gemm": (1, 2),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
_FLOATS = frozenset({"FLOAT", "FLOAT16"})
_DEFAULT_DOMAINS = ("", "ai.onnx")


def violations(model: ModelProto) -> list[str]:
    """Every rule that `model` breaks: "rule: one sentence that names the node"; empty for a graph TensorRT should read.

    Where one tensor spoils those behind it, the first is named.
    """
    graph = GraphView(model)
    return [f"{rule}: {sentence}" for rule, check in _RULES for sentence in check(graph)]


def _opset(graph: GraphView) -> Iterator[str]:
    declared = [opset.version for opset in graph.model.opset_import if opset.domain in _DEFAULT_DOMAINS]
    if declared != [OPSET]:
        yield f"the file declares {declared}, opset {OPSET} is what these rules and both TensorRT versions are held to"


def _domain(graph: GraphView) -> Iterator[str]:
    for opset in graph.model.opset_import:
        if opset.domain not in _DEFAULT_DOMAINS:
            yield f"the file imports {opset.domain!r}, TensorRT reads ONNX's own domain without plugins"
    for node in graph.nodes:
        if node.domain not in _DEFAULT_DOMAINS:
            yield f"{label_of(node)} is of {node.domain!r}, expected ONNX's own domain"
    for function in graph.model.functions:
        yield f"the file defines a function {function.name!r}, expected plain operators"


def _operator(graph: GraphView) -> Iterator[str]:
    for node in graph.nodes:
        is_foreign = node.domain not in _DEFAULT_DOMAINS or _has_subgraph(node)
        if node.op_type not in SUPPORTED_OPERATORS and not is_foreign:
            yield f"{label_of(node)} is in no list of what is read: look it up in docs/operators.md and add it"


def _subgraph(graph: GraphView) -> Iterator[str]:
    for node in graph.nodes:
        if _has_subgraph(node):
            yield f"{label_of(node)} holds a graph of its own, expected none (If, Loop, Scan)"


def _has_subgraph(node: NodeProto) -> bool:
    return any(each.type in (each.GRAPH, each.GRAPHS) for each in node.attribute)


def _valid(graph: GraphView) -> Iterator[str]:
    if graph.refusal and not any(_domain(graph)):  # nothing can be inferred behind another domain's node
        yield f"ONNX's own checker or shape inference refuses the graph: {graph.refusal}"


def _uint8(graph: GraphView) -> Iterator[str]:
    given = {value.name for value in graph.inputs if graph.type_of(value.name) == "UINT8"}
    for name in given:
        readers = [node for node, _ in graph.consumers(name)]
        if [node.op_type for node in readers] != ["Cast"]:
            told = " and ".join(map(label_of, readers)) or "nothing"
            yield f"the graph begins with {told} on uint8 {name!r}, TensorRT reads uint8 only through one Cast"
    for source, name in graph.first(lambda name: graph.type_of(name) == "UINT8" and name not in given):
        yield f"{source} uint8 {name!r}, TensorRT has uint8 at the graph's ends only"


def _type(graph: GraphView) -> Iterator[str]:
    for source, name in graph.first(lambda name: not _has_usable_type(graph, name)):
        yield f"{source} {graph.type_of(name)} {name!r}, expected FP32 or FP16 (INT64 only as a stored shape or axes)"


def _has_usable_type(graph: GraphView, name: str) -> bool:
    kind = graph.type_of(name)
    if kind in _FLOATS or kind in {"", "UNDEFINED", "UINT8"}:
        return True
    readers = [(node.op_type, index) for node, index in graph.consumers(name)]
    if not readers:  # MaxPool's Indices, say: the rule of pooling tells of them
        return name not in {value.name for value in graph.proto.output}
    if name in graph.stored and kind == "INT64":
        return all(index in STATIC_INPUTS.get(operator, ()) for operator, index in readers)
    return name in graph.stored and kind == "BOOL" and all(reader == ("Dropout", 2) for reader in readers)


def _static(graph: GraphView) -> Iterator[str]:
    # An Identity on a weight is reported as such, once.
    known = {*graph.stored, *(node.output[0] for node in _renaming_identities(graph)), ""}
    for node in graph.nodes:
        for position in STATIC_INPUTS.get(node.op_type, ()):
            if (name := input_of(node, position)) not in known:
                yield f"{label_of(node)} computes input {position}, {name!r}; expected an initializer or a Constant"


def _convolution(graph: GraphView) -> Iterator[str]:
    for node in graph.nodes:
        weight = graph.stored.get(input_of(node, 1))
        if node.op_type != "Conv" or weight is None:
            continue
        group, dilations = attribute_of(node, "group", 1), attribute_of(node, "dilations", [1, 1])
        if len(weight.dims) != 4:  # outputs, inputs per group, height, width
            yield f"{label_of(node)} has weights {list(weight.dims)}, a 2-D convolution has four axes"
            continue
        data = graph.tensors.get(input_of(node, 0), Tensor("", None)).axes or (None, None)
        if data[1] not in (None, weight.dims[1] * group) or group < 1 or weight.dims[0] % group:
            yield f"{label_of(node)} has {data[1]} channels, weights {list(weight.dims)} and group {group}: no fit"
        if len(dilations) != 2 or min(dilations) < 1:
            yield f"{label_of(node)} has dilations {dilations}, expected two numbers of 1 or more"
        yield from _padding(node)


def _pooling(graph: GraphView) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type not in ("MaxPool", "AveragePool"):
            continue
        kernel, dilations = attribute_of(node, "kernel_shape", []), attribute_of(node, "dilations", [])
        if len(kernel) != 2:
            yield f"{label_of(node)} has kernel_shape {kernel}, expected a height and a width"
        if any(step != 1 for step in dilations):
            yield f"{label_of(node)} has dilations {dilations}, TensorRT pools with 1 only"
        for name in ("ceil_mode", "storage_order"):
            if attribute_of(node, name, 0):
                yield f"{label_of(node)} has {name} 1, expected 0: runtimes disagree about it"
        if len([name for name in node.output if name]) > 1:
            yield f"{label_of(node)} has an Indices output, TensorRT has none"
        yield from _padding(node)
        is_average, is_padded = node.op_type == "AveragePool", any(attribute_of(node, "pads", []))
        if is_average and is_padded and attribute_of(node, "count_include_pad", None) is None:
            yield f"{label_of(node)} has padding and no count_include_pad, TensorRT would read 0 where torch means 1"


def _padding(node: NodeProto) -> Iterator[str]:
    if attribute_of(node, "auto_pad", "NOTSET") != "NOTSET":
        yield f"{label_of(node)} has auto_pad {attribute_of(node, 'auto_pad', '')}, expected NOTSET and pads"
    elif len(attribute_of(node, "pads", [])) != 4:
        yield f"{label_of(node)} has pads {attribute_of(node, 'pads', [])}, expected four numbers"


def _training(graph: GraphView) -> Iterator[str]:
    from onnx import numpy_helper

    for node in graph.nodes:
        if node.op_type not in ("BatchNormalization", "Dropout"):
            continue
        switch = graph.stored.get(input_of(node, 2)) if node.op_type == "Dropout" else None
        if attribute_of(node, "training_mode", 0) or (switch is not None and numpy_helper.to_array(switch).any()):
            yield f"{label_of(node)} is in training mode, expected the graph of an eval() module"
        if len([name for name in node.output if name]) > 1:
            yield f"{label_of(node)} has {len(node.output)} outputs, at inference it has one"


def _external_data(graph: GraphView) -> Iterator[str]:
    for name, tensor in graph.stored.items():
        if is_external(tensor):
            yield f"{name!r} lies outside the file, expected every weight inside it"


def _identity(graph: GraphView) -> Iterator[str]:
    for node in _renaming_identities(graph):
        yield f"{label_of(node)} renames weight {node.input[0]!r}: TensorRT finds a tensor where it wants a weight"


def _renaming_identities(graph: GraphView) -> Iterator[NodeProto]:
    return (node for node in graph.nodes if node.op_type == "Identity" and input_of(node, 0) in graph.stored)


def _batch_axis(graph: GraphView) -> Iterator[str]:
    ends = [*graph.inputs, *graph.proto.output]
    firsts = {value.name: (axes_of(value) or (None,))[0] for value in ends}
    if len(set(firsts.values())) != 1 or not isinstance(next(iter(firsts.values())), str):
        yield f"the first axes of inputs and outputs are {firsts}, expected one name for the batch"
        return
    batch = next(iter(firsts.values()))

    def is_open(name: str) -> bool:
        axes = graph.tensors[name].axes if name in graph.tensors else ()
        return axes is None or not all(
            isinstance(axis, int) or (axis == batch and not at) for at, axis in enumerate(axes)
        )

    for source, name in graph.first(is_open):
        yield f"{source} {name!r} with axes {graph.tensors[name].axes}, expected sizes behind the batch, {batch!r}"


def _softmax(graph: GraphView) -> Iterator[str]:
    for node in graph.nodes:
        tensor = graph.tensors.get(input_of(node, 0)) if node.op_type == "Softmax" else None
        if tensor is None:
            continue
        axis = attribute_of(node, "axis", -1)
        if tensor.type != "FLOAT":
            yield f"{label_of(node)} reads {tensor.type}, expected FP32: small probabilities vanish in FP16"
        if tensor.axes is not None and axis not in (-1, len(tensor.axes) - 1):
            yield f"{label_of(node)} is over axis {axis} of {len(tensor.axes)}, expected the last"


def _precision(graph: GraphView) -> Iterator[str]:
    ends = [
        (graph.type_of(input_of(node, 0)), graph.type_of(node.output[0]), label_of(node))
        for node in graph.nodes
        if node.op_type == "Cast" and node.output
    ]
    casts = [each for each in ends if set(each[:2]) <= _FLOATS]
    is_half = any(tensor.type == "FLOAT16" for tensor in graph.tensors.values())
    expected = [("FLOAT", "FLOAT16"), ("FLOAT16", "FLOAT")] if is_half else []
    if [cast[:2] for cast in casts] != expected:
        told = ", ".join(f"{label} from {source} to {target}" for source, target, label in casts) or "none"
        wanted = "one to FP16 and one back" if is_half else "none in an FP32 graph"
        yield f"casts between floating-point types are {told}; expected {wanted}"
    for node in graph.nodes:
        read = [name for at, name in enumerate(node.input) if node.op_type != "Dropout" or not at]
        kinds = {graph.type_of(name) for name in read}
        if kinds >= _FLOATS:
            yield f"{label_of(node)} mixes FP32 and FP16 inputs {read}, a strongly typed network casts neither"
        elif is_half and node.op_type in ("Conv", "Gemm", "MatMul") and "FLOAT" in kinds:
            yield f"{label_of(node)} computes in FP32, expected the whole body of an FP16 graph in FP16"


_RULES: tuple[tuple[str, Callable[[GraphView], Iterator[str]]], ...] = (
    ("opset", _opset),
    ("domain", _domain),
    ("operator", _operator),
    ("subgraph", _subgraph),
    ("valid", _valid),
    ("uint8", _uint8),
    ("type", _type),
    ("static input", _static),
    ("convolution", _convolution),
    ("pooling", _pooling),
    ("training", _training),
    ("external data", _external_data),
    ("identity", _identity),
    ("batch axis", _batch_axis),
    ("softmax", _softmax),
    ("precision", _precision),
)
