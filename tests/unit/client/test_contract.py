"""The served contract: taken as it stands, or refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from subprocess import run

import pytest

from client.contract import ModelContract, Preprocessing, ServedConfig, ServedTensor, contract_from_config
from client.errors import BadResponse, InceptionError, PreprocessMismatch

Parameters = Callable[..., dict[str, str]]
Preprocess = Callable[..., dict[str, object]]


def served(parameters: dict[str, str], name: str = "inception_v3_fp32", crop: int = 299) -> ServedConfig:
    return ServedConfig(
        name=name,
        version="3",
        max_batch_size=8,
        inputs=(ServedTensor("image", "TYPE_UINT8", (crop, crop, 3)),),
        outputs=(ServedTensor("probabilities", "TYPE_FP32", (1000,)),),
        parameters=parameters,
    )


def test_a_contract_is_read_as_the_builder_writes_it(parameters: Parameters) -> None:
    """Every field comes from the server; the labels are kept in order."""
    contract = contract_from_config(served(parameters()))
    assert contract == ModelContract(
        served_name="inception_v3_fp32",
        version="3",
        architecture="InceptionV3",
        precision="fp32",
        release="0123456789abcdef",
        preprocessing=Preprocessing(320, 299, parameters()["preprocess_sha256"]),
        labels=tuple(f"class {index}" for index in range(1000)),
        emulated=None,
        input_name="image",
        output_name="probabilities",
        max_batch_size=8,
    )


def test_what_a_server_only_imitates_is_kept(parameters: Parameters) -> None:
    """`emulated` is written only where it applies."""
    told = parameters() | {"emulated": "fp16 weights, fp32 arithmetic"}
    assert contract_from_config(served(told)).emulated == "fp16 weights, fp32 arithmetic"


@pytest.mark.parametrize(
    ("architecture", "precision", "name"),
    [
        ("GoogLeNet", "fp16", "googlenet_fp16"),
        ("GoogLeNet", "fp32", "googlenet_299_fp32"),
        ("Xception41_deeplab", "fp16", "xception41_deeplab_fp16"),
        ("Xception71", "fp32", "xception71_fp32"),
    ],
)
def test_a_name_fits_its_architecture_at_any_size(
    parameters: Parameters, architecture: str, precision: str, name: str
) -> None:
    """A size suffix belongs to the name, not to the architecture."""
    contract = contract_from_config(served(parameters(architecture, precision), name))
    assert (contract.architecture, contract.precision) == (architecture, precision)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "paddleclas-imagenet-eval-v2"},
        {"interpolation": "pillow-bicubic"},
        {"decode": "8-bit RGB"},
        {"channel_order": "BGR"},
        {"layout": "CHW"},
        {"flip": True},
        {"crop": 321},
        {"crop": 0},
        {"crop": "299"},
        {"crop": True},
        {"resize_short": 320.0},
        {"resize_short": 10**9},
    ],
    ids=str,
)
def test_a_preprocessing_that_is_not_implemented_is_refused(
    parameters: Parameters, preprocess: Preprocess, change: dict[str, object]
) -> None:
    """Its hash may be right: what this client does not do, it does not pretend to do."""
    with pytest.raises(PreprocessMismatch, match="inception_v3_fp32"):
        contract_from_config(served(parameters(rule=preprocess(**change))))


def test_a_preprocessing_that_lacks_a_step_is_refused(parameters: Parameters, preprocess: Preprocess) -> None:
    """A missing step has no default."""
    rule = preprocess()
    del rule["interpolation"]
    with pytest.raises(PreprocessMismatch, match="has the steps"):
        contract_from_config(served(parameters(rule=rule)))


def test_a_tampered_preprocessing_is_refused(parameters: Parameters) -> None:
    """One changed digit, and the hash no longer matches."""
    told = parameters()
    told["preprocess"] = told["preprocess"].replace("320", "322")
    with pytest.raises(PreprocessMismatch, match="was altered"):
        contract_from_config(served(told))


def test_tampered_labels_are_refused(parameters: Parameters) -> None:
    """A wrong label is a wrong answer."""
    told = parameters()
    told["labels"] = told["labels"].replace("class 7", "class 8", 1)
    with pytest.raises(BadResponse, match="labels_sha256"):
        contract_from_config(served(told))


@pytest.mark.parametrize("key", sorted({"architecture", "precision", "release", "preprocess", "preprocess_sha256"}))
def test_a_missing_parameter_is_named(parameters: Parameters, key: str) -> None:
    """The message says which one."""
    told = parameters()
    del told[key]
    with pytest.raises(BadResponse, match=f"'{key}' is missing"):
        contract_from_config(served(told))


def test_labels_that_do_not_fit_the_head_are_refused(parameters: Parameters) -> None:
    """classes, labels and the output's size are one number said three times."""
    for labels in (["cat"], [f"class {index}" for index in range(1001)]):
        with pytest.raises(BadResponse):
            contract_from_config(served(parameters(labels=labels)))
    with pytest.raises(BadResponse, match="classes = '999'"):
        contract_from_config(served(parameters() | {"classes": "999"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inputs", ()),
        ("inputs", (ServedTensor("image", "TYPE_FP32", (299, 299, 3)),)),
        ("inputs", (ServedTensor("image", "TYPE_UINT8", (3, 299, 299)),)),
        ("inputs", (ServedTensor("image", "TYPE_UINT8", (224, 224, 3)),)),
        ("inputs", (ServedTensor("image", "TYPE_UINT8", (299, 299, 3)),) * 2),
        ("outputs", (ServedTensor("logits", "TYPE_FP32", (1000,)),)),
        ("outputs", (ServedTensor("probabilities", "TYPE_FP16", (1000,)),)),
        ("max_batch_size", 0),
    ],
)
def test_tensors_that_are_not_the_contracts_are_refused(parameters: Parameters, field: str, value: object) -> None:
    """Name, dtype and shape of input and output are part of the contract."""
    with pytest.raises(BadResponse):
        contract_from_config(dataclasses.replace(served(parameters()), **{field: value}))


@pytest.mark.parametrize(
    ("architecture", "precision"), [("InceptionV4", "fp32"), ("InceptionV3", "fp16"), ("ResNet50", "fp32")]
)
def test_another_model_under_this_name_is_refused(parameters: Parameters, architecture: str, precision: str) -> None:
    """A folder that holds something else must not answer in its name."""
    with pytest.raises(BadResponse, match="not what its name says"):
        contract_from_config(served(parameters(architecture, precision)))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "7", "[1]", '"text"'])
def test_parameters_that_are_not_what_they_must_be_give_our_errors(parameters: Parameters, text: str) -> None:
    """No JSON error, no RecursionError, no KeyError."""
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    for key in ("preprocess", "labels"):
        with pytest.raises(InceptionError):
            contract_from_config(served(parameters() | {key: text, f"{key}_sha256": digest}))


def test_a_contract_can_be_printed_as_json(parameters: Parameters) -> None:
    """The labels stay out: a thousand lines help nobody."""
    printed = json.loads(json.dumps(contract_from_config(served(parameters())).to_dict()))
    assert printed["input_size"] == 299
    assert printed["classes"] == 1000
    assert "labels" not in printed


def test_the_contract_needs_only_the_standard_library() -> None:
    """It must not draw in numpy, Pillow, OpenCV or gRPC."""
    script = (
        "import importlib.util, sys, types\n"
        "package = types.ModuleType('client'); package.__path__ = [sys.argv[1]]; sys.modules['client'] = package\n"
        "import client.contract, client.results, client.names, client.errors, client.settings, client.deadline\n"
        "print(*sorted({'numpy', 'PIL', 'cv2', 'grpc', 'tritonclient', 'torch'} & set(sys.modules)))\n"
    )
    import client

    done = run(
        [sys.executable, "-c", script, client.__path__[0]], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
