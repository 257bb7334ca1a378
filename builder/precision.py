"""FP16 is admitted, not assumed: the FP32 graph in half precision, and the two checks that let it through.

A CPU runtime computes an FP16 graph in FP32, so a comparison of answers on this machine cannot see overflow. The gate
looks at the FP32 activations instead, and runs the torch body in real half precision.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builder.catalog import ModelSpec
from builder.errors import PrecisionRejected
from builder.onnx_graph import INPUT, OUTPUT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from torch import nn

# Half of half: FP16 overflows at 65,504, an unseen photograph may exceed the golden ones, and a sum grows before it is
# rounded.
MAX_ACTIVATION = 16_000.0
# "The same answer on at least two photographs", so that one lucky class does not pass.
MIN_AGREEING_IMAGES = 2

_PREPROCESSING = ("Cast", "Transpose", "Mul", "Sub", "Div")


@dataclass(frozen=True)
class Fp16Verdict:
    """Why an FP16 file was admitted: the largest FP32 activation and where, and the top-1 agreement in real FP16."""

    max_activation: float
    max_activation_layer: str
    allowed_activation: float
    half_agreeing_images: int
    half_images: int

    def as_dict(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)


def half_onnx_from_onnx(model: ModelProto) -> ModelProto:
    """The same graph with FP16 weights and arithmetic; input, normalisation, softmax and output stay FP32.

    Two casts are added, one behind the normalisation and one before the softmax. The general converters cast around
    every node they keep, which sends normalised pixels and small probabilities through FP16 after all.
    """
    from onnx import TensorProto, helper, numpy_helper

    half = copy.deepcopy(model)
    graph = half.graph
    first, last = _normalised_tensor(half), _softmax(half).input[0]
    body = _body_nodes(half)
    read_by_body = {name for node in body for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in read_by_body and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" else None
        if value is not None and node.output[0] in read_by_body and value.data_type == TensorProto.FLOAT:
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float16)))
    for node in body:
        for index, name in enumerate(node.input):
            if name == first:
                node.input[index] = "normalised_fp16"
    _softmax(half).input[0] = "logits_fp32"
    casts = [
        helper.make_node("Cast", [first], ["normalised_fp16"], "/cast_to_fp16", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [last], ["logits_fp32"], "/cast_to_fp32", to=TensorProto.FLOAT),
    ]
    nodes = list(graph.node)
    nodes.insert(_position(nodes, first) + 1, casts[0])
    nodes.insert(_position(nodes, last) + 1, casts[1])
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # intermediate types have changed; every reader infers them
    return half


def admit_fp16(model: ModelProto, module: nn.Module, spec: ModelSpec, images: NDArray[np.uint8]) -> Fp16Verdict:
    """Decide whether `model` (the FP32 graph) and `module` (its torch body, FP32) may be served in FP16.

    Raises `PrecisionRejected` when an FP32 activation over `images` exceeds 16,000, naming the first layer that does,
    or when the body in half precision gives a value that is not finite or changes the top-1 of too many photographs.
    """
    activations = _largest_activations(model, images)
    for layer, reached in activations.items():
        if not reached <= MAX_ACTIVATION:  # true for NaN as well
            raise PrecisionRejected(
                f"{spec.name} cannot be served in FP16: layer {layer} reaches {reached:,.0f} on the golden "
                f"photographs, {MAX_ACTIVATION:,.0f} is allowed (FP16 overflows at 65,504). "
                "Serve it with --precision fp32"
            )
    agreeing = _agreeing_in_half(module, spec, images)
    if agreeing < MIN_AGREEING_IMAGES:
        raise PrecisionRejected(
            f"{spec.name} cannot be served in FP16: in half precision {agreeing} of {len(images)} golden photographs "
            f"keep their top-1, {MIN_AGREEING_IMAGES} are needed. Serve it with --precision fp32"
        )
    layer = max(activations, key=activations.__getitem__)
    return Fp16Verdict(activations[layer], layer, MAX_ACTIVATION, agreeing, len(images))


def _preprocessing_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes from the input to the first convolution."""
    nodes: list[NodeProto] = []
    tensor = INPUT
    for operation in _PREPROCESSING:
        node = next(node for node in model.graph.node if tensor in node.input)
        if node.op_type != operation:
            raise PrecisionRejected(
                f"the graph normalises with {node.op_type} where {operation} was expected: "
                "builder.onnx_export and builder.precision have drifted apart"
            )
        nodes.append(node)
        tensor = node.output[0]
    return nodes


def _normalised_tensor(model: ModelProto) -> str:
    return str(_preprocessing_nodes(model)[-1].output[0])


def _softmax(model: ModelProto) -> NodeProto:
    node: NodeProto = next(node for node in model.graph.node if OUTPUT in node.output)
    return node


def _position(nodes: list[NodeProto], tensor: str) -> int:
    return next(index for index, node in enumerate(nodes) if tensor in node.output)


def _largest_activations(model: ModelProto, images: NDArray[np.uint8]) -> dict[str, float]:
    """Layer name -> max |value| that it writes in FP32 over `images`, in the graph's order; NaN where there is one."""
    import onnxruntime
    from onnx import TensorProto, helper

    watched = copy.deepcopy(model)
    body = _body_nodes(model)
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in body]
    del watched.graph.output[:]
    watched.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest = np.zeros(len(body))
    for image in images:  # one at a time: every tensor of the network is held at once
        written = session.run(None, {INPUT: image[None]})
        largest = np.maximum(largest, [np.abs(tensor).max() for tensor in written])  # keeps a NaN
    return {node.name: float(value) for node, value in zip(body, largest, strict=True)}


def _body_nodes(model: ModelProto) -> list[NodeProto]:
    """The network proper: everything between the normalisation and the softmax that computes."""
    kept_fp32 = {node.name for node in _preprocessing_nodes(model)}
    return [
        node
        for node in model.graph.node
        if node.name not in kept_fp32 and node.op_type != "Constant" and OUTPUT not in node.output
    ]


def _agreeing_in_half(module: nn.Module, spec: ModelSpec, images: NDArray[np.uint8]) -> int:
    """Photographs whose top-1 is the same in FP32 and in real half precision."""
    import torch

    from builder.onnx_export import Normalise

    normalised = Normalise()(torch.from_numpy(images))
    with torch.inference_mode():
        expected = module(normalised).argmax(1)
        half = copy.deepcopy(module).half()
        logits = half(normalised.half()).float()
    if not bool(torch.isfinite(logits).all()):
        raise PrecisionRejected(
            f"{spec.name} cannot be served in FP16: its logits are not finite in half precision. "
            "Serve it with --precision fp32"
        )
    return int((logits.argmax(1) == expected).sum())
