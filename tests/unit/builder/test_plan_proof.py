"""A plan is proved by its answers. ONNX Runtime on a small real graph stands for the plan: right, and wrong in turn."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.errors import ParityFailed, PrecisionRejected
from builder.plan_proof import BOUNDS, prove_plan
from builder.profiles import profiles_from_sizes

SIZE, CLASSES = 8, 10
# Eight tints, so that no two images have the same answer.
TINTS = np.random.default_rng(5).uniform(0.1, 1, (8, 1, 1, 3))
IMAGES = (np.random.default_rng(7).integers(0, 256, (8, SIZE, SIZE, 3)) * TINTS).astype(np.uint8)


def graph_with(change=0.0):
    """uint8 NHWC -> cast, transpose, convolution, mean, product, softmax; `change` is added to one weight."""
    random = np.random.default_rng(3)
    kernel = random.normal(0, 0.001, (16, 3, 3, 3)).astype(np.float32)
    head = random.normal(0, 1.0, (16, CLASSES)).astype(np.float32)
    kernel[0, 0, 1, 1] += change
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES]),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(head, "head")]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def runner(data):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda _profile, images: session.run(["probabilities"], {"image": images})[0]


RIGHT = runner(graph_with())
REFERENCE = RIGHT(0, IMAGES)


def layers(kind):
    return json.dumps({"Layers": [{"LayerType": "CaskConvolution", "Weights": {"Type": kind, "Count": 432}}]})


def proved(run, precision="fp32", sizes=(8,)):
    kind = {"fp16": "Half"}.get(precision, "Float")
    return prove_plan("small/sm75.plan", precision, layers(kind), profiles_from_sizes(sizes), run, IMAGES, REFERENCE)


def test_a_right_plan_is_proved_at_every_batch_of_every_profile():
    """One image, three and eight wherever a profile admits them; the verdict says what was seen and allowed."""
    asked = []

    def run(profile, images):
        asked.append((profile, len(images)))
        return RIGHT(profile, images)

    verdict = proved(run, sizes=(1, 4, 8))
    assert asked == [(0, 1), (1, 1), (1, 3), (2, 1), (2, 3), (2, 8)]
    assert [(each["profile"], each["batch_size"]) for each in verdict["runs"]] == asked
    assert all(each["max_log_probability_difference"] < 1e-4 for each in verdict["runs"])
    assert {each["top1_agreement"] for each in verdict["runs"]} == {1.0}
    assert verdict["tolerance"] == BOUNDS["fp32"].log_probability_difference
    assert verdict["layers"]["single"] == 1
    assert json.loads(json.dumps(verdict)) == verdict


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_wrong_weight_is_found(precision):
    """The first run that shows it is named; FP16 allows more, so that the mistake must be larger."""
    wrong = runner(graph_with({"fp32": 0.001, "fp16": 0.03}[precision]))
    with pytest.raises(ParityFailed, match=r"small/sm75\.plan on profile 0 at batch 1: .*differ by up to"):
        proved(wrong, precision)


def test_what_fp32_refuses_fp16_may_allow():
    """One table, two tolerances: a weight off by a thousandth is within what FP16 does to such a network."""
    wrong = runner(graph_with(0.001))
    worst = max(run["max_log_probability_difference"] for run in proved(wrong, "fp16")["runs"])
    assert BOUNDS["fp32"].log_probability_difference < worst < BOUNDS["fp16"].log_probability_difference


def test_not_a_number_is_found_at_its_batch():
    """An FP16 overflow that only a full batch meets."""

    def run(profile, images):
        answer = RIGHT(profile, images)
        answer[7:] = np.nan
        return answer

    with pytest.raises(ParityFailed, match=r"on profile 0 at batch 8: .*no probabilities"):
        proved(run)


def test_a_wrong_batch_of_one_profile_is_found():
    """TensorRT 10.8 fixed such a fault: every profile has kernels of its own."""

    def run(profile, images):
        answer = RIGHT(profile, images)
        return answer[::-1] if (profile, len(images)) == (1, 3) else answer

    assert len(proved(run, sizes=(8,))["runs"]) == 3
    with pytest.raises(ParityFailed, match="on profile 1 at batch 3: "):
        proved(run, sizes=(1, 4, 8))


def test_an_answer_for_another_batch_size_is_found():
    """A buffer that was not resized."""
    with pytest.raises(ParityFailed, match=r"at batch 1: .*was expected"):
        proved(lambda profile, _: RIGHT(profile, IMAGES))


def test_fp16_needs_the_same_top1_on_half_of_a_batch():
    """Small differences everywhere that turn most answers over are no rounding; one image alone is no majority."""
    logits = np.log(REFERENCE)
    flat = logits - logits.mean(1, keepdims=True)
    near = np.exp(flat * 0.05)
    reference = (near / near.sum(1, keepdims=True)).astype(np.float32)
    turned = np.exp(-flat * 0.05)
    answers = (turned / turned.sum(1, keepdims=True)).astype(np.float32)
    profiles = profiles_from_sizes([8])
    with pytest.raises(ParityFailed, match="on profile 0 at batch 3: top-1 agrees on 0 of 3 inputs, 50% is expected"):
        prove_plan("x", "fp16", layers("Half"), profiles, lambda _, images: answers[: len(images)], IMAGES, reference)


def test_a_reference_of_zero_is_compared():
    """A trained network is sure: probabilities that float32 rounds to nothing have no logarithm."""
    reference = np.zeros((8, CLASSES), np.float32)
    reference[:, 2] = 1.0
    verdict = prove_plan(
        "x",
        "fp32",
        layers("Float"),
        profiles_from_sizes([8]),
        lambda _, images: reference[: len(images)],
        IMAGES,
        reference,
    )
    assert {run["max_log_probability_difference"] for run in verdict["runs"]} == {0.0}


def test_a_plan_in_another_precision_is_not_even_run():
    """Right answers at half the speed are the mistake that no answer shows."""
    with pytest.raises(PrecisionRejected, match=r"small/sm75\.plan"):
        prove_plan("small/sm75.plan", "fp16", layers("Float"), profiles_from_sizes([8]), None, IMAGES, REFERENCE)
