"""The networks: names and shapes of their parameters, heads, dropout, and what survives the export to ONNX."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from builder.architectures import module_from_spec, without_auxiliary_heads
from builder.architectures.layers import DownscalingDropout
from builder.catalog import MODELS

SHAPES = json.loads((Path(__file__).parents[2] / "data/parity/state_dict_shapes.json").read_text("utf-8"))
# One model of each family, and the factors its dropout leaves in the graph: plain Xception has none.
ONE_OF_EACH_FAMILY = {
    "GoogLeNet": [0.6],
    "InceptionV3": [0.8],
    "InceptionV4": [0.8],
    "Xception41": [],
    "Xception41_deeplab": [0.5],
}


def module_on_meta(name, classes=1000):
    """Shapes only: nothing is initialised, nothing is computed."""
    with torch.device("meta"):
        return module_from_spec(MODELS[name].with_classes(classes))


def paddle_layout(module):
    """(key, shape) of the module's state dict under Paddle's names: statistics renamed, linear weights in x out."""
    linear_weights = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    return [
        (
            key.replace(".running_mean", "._mean").replace(".running_var", "._variance"),
            list(reversed(tensor.shape)) if key in linear_weights else list(tensor.shape),
        )
        for key, tensor in module.state_dict().items()
        if not key.endswith(".num_batches_tracked")
    ]


@pytest.mark.parametrize("name", MODELS)
def test_the_state_dict_is_paddles_in_names_shapes_and_order(name):
    """Official weights fit with nothing missing, nothing left over and no table of names."""
    assert paddle_layout(module_on_meta(name)) == list(SHAPES[name].items())


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_named_and_has_as_many_outputs_as_asked_for(name):
    """`head` finds the main head's linear layer, whatever its name and class count."""
    module = module_on_meta(name, classes=37)
    head = module.get_submodule(module.head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 37
    assert module(torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 37)


@pytest.mark.parametrize("name", MODELS)
def test_every_served_input_size_gives_logits(name):
    """The main path takes any size of the catalog's range; PaddleClas's own T4 row of GoogLeNet is at 299."""
    module = module_on_meta(name)
    for height, width in ((96, 96), (224, 320), (299, 299), (512, 512)):
        assert module(torch.empty(1, 3, height, width, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("name", MODELS)
def test_a_module_comes_in_eval_mode(name):
    """Nobody has to remember `.eval()` before serving."""
    assert not any(layer.training for layer in module_on_meta(name).modules())


def test_auxiliary_heads_can_be_dropped_without_changing_the_answer():
    """They are training's: the main head computes the same without them, and nothing of them is left."""
    module = module_from_spec(MODELS["GoogLeNet"])
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        main, aux_1, aux_2 = module.forward_with_auxiliaries(image)
        lean = without_auxiliary_heads(module)
        assert torch.equal(main, lean(image))
    assert aux_1.shape == aux_2.shape == (1, 1000)
    assert sum(parameter.numel() for parameter in lean.parameters()) == 6_991_272


def test_dropping_auxiliary_heads_leaves_other_modules_alone():
    """The function may be called on anything, and twice."""
    module = module_on_meta("InceptionV3")
    keys = list(module.state_dict())
    assert list(without_auxiliary_heads(without_auxiliary_heads(module)).state_dict()) == keys


def test_dropout_multiplies_when_serving():
    """PaddlePaddle's `downscale_in_infer`: at inference every activation is scaled by 1 - p."""
    torch.testing.assert_close(DownscalingDropout(0.2).eval()(torch.ones(5)), torch.full((5,), 0.8))


def test_dropout_keeps_the_survivors_as_they_are_in_training():
    """The other half of that mode: no division by 1 - p."""
    dropped = DownscalingDropout(0.2).train()(torch.ones(1000))
    assert set(dropped.unique().tolist()) == {0.0, 1.0}


def exported(module):
    """The module as an ONNX graph of opset 17 with a free batch axis, through the exporter that the builder uses."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch marks this exporter as the legacy one
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, 96, 96),),
            buffer,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue()).graph


def constants(graph):
    """Values of the graph's scalar constants, by the name of their tensor."""
    values = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    values |= {tensor.name: tensor for tensor in graph.initializer}
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in values.items()}
    return {name: float(array) for name, array in arrays.items() if array.ndim == 0}


@pytest.mark.parametrize(("name", "kept"), ONE_OF_EACH_FAMILY.items())
def test_the_exported_graph_keeps_the_dropouts_factor_and_a_free_batch(name, kept):
    """The factor 1 - p is in the graph, nowhere else is one, and no shape is computed or baked in."""
    graph = exported(without_auxiliary_heads(module_from_spec(MODELS[name])))
    scalars = constants(graph)
    factors = [scalars[node.input[1]] for node in graph.node if node.op_type == "Mul"]
    assert factors == pytest.approx(kept)
    kinds = {node.op_type for node in graph.node}
    assert "GlobalAveragePool" in kinds
    assert not kinds & {"Shape", "Gather", "Reshape", "Dropout", "BatchNormalization"}
    batch, classes = graph.output[0].type.tensor_type.shape.dim
    assert (batch.dim_param, classes.dim_value) == ("batch", 1000)
