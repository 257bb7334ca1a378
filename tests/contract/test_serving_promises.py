"""Promises of the served models that need the real server: batching, refusals, access."""

from __future__ import annotations

import importlib
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from builder.golden import golden_images
from client import InceptionClient, InvalidRequest, NotAllowed, UnknownModel
from client.connection import connection_from_urls
from client.grpc_transport import GrpcTransport
from client.images import crop_from_rgb, rgb_from_image
from client.operations import Infer, ListModels
from serving import serve

NAME = "googlenet_fp32"


def test_many_callers_at_once_get_the_answers_of_one_caller(client, photos):
    """The dynamic batcher joins their requests; every answer still belongs to its own picture."""
    alone = {photo: client.classify(photo, model="GoogLeNet", precision="fp32") for photo in photos}
    jobs = [photo for _ in range(16) for photo in photos]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda photo: client.classify(photo, model="GoogLeNet", precision="fp32"), jobs))
    for photo, answer in zip(jobs, answers, strict=True):
        assert [each.index for each in answer.predictions] == [each.index for each in alone[photo].predictions]
        scores = [each.score for each in alone[photo].predictions]
        assert [each.score for each in answer.predictions] == pytest.approx(scores, rel=1e-3)


def test_requests_are_really_batched(served):
    """Otherwise the test above proves nothing: fewer executions than inferences under load."""

    def counted(metric):
        text = urllib.request.urlopen(served.metrics_url, timeout=10).read().decode()  # noqa: S310 - our own loopback
        line = next(each for each in text.splitlines() if each.startswith(f'{metric}{{model="{NAME}"'))
        return float(line.rpartition(" ")[2])

    def both():
        return counted("nv_inference_count"), counted("nv_inference_exec_count")

    before = both()
    crop = golden_images(224)[:1]
    transport = GrpcTransport(connection_from_urls(served.grpc_url, token=served.token))
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: transport.send(Infer(NAME, "image", crop), 60.0), range(128)))
    transport.close()
    inferences, executions = (after - earlier for after, earlier in zip(both(), before, strict=True))
    assert inferences == 128
    assert executions < inferences


def test_path_bytes_and_array_give_the_same_answer(client, photos):
    """What an image is held in must not matter."""
    by_path = client.classify(photos[0], model=NAME)
    for image in (str(photos[0]), photos[0].read_bytes(), rgb_from_image(photos[0])):
        answer = client.classify(image, model=NAME)
        assert [each.index for each in answer.predictions] == [each.index for each in by_path.predictions]
        scores = [each.score for each in by_path.predictions]
        assert [each.score for each in answer.predictions] == pytest.approx(scores, rel=1e-4)


def test_fp16_is_taken_where_it_is_served_and_the_result_says_so(client, photos):
    """`precision=None` never guesses in silence."""
    assert client.classify(photos[0], model="GoogLeNet").precision == "fp16"
    assert client.classify(photos[0], model="Xception41").precision == "fp32"


def test_an_unknown_model_lists_what_is_served(client, photos):
    """A typing error is mended in one look."""
    with pytest.raises(UnknownModel, match="googlenet_fp32"):
        client.classify(photos[0], model="ResNet50")
    with pytest.raises(InvalidRequest, match="model may be left out only where one is served"):
        client.classify(photos[0])


@pytest.mark.parametrize("shape", [(9, 224, 224, 3), (1, 223, 224, 3), (1, 224, 224, 1), (224, 224, 3)])
def test_a_request_that_does_not_fit_is_refused_and_the_server_lives(served, client, photos, shape):
    """Over the maximum batch, another size, another rank."""
    transport = GrpcTransport(connection_from_urls(served.grpc_url, token=served.token))
    with pytest.raises(InvalidRequest):
        transport.send(Infer(NAME, "image", np.zeros(shape, np.uint8)), 30.0)
    transport.close()
    assert client.classify(photos[0], model=NAME).predictions


def test_without_the_token_inference_works_and_the_repository_index_does_not(served, photos):
    """What classifies is open on loopback, what reveals or changes is not."""
    with InceptionClient(served.grpc_url) as stranger:
        assert stranger.classify(photos[0], model=NAME).predictions
        for restricted in (stranger.models, stranger.server_statistics):
            with pytest.raises(NotAllowed, match="give the right token"):
                restricted()
    transport = GrpcTransport(connection_from_urls(served.grpc_url))
    with pytest.raises(NotAllowed):
        transport.send(ListModels(), 10.0)
    transport.close()


def test_health_asks_every_model(client, repository):
    """One real inference each."""
    health = client.health()
    assert {each.served_name for each in health} == {path.name for path in repository.iterdir()}
    assert all(each.is_healthy for each in health)


def test_a_server_of_one_model_is_healthy_although_the_repository_has_more(repository, photos):
    """`serving up --model X`: Triton's index goes on listing what it was told not to load."""
    with (
        serve(repository, ports="auto", models=[NAME], exit_timeout_s=5) as server,
        InceptionClient(server.grpc_url, token=server.token) as client,
    ):
        assert [each.served_name for each in client.wait_until_ready(30.0)] == [NAME]
        assert [contract.served_name for contract in client.models()] == [NAME]
        assert client.classify(photos[0]).served_name == NAME


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_tritonclients_own_call_gives_the_same_top1(served, client, photos, protocol):
    """NVIDIA's client, NVIDIA's classification extension, the SDK's crop: the same class, label and score."""
    module = importlib.import_module(f"tritonclient.{protocol}")
    url = served.grpc_url if protocol == "grpc" else served.http_url.removeprefix("http://")
    preprocessing = next(each for each in client.models() if each.served_name == NAME).preprocessing
    with module.InferenceServerClient(url) as raw:
        for photo in photos:
            crop = crop_from_rgb(rgb_from_image(photo), preprocessing)[None]
            tensor = module.InferInput("image", list(crop.shape), "UINT8")
            tensor.set_data_from_numpy(crop)
            output = module.InferRequestedOutput("probabilities", class_count=1)
            (answer,) = raw.infer(NAME, [tensor], outputs=[output]).as_numpy("probabilities").ravel()
            score, index, label = answer.decode().split(":")
            ours = client.classify(photo, model=NAME).best
            assert (int(index), label) == (ours.index, ours.label)
            assert float(score) == pytest.approx(ours.score, rel=1e-3)
