"""The client against a small real gRPC server in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from client import InceptionClient
from client.errors import (
    BadResponse,
    ClientClosed,
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    PreprocessMismatch,
    QueueFull,
    ServerUnavailable,
    UnknownModel,
)

# gRPC rounds a deadline up on its way to the server, by about a hundredth; here only its size matters.
GRPC_ROUNDING = 1.5
GREY = np.full((320, 320, 3), 117, dtype=np.uint8)


def aborting(code: grpc.StatusCode, text: str) -> Callable[..., None]:
    """A model that ends every request with that status."""

    def misbehave(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        context.abort(code, text)

    return misbehave


def hanging(server: Any, request: Any, context: grpc.ServicerContext) -> None:
    """A model that does not answer before the test is over."""
    server.finish.wait(timeout=30)


def error_of(call: Callable[[], object]) -> BaseException:
    """What `call` raises; a call that does not end fails the test instead of holding it for ever."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except InceptionError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive(), "the call did not end"
    assert raised, "the call raised nothing"
    return raised[0]


@pytest.fixture
def client(triton: Any) -> Any:
    with InceptionClient(triton.address, timeout_s=10) as client:
        yield client


# ---- the right answer


def test_an_image_is_answered_with_the_classes_of_what_was_sent(triton: Any, client: InceptionClient) -> None:
    """The result says what answered, and the best class is the one the server gave for these very pixels."""
    triton.serve("inception_v3_fp32")
    result = client.classify(GREY, model="InceptionV3", top_k=3)
    assert (result.best.index, result.best.label) == (117, "class 117")
    assert result.best.score == pytest.approx(0.9)
    assert [each.index for each in result.predictions] == [117, 0, 1]
    assert (result.model, result.served_name, result.precision) == ("InceptionV3", "inception_v3_fp32", "fp32")
    assert (result.version, result.release, result.emulated) == ("1", "0123456789abcdef", None)
    assert 0 < result.timings.inference_ms < result.timings.total_ms
    assert 0 < result.timings.preprocess_ms < result.timings.total_ms


@pytest.mark.parametrize("served", ["inception_v3_fp32", "googlenet_fp32"])
def test_the_server_receives_paddleclass_own_pixels(
    triton: Any, client: InceptionClient, photos: Path, crops: dict[str, np.ndarray], served: str
) -> None:
    """From a JPEG file to the wire, bit for bit, at the size that the model asks for."""
    triton.serve(served)
    sizes = "256_224" if served == "googlenet_fp32" else "320_299"
    for photo in ("cat", "coffee", "rocket"):
        client.classify(photos / f"{photo}.jpg")
        np.testing.assert_array_equal(triton.images[-1], crops[f"{photo}_{sizes}"][np.newaxis])


def test_a_models_description_is_read_once(triton: Any, client: InceptionClient) -> None:
    """After the first call each image costs one request."""
    triton.serve("inception_v3_fp32")
    client.classify(GREY, model="InceptionV3")
    triton.calls.clear()
    for _ in range(3):
        client.classify(GREY, model="InceptionV3")
    assert triton.calls == ["ModelInfer"] * 3


def test_the_token_goes_with_every_call(triton: Any, token: str) -> None:
    """Without a token no header is sent."""
    triton.serve("inception_v3_fp32")
    with InceptionClient(triton.address, token=token) as client:
        client.classify(GREY)
    assert set(triton.tokens) == {token}
    triton.tokens.clear()
    with InceptionClient(triton.address) as client:
        client.classify(GREY)
    assert set(triton.tokens) == {None}


def test_the_server_is_told_the_time_left(triton: Any, client: InceptionClient) -> None:
    """So that it drops what nobody waits for any more; in microseconds, as Triton wants it."""
    triton.serve("inception_v3_fp32")
    client.classify(GREY)
    assert 5e6 < triton.timeouts_us[0] <= 10e6


def test_threads_share_one_client(triton: Any, client: InceptionClient) -> None:
    """Sixteen threads, each gets the answer to its own image."""
    triton.serve("inception_v3_fp32")
    found: dict[int, int] = {}

    def classify(value: int) -> None:
        picture = np.full((320, 320, 3), value, dtype=np.uint8)
        found[value] = client.classify(picture, "InceptionV3", top_k=1).best.index

    threads = [threading.Thread(target=classify, args=(value,)) for value in range(0, 240, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == {value: value for value in range(0, 240, 15)}


# ---- which model


def test_fp16_is_taken_where_it_is_served_and_fp32_elsewhere(triton: Any, client: InceptionClient) -> None:
    """precision=None; the result says which it was."""
    for name in ("inception_v3_fp16", "inception_v3_fp32", "googlenet_fp32"):
        triton.serve(name)
    assert client.classify(GREY, "InceptionV3").precision == "fp16"
    assert client.classify(GREY, "InceptionV3", "fp32").precision == "fp32"
    assert client.classify(GREY, "GoogLeNet").precision == "fp32"


@pytest.mark.parametrize("model", ["InceptionV3", "inceptionv3", "inception_v3", "inception_v3_fp32"])
def test_a_model_is_known_by_all_its_names(triton: Any, client: InceptionClient, model: str) -> None:
    """PaddleClas's, the slug, and the served one."""
    triton.serve("inception_v3_fp32")
    assert client.classify(GREY, model).served_name == "inception_v3_fp32"


def test_a_model_at_an_unusual_size_is_found_by_its_slug(triton: Any, client: InceptionClient) -> None:
    """The size comes from the contract, not from the name."""
    triton.models["googlenet_299_fp32"] = triton.serve("googlenet_fp32")
    triton.models["googlenet_fp32"].crop = 224
    assert client.classify(GREY, "googlenet_299").served_name == "googlenet_299_fp32"


def test_the_model_may_be_left_out_where_one_is_served(triton: Any, client: InceptionClient) -> None:
    """In two precisions it is still one; strangers in the repository do not count."""
    triton.serve("inception_v3_fp32")
    triton.serve("inception_v3_fp16")
    triton.models["resnet50_onnx"] = triton.models["inception_v3_fp32"]
    assert client.classify(GREY).served_name == "inception_v3_fp16"


def test_the_model_may_not_be_left_out_where_two_are_served(triton: Any, client: InceptionClient) -> None:
    """Nothing is guessed; the message lists them."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp32")
    with pytest.raises(InvalidRequest, match="googlenet_fp32, inception_v3_fp32"):
        client.classify(GREY)


@pytest.mark.parametrize(
    ("model", "precision"), [("ResNet50", None), ("Xception71", None), ("InceptionV3", "fp16"), ("googlenet_299", None)]
)
def test_a_model_that_is_not_served_is_refused_with_what_is(
    triton: Any, client: InceptionClient, model: str, precision: str | None
) -> None:
    """Case 10: unknown to the table, or merely not there."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp32")
    with pytest.raises(UnknownModel, match="served are: googlenet_fp32, inception_v3_fp32"):
        client.classify(GREY, model, precision)
    assert "ModelInfer" not in triton.calls


def test_a_contradiction_is_refused(triton: Any, client: InceptionClient) -> None:
    """The name says fp16, the option fp32."""
    with pytest.raises(InvalidRequest, match="is fp16, but precision='fp32'"):
        client.classify(GREY, "inception_v3_fp16", "fp32")
    assert triton.calls == []


@pytest.mark.parametrize(
    "options",
    [
        {"model": 3},
        {"model": ["InceptionV3"]},
        {"precision": "int8"},
        {"precision": 16},
        {"top_k": 0},
        {"top_k": -1},
        {"top_k": True},
        {"top_k": 2.0},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    triton: Any, client: InceptionClient, options: dict[str, object]
) -> None:
    """Before an inference is spent on them."""
    triton.serve("inception_v3_fp32")
    with pytest.raises(InvalidRequest):
        client.classify(GREY, **options)
    assert "ModelInfer" not in triton.calls


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e9, "30", True])
def test_a_timeout_that_makes_no_sense_is_refused(timeout_s: object) -> None:
    """Each call must end."""
    with pytest.raises(InvalidRequest, match="timeout_s"):
        InceptionClient("127.0.0.1:1", timeout_s=timeout_s)


def test_models_lists_what_is_served_with_its_contract(triton: Any, client: InceptionClient) -> None:
    """By name; what is not ready and what is not ours is left out."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp16")
    triton.serve("xception41_fp32", is_ready=False)
    triton.models["resnet50_onnx"] = triton.models["inception_v3_fp32"]
    found = client.models()
    assert [each.served_name for each in found] == ["googlenet_fp16", "inception_v3_fp32"]
    assert [each.preprocessing.crop for each in found] == [224, 299]


# ---- what is restricted


def test_where_listing_is_restricted_the_usual_names_are_asked_for(triton: Any, client: InceptionClient) -> None:
    """Without a token the index is closed; readiness and configs are open."""
    triton.restricted = {"RepositoryIndex"}
    triton.serve("inception_v3_fp32")
    assert client.classify(GREY).served_name == "inception_v3_fp32"
    assert triton.calls.count("ModelReady") == 16
    with pytest.raises(NotAllowed, match="right token"):
        client.models()
    with pytest.raises(UnknownModel, match="served are: inception_v3_fp32"):
        client.classify(GREY, "Xception71")


def test_a_restricted_inference_without_the_token_is_not_allowed(triton: Any, token: str) -> None:
    """Case 27: gRPC calls it UNAVAILABLE; it is no dead server."""
    triton.restricted = {"ModelInfer"}
    triton.serve("inception_v3_fp32")
    for wrong in (None, "wrong-token"):
        with InceptionClient(triton.address, token=wrong) as client, pytest.raises(NotAllowed, match="right token"):
            client.classify(GREY)
    with InceptionClient(triton.address, token=token) as client:
        assert client.classify(GREY).best.index == 117


# ---- wrong answers


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": lambda batch: np.full((1, 1000), np.nan, dtype=np.float32)},
        {"answer": lambda batch: np.full((1, 1000), 0.5, dtype=np.float32)},
        {"answer": lambda batch: np.full((1, 2), 0.5, dtype=np.float32)},
        {"answer": lambda batch: np.full((2, 1000), 0.001, dtype=np.float32)},
        {"answer": lambda batch: np.full((1, 1000), 0.001, dtype=np.float16)},
        {"datatype": "FP16"},
        {"output_name": "logits"},
    ],
)
def test_a_wrong_answer_is_never_used(triton: Any, client: InceptionClient, changes: dict[str, object]) -> None:
    """Case 13: Triton passes on an output that is smaller than its config says."""
    triton.serve("inception_v3_fp32", **changes)
    with pytest.raises(BadResponse, match="inception_v3_fp32"):
        client.classify(GREY)


def test_a_model_with_another_preprocessing_is_refused_before_inference(triton: Any, client: InceptionClient) -> None:
    """The contract is checked when it is read."""
    triton.serve("inception_v3_fp32", told={"preprocess_sha256": "0" * 64})
    with pytest.raises(PreprocessMismatch):
        client.classify(GREY)
    assert "ModelInfer" not in triton.calls


def test_a_model_that_takes_floats_is_refused(triton: Any, client: InceptionClient) -> None:
    """Such a model wants normalised pixels; sending it bytes would give nonsense."""
    triton.serve("inception_v3_fp32", input_type=model_config_pb2.TYPE_FP32)
    with pytest.raises(BadResponse, match="its input is"):
        client.classify(GREY)


# ---- a server in trouble


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy", InferenceFailed),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", InvalidRequest),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", QueueFull),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", Overloaded),
        (grpc.StatusCode.UNAVAILABLE, "Server is stopping", ServerUnavailable),
        (grpc.StatusCode.CANCELLED, "shutting down", ServerUnavailable),
    ],
)
def test_each_trouble_has_its_own_error(
    triton: Any, client: InceptionClient, code: grpc.StatusCode, text: str, kind: type[Exception]
) -> None:
    """Cases 12 and 17: the caller decides by type, not by text."""
    triton.serve("inception_v3_fp32", misbehave=aborting(code, text))
    with pytest.raises(kind, match=text) as caught:
        client.classify(GREY)
    assert type(caught.value) is kind


def test_a_servers_paths_and_traces_do_not_reach_the_message(triton: Any, client: InceptionClient) -> None:
    """Case 12: Triton sends the stack of a failing model.py."""
    text = "ValueError: bad /srv/secret/models/1/model.py\n\nAt:\n  /srv/secret/models/1/model.py(40): execute\n"
    triton.serve("inception_v3_fp32", misbehave=aborting(grpc.StatusCode.INTERNAL, text))
    with pytest.raises(InferenceFailed) as caught:
        client.classify(GREY)
    assert "ValueError: bad (path)" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_model_that_hangs_ends_at_the_deadline(triton: Any) -> None:
    """Case 18: the client stops waiting, and the server was told when, twice, while it still holds the request."""
    triton.serve("inception_v3_fp32", misbehave=hanging)
    with InceptionClient(triton.address, timeout_s=1.5) as client:
        error = error_of(lambda: client.classify(GREY, "InceptionV3"))
    assert isinstance(error, DeadlineExceeded)
    assert "did not answer in time" in str(error)
    assert (triton.calls[-1], triton.answered) == ("ModelInfer", 0)
    assert 0 < triton.deadlines_s[-1] < GRPC_ROUNDING * 1.5
    assert 0 < triton.timeouts_us[-1] <= 1.5e6


def test_a_peer_that_says_nothing_ends_at_the_deadline() -> None:
    """Case 19: a black hole accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with InceptionClient(address, timeout_s=0.5) as client:
            error = error_of(lambda: client.classify(GREY, "InceptionV3"))
    assert isinstance(error, DeadlineExceeded | ServerUnavailable)


def test_nobody_at_the_address_is_server_unavailable() -> None:
    """Case 15: told when the connection is refused (at the deadline it would be `DeadlineExceeded`), with a way out."""
    refused = pytest.raises(ServerUnavailable, match=r"no server answers at 127\.0\.0\.1:9.*start it")
    with InceptionClient("127.0.0.1:9", timeout_s=5) as client, refused:
        client.classify(GREY, "InceptionV3")


def test_a_bad_image_costs_no_connection() -> None:
    """Case 1: nobody listens there, and nobody is asked."""
    with InceptionClient("127.0.0.1:9") as client, pytest.raises(InvalidImage):
        client.classify(b"<html></html>", "InceptionV3")


# ---- a server that changes


def test_a_model_replaced_during_the_clients_life_is_described_anew(triton: Any, client: InceptionClient) -> None:
    """The reply's version gives it away; the answer comes with the new release's labels and preprocessing."""
    triton.serve("inception_v3_fp32")
    assert client.classify(GREY, "InceptionV3").release == "0123456789abcdef"
    triton.serve("inception_v3_fp32", told={"release": "fedcba9876543210"}, version="2")
    result = client.classify(GREY, "InceptionV3")
    assert (result.release, result.version) == ("fedcba9876543210", "2")
    triton.calls.clear()
    client.classify(GREY, "InceptionV3")
    assert triton.calls == ["ModelInfer"]


def test_a_reply_of_a_version_that_the_server_does_not_list_is_not_used(triton: Any, client: InceptionClient) -> None:
    """A model republished in a loop ends in an error, not in a mixture of two releases."""
    model = triton.serve("inception_v3_fp32")

    def advance(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        model.version = str(int(model.version) + 1)

    model.misbehave = advance
    with pytest.raises(BadResponse, match="republished in a loop"):
        client.classify(GREY, "InceptionV3")


def test_a_withdrawn_precision_gives_way_to_the_one_still_served(triton: Any, client: InceptionClient) -> None:
    """precision=None means what is served now."""
    triton.serve("inception_v3_fp16")
    triton.serve("inception_v3_fp32")
    assert client.classify(GREY, "InceptionV3").precision == "fp16"
    del triton.models["inception_v3_fp16"]
    assert client.classify(GREY, "InceptionV3").precision == "fp32"
    del triton.models["inception_v3_fp32"]
    with pytest.raises(UnknownModel, match="no model of this project is served"):
        client.classify(GREY, "InceptionV3")


def test_a_restarted_server_is_found_again(start_server: Callable[..., grpc.Server], small_triton: Any) -> None:
    """The channel's own back-off is short, so that waiting for a restart does not take minutes."""
    first = small_triton()
    first.serve("inception_v3_fp32")
    server = start_server(first)
    port = int(first.address.rpartition(":")[2])
    with InceptionClient(first.address, timeout_s=5) as client:
        client.classify(GREY)
        server.stop(grace=None).wait()
        with pytest.raises(ServerUnavailable):
            client.classify(GREY)
        second = small_triton()
        second.serve("inception_v3_fp32", told={"release": "fedcba9876543210"})
        server = start_server(second, port)
        client.wait_until_ready(10)
        assert client.classify(GREY).release == "fedcba9876543210"
        server.stop(grace=None).wait()


# ---- health


def test_health_is_one_real_inference_on_every_model(triton: Any, client: InceptionClient) -> None:
    """A model whose process has died is still called ready; only an inference tells."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp32", misbehave=aborting(grpc.StatusCode.INTERNAL, "Stub process is not healthy"))
    triton.serve("xception41_fp32", is_ready=False)
    sick, well, missing = client.health()
    assert triton.calls.count("ModelInfer") == 2
    assert (sick.served_name, sick.is_healthy, type(sick.error)) == ("googlenet_fp32", False, InferenceFailed)
    assert (well.served_name, well.is_healthy, well.error) == ("inception_v3_fp32", True, None)
    assert well.latency_ms is not None
    assert (missing.served_name, missing.is_healthy) == ("xception41_fp32", False)
    assert "out of memory" in str(missing.error)


def test_health_gives_each_model_its_own_timeout(triton: Any) -> None:
    """One that hangs does not make the next look ill."""
    triton.serve("googlenet_fp32", misbehave=hanging)
    triton.serve("inception_v3_fp32")
    with InceptionClient(triton.address, timeout_s=1.0) as client:
        hung, well = client.health()
    assert (hung.served_name, type(hung.error)) == ("googlenet_fp32", DeadlineExceeded)
    assert (well.served_name, well.error) == ("inception_v3_fp32", None)


@pytest.mark.parametrize("unavailable", [("", ""), ("UNAVAILABLE", "unloaded")], ids=["never loaded", "unloaded"])
def test_a_model_that_nobody_loaded_is_not_missed(
    triton: Any, client: InceptionClient, unavailable: tuple[str, str]
) -> None:
    """In explicit mode Triton lists the whole repository: only what is loaded is to answer."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp32", is_ready=False, unavailable=unavailable)
    assert [(each.served_name, each.error) for each in client.health()] == [("inception_v3_fp32", None)]
    assert [each.served_name for each in client.wait_until_ready(2)] == ["inception_v3_fp32"]
    assert [each.served_name for each in client.models()] == ["inception_v3_fp32"]


@pytest.mark.parametrize("state", ["UNAVAILABLE", "LOADING", "UNLOADING"])
def test_a_model_on_its_way_or_in_failure_is_missed(triton: Any, client: InceptionClient, state: str) -> None:
    """It is to be served and does not answer, unlike one that nobody loaded."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp32", is_ready=False, unavailable=(state, "unloaded: out of memory"))
    sick, well = client.health()
    assert (sick.served_name, type(sick.error)) == ("googlenet_fp32", ServerUnavailable)
    assert well.is_healthy


def test_waiting_ends_when_every_model_answers(triton: Any, client: InceptionClient) -> None:
    """It probes again until the last one is there."""
    late = triton.serve("inception_v3_fp32", misbehave=aborting(grpc.StatusCode.UNAVAILABLE, "loading"))
    timer = threading.Timer(0.3, setattr, (late, "misbehave", None))
    timer.start()
    assert [each.is_healthy for each in client.wait_until_ready(10)] == [True]
    assert triton.calls.count("ModelInfer") >= 2
    timer.join()


def test_waiting_in_vain_ends_at_the_deadline_with_the_last_obstacle(triton: Any, client: InceptionClient) -> None:
    """Nobody there, and nothing served, are two different obstacles."""
    with pytest.raises(DeadlineExceeded, match=r"not ready within 0\.3 s.*serves no model"):
        client.wait_until_ready(0.3)
    with InceptionClient("127.0.0.1:9") as nobody, pytest.raises(DeadlineExceeded, match="no server answers"):
        nobody.wait_until_ready(0.3)


def test_waiting_ends_at_once_where_it_cannot_help(triton: Any, client: InceptionClient) -> None:
    """A damaged model does not mend itself: it is looked at once."""
    triton.serve("inception_v3_fp32", told={"preprocess_sha256": "0" * 64})
    with pytest.raises(PreprocessMismatch):
        client.wait_until_ready(20)
    assert triton.calls.count("RepositoryIndex") == 1


def test_waiting_has_one_deadline_for_all_models(triton: Any, client: InceptionClient) -> None:
    """The first model uses it up: the others are not asked, and the server was told of no more than it."""
    for name in ("googlenet_fp32", "inception_v3_fp32", "xception41_fp32"):
        triton.serve(name, misbehave=hanging)
    error = error_of(lambda: client.wait_until_ready(1.0))
    assert isinstance(error, DeadlineExceeded)
    assert "was not ready within 1 s; the last obstacle" in str(error)
    assert triton.calls.count("ModelInfer") == 1
    assert 0 < triton.deadlines_s[0] < GRPC_ROUNDING * 1.0
    assert 0 < triton.timeouts_us[0] <= 1e6


def test_waiting_gives_no_model_more_than_the_clients_own_timeout(triton: Any) -> None:
    """A model that hung once is asked again within a long wait."""
    model = triton.serve("inception_v3_fp32")

    def hang_once(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        model.misbehave = None
        hanging(server, request, context)

    model.misbehave = hang_once
    with InceptionClient(triton.address, timeout_s=0.5) as client:
        assert [each.is_healthy for each in client.wait_until_ready(20)] == [True]
    assert len(triton.deadlines_s) >= 2
    assert max(triton.deadlines_s) < GRPC_ROUNDING * 0.5
    assert max(triton.timeouts_us) <= 0.5e6


# ---- the end


def test_a_closed_client_says_so(triton: Any) -> None:
    """Closing twice is harmless."""
    triton.serve("inception_v3_fp32")
    with InceptionClient(triton.address) as client:
        client.classify(GREY)
    client.close()
    for call in (lambda: client.classify(GREY), client.models, client.health):
        with pytest.raises(ClientClosed, match="make a new one"):
            call()


def test_closing_ends_a_call_under_way(triton: Any, client: InceptionClient) -> None:
    """From another thread, without waiting for the deadline."""
    triton.serve("inception_v3_fp32", misbehave=hanging)
    ended: list[BaseException] = []

    def classify() -> None:
        try:
            client.classify(GREY)
        except ClientClosed as error:
            ended.append(error)

    thread = threading.Thread(target=classify)
    thread.start()
    while "ModelInfer" not in triton.calls and thread.is_alive():
        time.sleep(0.01)
    client.close()
    thread.join(timeout=5)
    assert len(ended) == 1
