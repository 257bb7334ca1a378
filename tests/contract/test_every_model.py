"""Every catalog row, from PyTorch to the answer on the wire. A new model gets these tests by having a row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builder import MODELS
from builder.architectures import without_auxiliary_heads
from builder.golden import GOLDEN_NAMES, golden_images
from builder.labels import labels_for
from builder.manifest import read_manifest
from builder.onnx_export import logits_of
from builder.onnx_graph import INPUT, OUTPUT
from builder.parity import LOG_PROBABILITY_TOLERANCE, log_probabilities
from builder.preprocessing import preprocess_json
from builder.seeded import seeded_module
from client.connection import connection_from_urls
from client.grpc_transport import GrpcTransport
from client.images import crop_from_rgb, rgb_from_image
from client.names import SLUGS
from client.operations import Infer, ReadConfig

ROWS = [pytest.param(spec, "fp32", id=f"{spec.slug}-fp32") for spec in MODELS.values()] + [
    pytest.param(MODELS[name], "fp16", id=f"{MODELS[name].slug}-fp16") for name in ("GoogLeNet", "InceptionV3")
]


@pytest.fixture(scope="module")
def transport(served):
    connection = GrpcTransport(connection_from_urls(served.grpc_url, token=served.token))
    yield connection
    connection.close()


def test_builder_and_client_name_the_models_alike():
    """One literal table each, because neither imports the other."""
    assert {spec.name: spec.slug for spec in MODELS.values()} == SLUGS


@pytest.mark.parametrize(("spec", "precision"), ROWS)
def test_the_served_answer_is_torchs(transport, spec, precision):
    """torch = ONNX = what comes back over gRPC, on real photographs; FP16 within its own tolerance."""
    images = golden_images(spec.input_size)
    expected = log_probabilities(logits_of(without_auxiliary_heads(seeded_module(spec)), images))
    reply = transport.send(Infer(spec.served_name(precision), INPUT, images), 60.0)
    (output,) = reply.outputs
    answered = np.frombuffer(output.data, "<f4").reshape(output.shape)
    assert np.abs(np.log(answered) - expected).max() <= LOG_PROBABILITY_TOLERANCE[precision]
    assert (answered.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize(("spec", "precision"), ROWS)
def test_the_served_metadata_is_the_catalogs(client, transport, spec, precision):
    """Tensors, preprocessing, labels and release: everything a client relies on."""
    name = spec.served_name(precision)
    contract = next(each for each in client.models() if each.served_name == name)
    assert (contract.architecture, contract.precision) == (spec.name, precision)
    assert (contract.preprocessing.resize_short, contract.preprocessing.crop) == (spec.resize_short, spec.input_size)
    assert list(contract.labels) == labels_for(spec.classes, None)
    config = transport.send(ReadConfig(name), 30.0)
    (image,), (probabilities,) = config.inputs, config.outputs
    assert (image.name, image.data_type, image.dims) == (INPUT, "TYPE_UINT8", (spec.input_size, spec.input_size, 3))
    assert (probabilities.name, probabilities.data_type, probabilities.dims) == (OUTPUT, "TYPE_FP32", (spec.classes,))
    assert config.max_batch_size == 8
    assert json.loads(config.parameters["preprocess"]) == json.loads(preprocess_json(spec))


@pytest.mark.parametrize(("spec", "precision"), ROWS)
def test_the_manifest_tells_what_is_served(client, transport, repository, spec, precision):
    """Release and version on the wire are the manifest's, and its golden answers are what the server gives."""
    name = spec.served_name(precision)
    manifest = read_manifest(repository / name)
    contract = next(each for each in client.models() if each.served_name == name)
    assert (contract.release, contract.version) == (manifest["release"], str(manifest["version"]))
    assert contract.emulated == ("fp16 weights, fp32 arithmetic" if precision == "fp16" else None)
    reply = transport.send(Infer(name, INPUT, golden_images(spec.input_size)), 60.0)
    answered = np.frombuffer(reply.outputs[0].data, "<f4").reshape(reply.outputs[0].shape)
    for photo, row in zip(GOLDEN_NAMES, answered, strict=True):
        assert int(row.argmax()) == manifest["golden"][photo]["top1"]
        assert float(row.max()) == pytest.approx(manifest["golden"][photo]["probability"], rel=1e-2)
    assert manifest["parity"]["max_log_probability_difference"] <= manifest["parity"]["tolerance"]
    assert ("fp16" in manifest) == (precision == "fp16")


@pytest.mark.parametrize(("spec", "precision"), ROWS)
def test_a_photograph_is_classified_as_by_hand(client, transport, photos, spec, precision):
    """`classify(path)` = decode, resize, crop, infer, sort: done here step by step."""
    name = spec.served_name(precision)
    contract = next(each for each in client.models() if each.served_name == name)
    for photo in photos:
        answer = client.classify(photo, model=spec.name, precision=precision, top_k=5)
        crop = crop_from_rgb(rgb_from_image(Path(photo)), contract.preprocessing)
        reply = transport.send(Infer(name, INPUT, crop[None]), 60.0)
        scores = np.frombuffer(reply.outputs[0].data, "<f4")
        order = np.argsort(-scores, kind="stable")[:5]
        assert [each.index for each in answer.predictions] == order.tolist()
        assert [each.score for each in answer.predictions] == pytest.approx(scores[order].tolist(), rel=1e-4)
        assert answer.best.label == labels_for(1000, None)[order[0]]
        assert (answer.served_name, answer.release) == (name, contract.release)
