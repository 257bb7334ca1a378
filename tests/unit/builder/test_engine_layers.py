"""The list of layers is read as TensorRT writes it.

The fixtures are reduced by hand, after the shape of inspector texts of TensorRT 8.6 and 10 in NVIDIA's guide and public
repositories; none was written by a plan of ours. For 11.2 no example was found: what it writes is not known here.
"""

from __future__ import annotations

import json

import pytest

from builder.engine_layers import LayerPrecisions, check_precisions, layer_precisions
from builder.errors import PrecisionRejected

NO_TYPES = "N/A due to dynamic shapes"


def tensor(told, name="x"):
    return {"Name": name, "Location": "Device", "Dimensions": [8, 64, 35, 35], "Format/Datatype": told}


def layer(kind, *, reads=NO_TYPES, writes=NO_TYPES, weights=None, tactic="", **more):
    described = {
        "Name": f"/body/{kind}",
        "LayerType": kind,
        "Inputs": [tensor(reads)],
        "Outputs": [tensor(writes)],
        "TacticName": tactic,
        **more,
    }
    return described | (
        {"ParameterType": "Convolution", "Weights": {"Type": weights, "Count": 9408}} if weights else {}
    )


def text(*layers):
    return json.dumps({"Layers": list(layers), "Bindings": ["image", "probabilities"]})


def counted(*layers):
    seen = layer_precisions(text(*layers))
    return seen.half, seen.single, seen.other, seen.unknown


@pytest.mark.parametrize(
    "kind", ["CaskConvolution", "CaskGemmConvolution", "CaskJitConv", "CudaDepthwiseConvolution", "CaskDeconvolutionV2"]
)
def test_weights_tell_the_precision_of_a_convolution(kind):
    """They do where tensors do not: with an open batch size their types are not said."""
    assert counted(layer(kind, weights="Half"), layer(kind, weights="Float")) == (1, 1, 0, 0)


def test_weights_are_believed_before_tensors():
    """A convolution may write FP32 for the softmax behind it and still compute in FP16."""
    assert counted(layer("CaskConvolution", weights="Half", reads="Row major linear FP32")) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Half", (1, 0, 0, 0)),
        ("Half(64,1:8,1225,35)", (1, 0, 0, 0)),
        ("Channel major FP16 format where channel % 8 == 0", (1, 0, 0, 0)),
        ("Float", (0, 1, 0, 0)),
        ("Row major linear FP32", (0, 1, 0, 0)),
        ("BFloat16", (0, 0, 1, 0)),
        ("Thirty-two wide channel vectorized row major Int8 format.", (0, 0, 1, 0)),
    ],
)
@pytest.mark.parametrize("kind", ["gemm", "correlation", "MatrixMultiply", "conv_act_pool"])
def test_tensors_tell_it_where_there_are_no_weights(kind, told, expected):
    """Regions that Myelin compiled list no weights; types come in the words of several releases."""
    assert counted(layer(kind, reads=told)) == expected


@pytest.mark.parametrize(
    ("tactic", "expected"),
    [
        ("sm75_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64", (1, 0, 0, 0)),
        ("turing_h1688cudnn_256x64_sliced1x2_ldg8_relu_exp_interior_nhwc_tn_v1", (1, 0, 0, 0)),
        ("volta_s884cudnn_256x64_ldg8_relu_exp_medium_nhwc_tn_v1", (1, 0, 0, 0)),
        ("volta_scudnn_128x64_relu_interior_nn_v1", (0, 1, 0, 0)),
        ("sm75_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize64x64x8", (0, 1, 0, 0)),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32", (0, 0, 1, 0)),
    ],
)
def test_the_kernel_name_is_the_last_witness(tactic, expected):
    """NVIDIA names kernels by their types and by the shape of the tensor core instruction."""
    seen = layer_precisions(text(layer("CaskConvolution", tactic=tactic)))
    assert (seen.half, seen.single, seen.other, seen.unknown) == expected
    assert seen.evidence == "convolutions and matrix products: 1 by kernel name"


def test_copies_and_pointwise_layers_are_not_counted():
    """An FP16 network begins and ends in FP32 on purpose: casts, normalisation and softmax are no convolutions."""
    plan = text(
        layer("Reformat", reads="Float", writes="Half", ParameterType="Reformat"),
        layer("kgen", reads="UInt8", writes="Float"),
        layer("CaskConvolution", weights="Half"),
        layer("PointWiseV2", reads="Float", writes="Float"),
        layer("CaskSoftMaxV2", reads="Float", writes="Float"),
    )
    assert layer_precisions(plan) == LayerPrecisions(1, 0, 0, 0, "convolutions and matrix products: 1 by weights")


def test_without_a_convolution_all_output_tensors_are_counted():
    """A network compiled into kernels of no telling name; the evidence says that it is weaker."""
    seen = layer_precisions(
        text(*[layer("kgen", writes="Half")] * 5, layer("kgen", writes="Float"), layer("NoOp", writes="Float"))
    )
    assert (seen.half, seen.single) == (5, 1)
    assert "output tensors" in seen.evidence
    check_precisions("x", "fp16", seen)


def test_convolutions_that_tell_nothing_are_unknown():
    """They are no reason to refuse as long as others tell."""
    plan = text(layer("CaskConvolution", weights="Half"), layer("CaskConvolution"))
    assert counted(*json.loads(plan)["Layers"]) == (1, 0, 0, 1)
    check_precisions("x", "fp16", layer_precisions(plan))


@pytest.mark.parametrize(("precision", "wrong"), [("fp16", "Float"), ("fp32", "Half"), ("fp16", "Int8")])
def test_a_plan_mostly_in_another_precision_is_refused(precision, wrong):
    """The silent FP32 plan is why this exists; the message has the counts and what told them."""
    right = {"fp16": "Half", "fp32": "Float"}[precision]
    plan = text(layer("CaskConvolution", weights=right), *[layer("CaskConvolution", weights=wrong)] * 3)
    with pytest.raises(PrecisionRejected, match=f"googlenet: 1 of 4 layers compute in {precision} .*4 by weights"):
        check_precisions("googlenet", precision, layer_precisions(plan))


def test_half_of_the_layers_is_not_most():
    """The bound itself is refused."""
    plan = text(layer("CaskConvolution", weights="Half"), layer("CaskConvolution", weights="Float"))
    with pytest.raises(PrecisionRejected, match="1 of 2"):
        check_precisions("x", "fp16", layer_precisions(plan))


def test_a_few_layers_in_fp32_are_let_through():
    """Weak typing keeps what is faster there."""
    plan = text(*[layer("CaskConvolution", weights="Half")] * 3, layer("gemm", reads="Float"))
    check_precisions("x", "fp16", layer_precisions(plan))


@pytest.mark.parametrize(
    "unreadable",
    [
        "",
        "not JSON",
        "[]",
        '{"Layers": null}',
        json.dumps({"Layers": ["/body/Conv + /body/Relu", "/body/Gemm"]}),
        text(layer("CaskConvolution")),
        text(layer("Myelin", reads="Half", writes="Half", Name="{ForeignNode[/body/Conv.../softmax]}")),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_plan_that_tells_nothing_is_refused(unreadable, precision):
    """Names only, no types, a region that shows only its outside: not seen is not proved."""
    with pytest.raises(PrecisionRejected, match=r"do not tell in what precision.*read from nothing"):
        check_precisions("x", precision, layer_precisions(unreadable))


def test_the_record_has_counts_and_evidence():
    """For the record beside the plan."""
    seen = layer_precisions(text(layer("CaskConvolution", weights="Half")))
    assert seen.as_dict() == {
        "half": 1, "single": 0, "other": 0, "unknown": 0, "evidence": "convolutions and matrix products: 1 by weights",
    }  # fmt: skip
