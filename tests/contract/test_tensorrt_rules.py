"""All sixteen files, as they are published, against the rules of TensorRT's parser."""

from __future__ import annotations

import onnx

from builder.onnx_graph import check_graph
from builder.tensorrt_rules import violations


def test_a_published_file_breaks_no_rule_of_tensorrt(published):
    """Nothing about opset, operators, types, attributes, shapes or weights is left for a GPU host to find."""
    assert violations(published.model) == []
    check_graph(published.model, published.spec)
    halves = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in published.model.graph.initializer)
    assert (halves > 0) == (published.precision == "fp16")
