"""A small real graph in both precisions, and damage to it: which rule of `tensorrt_rules` it breaks, in which words.

The rules' own tests break each one with it; the contract tests show the same graphs to NVIDIA's parser.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from builder import MODELS
from builder.architectures import without_auxiliary_heads
from builder.onnx_export import onnx_from_module
from builder.precision import half_onnx_from_onnx
from builder.seeded import seeded_module

SPEC = MODELS["GoogLeNet"].at_input_size(96)


def small_graphs():
    """GoogLeNet at the smallest size, in both precisions."""
    fp32 = onnx_from_module(without_auxiliary_heads(seeded_module(SPEC)), SPEC)
    return {"fp32": fp32, "fp16": half_onnx_from_onnx(fp32)}


def node_of(model, operator, **attributes):
    """The first node of that operator with those attributes."""
    return next(
        node
        for node in model.graph.node
        if node.op_type == operator
        and attributes.items() <= {each.name: helper.get_attribute_value(each) for each in node.attribute}.items()
    )


def set_attribute(node, name, value):
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])


def store(model, name, array):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def insert(model, reader, *nodes):
    """Put a chain of one-input nodes in front of the first input of `reader`."""
    tensor = reader.input[0]
    for node in nodes:
        node.input.insert(0, tensor)
        tensor = node.output[0]
    reader.input[0] = tensor
    position = list(model.graph.node).index(reader)
    rest = list(model.graph.node)[position:]
    del model.graph.node[position:]
    model.graph.node.extend([*nodes, *rest])


def made(operator, *others, outputs=("inserted",), **attributes):
    return helper.make_node(operator, list(others), list(outputs), name=f"/{operator}_inserted", **attributes)


def other_opset(model):
    model.opset_import[0].version = 18


def foreign_domain(model):
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    node_of(model, "Relu").domain = "com.example"


def unknown_operator(model):
    node_of(model, "Relu").op_type = "Bernoulli"


def scan(model):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("column", "same")]
    body = helper.make_graph([helper.make_node("Identity", ["column"], ["same"])], "body", ends[:1], ends[1:])
    loop = made("Scan", body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1])
    insert(model, node_of(model, "Softmax"), loop)


def a_tensor_twice(model):
    node_of(model, "Relu").output[0] = model.graph.node[0].output[0]


def uint8_transposed(model):
    set_attribute(node_of(model, "Transpose"), "perm", [0, 1, 2, 3])
    insert(model, node_of(model, "Cast"), made("Transpose", perm=[0, 3, 1, 2]))


def uint8_read_twice(model):
    insert(model, node_of(model, "Transpose"), made("Cast", to=TensorProto.FLOAT))
    again = next(node for node in model.graph.node if node.name == "/Cast_inserted")
    again.input[0] = model.graph.input[0].name


def through(kind, precision=TensorProto.FLOAT, before="Softmax"):
    """A tensor cast to `kind` and back on its way."""

    def damage(model):
        there = made("Cast", outputs=["detour"], to=kind)
        insert(model, node_of(model, before), there, helper.make_node("Cast", [], ["back"], "/back", to=precision))

    return damage


def computed_bound(model):
    insert(model, node_of(model, "Softmax"), made("Clip", "computed"))
    model.graph.node.insert(0, helper.make_node("Relu", [store(model, "low", np.float32(0))], ["computed"]))


def computed_weight(model):
    source = node_of(model, "Conv").input[1]
    node_of(model, "Conv").input[1] = "computed"
    model.graph.node.insert(0, helper.make_node("Relu", [source], ["computed"]))


def one_group_too_many(model):
    set_attribute(node_of(model, "Conv"), "group", 2)


def convolution_pads_itself(model):
    convolution = node_of(model, "Conv", pads=[1, 1, 1, 1])
    set_attribute(convolution, "pads", None)
    set_attribute(convolution, "auto_pad", "SAME_UPPER")


def pooling(operator="MaxPool", outputs=1, **changed):
    """Damage to the attributes of a pooling whose size they do not change."""

    def damage(model):
        pool = node_of(model, "MaxPool", pads=[1, 1, 1, 1])
        pool.op_type = operator
        pool.output.extend(["indices"] * (outputs - 1))
        if operator == "AveragePool":
            set_attribute(pool, "dilations", None)
        for name, value in changed.items():
            set_attribute(pool, name, value)

    return damage


def dilated_pooling(model):
    last = next(node for node in model.graph.node if node.name == "/body/MaxPool_3")
    set_attribute(last, "dilations", [2, 2])


def dropout_in_training(model):
    others = store(model, "ratio", np.float32(0.4)), store(model, "training", np.bool_(True))
    insert(model, node_of(model, "Gemm"), made("Dropout", *others))


def normalisation_in_training(model):
    vectors = [store(model, name, np.ones(1000, np.float32)) for name in ("scale", "shift", "mean", "variance")]
    outputs = ["inserted", "next_mean", "next_variance"]
    insert(model, node_of(model, "Softmax"), made("BatchNormalization", *vectors, outputs=outputs, training_mode=1))


def weights_outside(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")


def renamed_weight(model):
    source = node_of(model, "Conv").input[1]
    node_of(model, "Conv").input[1] = "alias"
    model.graph.node.insert(0, helper.make_node("Identity", [source], ["alias"], "/alias"))


def fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def open_height(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"


def lost_batch(model):
    insert(model, node_of(model, "Gemm"), made("Reshape", store(model, "shape", np.int64([-1, 1024]))))


def softmax_over_the_batch(model):
    set_attribute(node_of(model, "Softmax"), "axis", 0)


def softmax_in_half(model):
    softmax = node_of(model, "Softmax")
    cast = next(node for node in model.graph.node if node.name == "/cast_to_fp32")
    probabilities, logits = softmax.output[0], cast.input[0]
    cast.CopyFrom(helper.make_node("Softmax", [logits], ["half"], "/softmax", axis=1))
    softmax.CopyFrom(helper.make_node("Cast", ["half"], [probabilities], "/cast", to=TensorProto.FLOAT))


def weight_left_in_single(model):
    name = node_of(model, "Conv").input[1]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), name))


FP32_DAMAGE = {
    "another opset": (other_opset, "opset", "opset 17"),
    "a plugin": (foreign_domain, "domain", "com.example"),
    "an operator nobody looked up": (unknown_operator, "operator", "Bernoulli"),
    "a loop": (scan, "subgraph", "/Scan_inserted"),
    "a tensor written twice": (a_tensor_twice, "valid", "SSA"),
    "uint8 transposed before the cast": (uint8_transposed, "uint8", "begins with Transpose"),
    "uint8 cast twice": (uint8_read_twice, "uint8", "one Cast"),
    "uint8 in the middle": (through(TensorProto.UINT8), "uint8", "uint8 'detour'"),
    "double": (through(TensorProto.DOUBLE), "type", "DOUBLE 'detour'"),
    "integers": (through(TensorProto.INT64), "type", "INT64 'detour'"),
    "a computed bound": (computed_bound, "static input", "Clip '/Clip_inserted' computes input 1"),
    "a computed weight": (computed_weight, "static input", "Conv '/body/_conv/_conv/Conv' computes input 1"),
    "groups that do not fit": (one_group_too_many, "convolution", "group 2"),
    "a convolution that pads itself": (convolution_pads_itself, "convolution", "auto_pad SAME_UPPER"),
    "dilated pooling": (dilated_pooling, "pooling", "dilations [2, 2]"),
    "ceil_mode": (pooling(ceil_mode=1), "pooling", "ceil_mode 1"),
    "storage_order": (pooling(storage_order=1), "pooling", "storage_order 1"),
    "indices": (pooling(outputs=2), "pooling", "Indices"),
    "pooling that pads itself": (pooling(auto_pad="SAME_UPPER", pads=None), "pooling", "auto_pad SAME_UPPER"),
    "average pooling that lost its flag": (pooling("AveragePool"), "pooling", "no count_include_pad"),
    "dropout in training": (dropout_in_training, "training", "Dropout '/Dropout_inserted' is in training mode"),
    "normalisation in training": (normalisation_in_training, "training", "is in training mode"),
    "weights outside the file": (weights_outside, "external data", "outside the file"),
    "a renamed weight": (renamed_weight, "identity", "Identity '/alias'"),
    "a fixed batch": (fixed_batch, "batch axis", "'image': 2"),
    "an open height": (open_height, "batch axis", "'height'"),
    "a batch that lost its name": (lost_batch, "batch axis", "Reshape '/Reshape_inserted' writes"),
    "softmax over the batch": (softmax_over_the_batch, "softmax", "axis 0 of 2"),
    "a detour in half": (through(TensorProto.FLOAT16), "precision", "computes in FP32"),
}
FP16_DAMAGE = {
    "softmax in half": (softmax_in_half, "softmax", "reads FLOAT16"),
    "a detour in single": (through(TensorProto.FLOAT, TensorProto.FLOAT16, "Gemm"), "precision", "'/back' from FLOAT"),
    "a weight left in single": (weight_left_in_single, "precision", "mixes FP32 and FP16"),
}
