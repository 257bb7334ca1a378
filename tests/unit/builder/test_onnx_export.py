"""Module -> ONNX: the graph that TensorRT and the CPU runtimes read, and the check that it is still the same model."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from builder import MODELS
from builder.architectures import without_auxiliary_heads
from builder.errors import ExportFailed, ParityFailed
from builder.golden import golden_images
from builder.onnx_export import Normalise, logits_of, onnx_from_module, probabilities_from_onnx
from builder.onnx_graph import check_graph, fold_identities
from builder.parity import LOG_PROBABILITY_TOLERANCE, compare
from builder.seeded import seeded_module

SPEC = MODELS["InceptionV3"]


@pytest.fixture(scope="module")
def inception_v3():
    """InceptionV3 with calibrated weights: its module, its graph, and its logits on the golden photographs."""
    module = without_auxiliary_heads(seeded_module(SPEC))
    return module, onnx_from_module(module, SPEC), logits_of(module, golden_images(SPEC.input_size))


@pytest.fixture
def graph(inception_v3):
    """A copy that a test may damage."""
    return copy.deepcopy(inception_v3[1])


def compared(model, logits):
    probabilities = probabilities_from_onnx(model.SerializeToString(), golden_images(SPEC.input_size))
    return compare("test", "fp32", logits, probabilities)


def test_the_exported_graph_answers_as_torch_does(inception_v3):
    """Log-probabilities within 2e-3 on real photographs, and the same top-1."""
    _, model, logits = inception_v3
    verdict = compared(model, logits)
    assert verdict.max_log_probability_difference <= LOG_PROBABILITY_TOLERANCE["fp32"]
    assert verdict.top1_agreement == 1.0


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_batch_axis_is_free(inception_v3, batch):
    """One file serves every batch size, each image alike."""
    images = np.repeat(golden_images(SPEC.input_size)[:1], batch, axis=0)
    answers = probabilities_from_onnx(inception_v3[1].SerializeToString(), images)
    assert answers.shape == (batch, SPEC.classes)
    np.testing.assert_allclose(answers, np.repeat(answers[:1], batch, axis=0), rtol=1e-4, atol=1e-9)


def test_a_pooling_flag_of_the_wrong_model_fails_the_comparison(inception_v3, graph):
    """InceptionV3 counts the padding, InceptionV4 does not; no shape tells them apart."""
    for node in graph.graph.node:
        if node.op_type == "AveragePool":
            attribute = next(each for each in node.attribute if each.name == "count_include_pad")
            attribute.i = 1 - attribute.i
    with pytest.raises(ParityFailed, match="nothing was published"):
        compared(graph, inception_v3[2])


def test_a_wrong_mean_fails_the_comparison(inception_v3, graph):
    """A normalisation for another data set keeps the top-1 on most photographs."""
    subtracted = next(node.input[1] for node in graph.graph.node if node.op_type == "Sub")
    constant = next(node for node in graph.graph.node if subtracted in node.output)
    mean = numpy_helper.to_array(constant.attribute[0].t)
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(mean + np.float32(0.01)))
    with pytest.raises(ParityFailed):
        compared(graph, inception_v3[2])


def test_the_graph_starts_with_cast_then_transpose(inception_v3):
    """TensorRT's parser takes uint8 in no other order."""
    operations = [node.op_type for node in inception_v3[1].graph.node if node.op_type != "Constant"]
    assert operations[:5] == ["Cast", "Transpose", "Mul", "Sub", "Div"]
    assert operations[-1] == "Softmax"


def test_a_transposed_uint8_is_refused(graph):
    """The order that TensorRT rejects is found before a GPU is."""
    cast, transpose = graph.graph.node[0], graph.graph.node[1]
    cast.op_type, transpose.op_type = "Transpose", "Cast"
    with pytest.raises(ExportFailed, match="begins with"):
        check_graph(graph, SPEC)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda model: setattr(model.opset_import[0], "version", 18), "opset 17"),
        (lambda model: setattr(model.graph.input[0], "name", "input"), "inputs and outputs"),
        (lambda model: model.graph.output[0].type.tensor_type.shape.dim[1].Clear(), "inputs and outputs"),
        (
            lambda model: model.graph.initializer[0].external_data.add(key="location", value="../weights"),
            "outside the file",
        ),
        (
            lambda model: model.graph.node.add(
                op_type="Identity", input=[model.graph.initializer[0].name], output=["renamed"]
            ),
            "Identity",
        ),
    ],
    ids=["opset", "input name", "open class axis", "external data", "identity"],
)
def test_a_graph_that_breaks_a_rule_is_refused_by_that_rule(graph, damage, told):
    """Each rule names itself."""
    damage(graph)
    with pytest.raises(ExportFailed, match=told):
        check_graph(graph, SPEC)


@pytest.mark.parametrize(("name", "flag"), [("InceptionV3", 1), ("InceptionV4", 0)])
def test_count_include_pad_is_the_architectures(name, flag):
    """Asserted in the written file, because a wrong flag costs accuracy and nothing else."""
    spec = MODELS[name]
    model = onnx_from_module(seeded_module(spec), spec)
    flags = {
        next((each.i for each in node.attribute if each.name == "count_include_pad"), 0)
        for node in model.graph.node
        if node.op_type == "AveragePool"
    }
    assert flags == {flag}
    other = MODELS["InceptionV4" if name == "InceptionV3" else "InceptionV3"]
    with pytest.raises(ExportFailed, match="count_include_pad"):
        check_graph(model, other)


def test_identities_on_weights_are_folded_and_the_graph_stays_valid():
    """torch shares equal tensors through Identity nodes; TensorRT then finds no weights there."""
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "weight")
    nodes = [
        onnx.helper.make_node("Identity", ["weight"], ["alias"]),
        onnx.helper.make_node("MatMul", ["x", "alias"], ["y"]),
        onnx.helper.make_node("Identity", ["y"], ["z"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in ("x", "z")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))
    assert fold_identities(model.graph) == 1
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [
        ("MatMul", ["x", "weight"]),
        ("Identity", ["y"]),
    ]
    onnx.checker.check_model(model)


def test_googlenet_exports_at_299_too():
    """PaddleClas's T4 table has that size; only the main path can take it."""
    spec = MODELS["GoogLeNet"].at_input_size(299)
    model = onnx_from_module(without_auxiliary_heads(seeded_module(spec)), spec)
    assert spec.served_name("fp16") == "googlenet_299_fp16"
    assert probabilities_from_onnx(model.SerializeToString(), golden_images(299)).shape == (3, 1000)


def test_normalisation_is_paddleclass_arithmetic():
    """(x * float32(1/255) - mean) / std, float32, in this order."""
    image = golden_images(224)[:1]
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = ((image.astype(np.float32) * np.float32(1.0 / 255.0) - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(Normalise()(torch.from_numpy(image)).numpy(), expected)
