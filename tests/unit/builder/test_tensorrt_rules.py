"""Each rule of TensorRT is broken once, in a copy of a real graph, and told by name."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from builder.errors import ExportFailed
from builder.onnx_graph import check_graph
from builder.tensorrt_rules import violations

_SPEC = importlib.util.spec_from_file_location("damaged_graphs", Path(__file__).with_name("damaged_graphs.py"))
graphs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(graphs)


@pytest.fixture(scope="module")
def exported():
    """GoogLeNet at the smallest size, in both precisions."""
    return graphs.small_graphs()


@pytest.fixture
def model(exported):
    """An FP32 copy that a test may damage."""
    return copy.deepcopy(exported["fp32"])


@pytest.fixture
def half(exported):
    """An FP16 copy that a test may damage."""
    return copy.deepcopy(exported["fp16"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_the_builder_exports_breaks_no_rule(exported, precision):
    """The rules are not stricter than our own graphs."""
    assert violations(exported[precision]) == []


@pytest.mark.parametrize(("damage", "rule", "told"), graphs.FP32_DAMAGE.values(), ids=graphs.FP32_DAMAGE.keys())
def test_a_damaged_graph_breaks_that_rule_and_no_other(model, damage, rule, told):
    """The sentence names the rule and what broke it."""
    damage(model)
    assert_only(rule, told, model)


@pytest.mark.parametrize(("damage", "rule", "told"), graphs.FP16_DAMAGE.values(), ids=graphs.FP16_DAMAGE.keys())
def test_a_damaged_half_graph_breaks_that_rule_and_no_other(half, damage, rule, told):
    """One cast each way, a body in FP16, a softmax in FP32."""
    damage(half)
    assert_only(rule, told, half)


def assert_only(rule, told, model):
    broken = violations(model)
    assert {sentence.split(": ")[0] for sentence in broken} == {rule}, broken
    assert any(told in sentence for sentence in broken), broken


def test_average_pooling_that_says_whether_it_counts_padding_is_read(model):
    """Only the silent default is refused; which flag is right is the architecture's business."""
    graphs.pooling("AveragePool", count_include_pad=0)(model)
    assert violations(model) == []


def test_a_shape_may_be_stored_or_constant_but_not_computed(model):
    """INT64 is allowed there and nowhere else."""
    graphs.insert(
        model, graphs.node_of(model, "Gemm"), graphs.made("Reshape", graphs.store(model, "shape", np.int64([0, 1024])))
    )
    assert violations(model) == []
    reshape = graphs.node_of(model, "Reshape")
    reshape.input[1] = "computed"
    shape = helper.make_node("Shape", [reshape.input[0]], ["computed"], "/shape")
    model.graph.node.insert(list(model.graph.node).index(reshape), shape)
    broken = violations(model)
    assert "static input: Reshape '/Reshape_inserted' computes input 1, 'computed'; " in "".join(broken)
    assert any(sentence.startswith("operator: Shape '/shape'") for sentence in broken)


def test_a_fault_is_told_where_it_begins(model):
    """Two hundred tensors lie behind an open height; one sentence is enough."""
    graphs.open_height(model)
    assert len(violations(model)) == 1


def test_the_build_stops_with_the_first_five_sentences(model):
    """A wrong exporter setting breaks one rule at every node."""
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            graphs.set_attribute(node, "storage_order", 1)
    with pytest.raises(ExportFailed, match=r"pooling: .* and 8 more\. Nothing was published"):
        check_graph(model, graphs.SPEC)
