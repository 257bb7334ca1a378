"""FP16 is admitted, not assumed."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from builder import MODELS
from builder.architectures import without_auxiliary_heads
from builder.errors import PrecisionRejected
from builder.golden import golden_images
from builder.onnx_export import logits_of, onnx_from_module, probabilities_from_onnx
from builder.parity import compare
from builder.precision import MAX_ACTIVATION, admit_fp16, half_onnx_from_onnx
from builder.seeded import seeded_module

SPEC = MODELS["GoogLeNet"]
IMAGES = golden_images(SPEC.input_size)


@pytest.fixture(scope="module")
def module():
    return without_auxiliary_heads(seeded_module(SPEC))


@pytest.fixture(scope="module")
def model(module):
    return onnx_from_module(module, SPEC)


@pytest.fixture(scope="module")
def half(model):
    return half_onnx_from_onnx(model)


def tensor_types(graph_model):
    inferred = onnx.shape_inference.infer_shapes(graph_model, strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}


def test_the_half_graph_is_valid_and_answers_like_torch(module, half):
    """Types agree from end to end, and the answer is the FP32 one but for rounding."""
    onnx.checker.check_model(half, full_check=True)
    probabilities = probabilities_from_onnx(half.SerializeToString(), IMAGES)
    assert compare("x", "fp16", logits_of(module, IMAGES), probabilities).top1_agreement == 1.0


def test_input_normalisation_softmax_and_output_stay_fp32_and_the_rest_is_fp16(half):
    """Two casts, and no other."""
    types = tensor_types(half)
    nodes = [node for node in half.graph.node if node.op_type != "Constant"]
    first = next(index for index, node in enumerate(nodes) if node.name == "/cast_to_fp16")
    last = next(index for index, node in enumerate(nodes) if node.name == "/cast_to_fp32")
    assert {types[node.output[0]] for node in nodes[:first]} == {TensorProto.FLOAT}
    assert {types[node.output[0]] for node in nodes[first:last]} == {TensorProto.FLOAT16}
    assert [node.op_type for node in nodes[last:]] == ["Cast", "Softmax"]
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_weights_are_half_the_size(model, half):
    """An FP16 file whose weights are FP32 would build an FP32 plan in silence."""
    assert len(half.SerializeToString()) < 0.51 * len(model.SerializeToString())
    assert {tensor.data_type for tensor in half.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}


def test_the_graph_given_is_left_alone(model):
    """The FP32 file is published from the same graph."""
    before = model.SerializeToString()
    half_onnx_from_onnx(model)
    assert model.SerializeToString() == before


def test_a_well_scaled_network_is_admitted_with_its_largest_activation(model, module):
    """What was seen goes into the manifest."""
    verdict = admit_fp16(model, module, SPEC, IMAGES)
    assert 1.0 < verdict.max_activation < MAX_ACTIVATION
    assert verdict.half_agreeing_images >= 2
    assert any(node.name == verdict.max_activation_layer for node in model.graph.node)


def test_a_layer_that_would_overflow_is_named(model, module):
    """A CPU run of the FP16 file would not show it: the gate must."""
    damaged = copy.deepcopy(model)
    layer = next(node for node in damaged.graph.node if node.op_type == "Conv" and "_ince4c/_conv3/" in node.name)
    weight = next(tensor for tensor in damaged.graph.initializer if tensor.name == layer.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e5), weight.name))
    with pytest.raises(PrecisionRejected, match=r"_ince4c/_conv3/.* reaches .* 16,000 is allowed"):
        admit_fp16(damaged, module, SPEC, IMAGES)


def test_a_network_that_is_not_finite_in_half_is_refused(model, module):
    """Large weights of opposite sign may cancel in FP32 and overflow in FP16."""
    damaged = copy.deepcopy(module)
    with torch.no_grad():
        damaged.get_submodule(damaged.head).weight.mul_(1e6)
    with pytest.raises(PrecisionRejected, match="not finite"):
        admit_fp16(model, damaged, SPEC, IMAGES)


def test_nan_activations_are_refused(model, module):
    """Not a number is below no bound, and must not slip under this one."""
    damaged = copy.deepcopy(model)
    weight = next(tensor for tensor in damaged.graph.initializer if tensor.name.endswith("_conv._conv.weight"))
    array = numpy_helper.to_array(weight).copy()
    array[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    with pytest.raises(PrecisionRejected, match="nan"):
        admit_fp16(damaged, module, SPEC, IMAGES)
