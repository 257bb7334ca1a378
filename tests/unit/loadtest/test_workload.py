"""What a load test sends, without a server."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from client import Classification, ModelContract, Prediction, Preprocessing, Timings
from loadtest.errors import MeasurementFailed, UsageError
from loadtest.workload import (
    EXAMPLE_PHOTOGRAPHS,
    FirstAnswers,
    Photograph,
    WantedModel,
    WeightedModel,
    photographs_in,
    requests,
    wanted_model,
    weighted_models,
)

LABELS = ("cat", "dog", "fish")


def contract(served_name: str, emulated: str | None = None) -> ModelContract:
    return ModelContract(
        served_name=served_name,
        version="1",
        architecture="not looked at",
        precision=served_name[-4:],
        release="0123456789abcdef",
        preprocessing=Preprocessing(256, 224, "00"),
        labels=LABELS,
        emulated=emulated,
        input_name="image",
        output_name="probabilities",
        max_batch_size=8,
    )


SERVED = [contract(name) for name in ("googlenet_fp32", "inception_v3_fp16", "inception_v3_fp32")]


def chosen(*texts: str) -> dict[str, float]:
    """Served name and weight of each model chosen."""
    models = weighted_models(SERVED, [wanted_model(text) for text in texts])
    return {model.contract.served_name: model.weight for model in models}


def answer(index: int, release: str = "0123456789abcdef", served_name: str = "googlenet_fp32") -> Classification:
    best = Prediction(index, LABELS[index], 0.9)
    return Classification((best,), "GoogLeNet", served_name, "fp32", "1", release, None, Timings(1.0, 1.0, 2.0))


def test_the_examples_are_read_in_the_order_of_their_names():
    """Whatever order the file system has them in; texts beside them are left alone."""
    photographs = photographs_in(EXAMPLE_PHOTOGRAPHS)
    assert [photograph.name for photograph in photographs] == ["cat.jpg", "coffee.jpg", "rocket.jpg"]
    assert all(photograph.jpeg.startswith(b"\xff\xd8\xff") for photograph in photographs)


def test_a_directory_without_a_sound_jpeg_is_refused(tmp_path: Path):
    """None there, nothing in it, and a damaged one: each is named."""
    with pytest.raises(UsageError, match=r"absent cannot be read \(No such file"):
        photographs_in(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UsageError, match=r"holds no JPEG; expected files that end in \.jpg or \.jpeg"):
        photographs_in(tmp_path)
    (tmp_path / "half.JPG").write_bytes((EXAMPLE_PHOTOGRAPHS / "cat.jpg").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"half\.JPG cannot be classified"):
        photographs_in(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("googlenet", WantedModel("googlenet", 1.0)), (" InceptionV3 =2.5", WantedModel("InceptionV3", 2.5))],
)
def test_a_model_may_be_followed_by_its_weight(text, expected):
    """One, where it is not."""
    assert wanted_model(text) == expected


@pytest.mark.parametrize("text", ["", "=3", "googlenet=", "googlenet=0", "googlenet=-1", "a=b", "a=nan", "a=inf"])
def test_a_weight_is_a_number_above_zero(text):
    """Anything else is refused with what was expected."""
    with pytest.raises(UsageError, match="expected NAME or NAME=WEIGHT, a number above 0"):
        wanted_model(text)


def test_every_served_model_is_asked_for_equally_where_none_is_named():
    """Both precisions of one architecture are two models."""
    assert chosen() == {"googlenet_fp32": 1, "inception_v3_fp16": 1, "inception_v3_fp32": 1}


def test_a_name_means_the_model_that_it_means_to_the_client():
    """fp16 where it is served, else fp32; PaddleClas's names and the served ones alike."""
    assert chosen("InceptionV3=3", "GoogLeNet") == {"inception_v3_fp16": 3, "googlenet_fp32": 1}
    assert chosen("inception_v3_fp32=2") == {"inception_v3_fp32": 2}


@pytest.mark.parametrize("name", ["xception71", "googlenet_fp16", "googlenet_299", "resnet50"])
def test_a_model_that_is_not_served_is_refused_with_those_that_are(name):
    """Also another precision or size of one that is."""
    with pytest.raises(UsageError, match=f"model '{name}' is not served; served are: googlenet_fp32, inception_v3_fp"):
        chosen(name)


def test_a_server_without_models_is_no_thing_to_measure():
    """Neither by name nor without one."""
    with pytest.raises(UsageError, match="nothing to measure: no model of this project is served there"):
        weighted_models([], [])
    with pytest.raises(UsageError, match="'googlenet' is not served; no model of this project is served there"):
        weighted_models([], [WantedModel("googlenet", 1)])


def test_two_names_of_one_model_are_refused():
    """Which weight was meant cannot be known."""
    with pytest.raises(UsageError, match="'inception_v3_fp16' is asked for twice"):
        chosen("InceptionV3=3", "inception_v3_fp16=1")


def sent(seed: str, count: int = 4000) -> list[tuple[str, str]]:
    models = [WeightedModel(SERVED[0], 1), WeightedModel(SERVED[1], 3)]
    photographs = [Photograph("a.jpg", b""), Photograph("b.jpg", b"")]
    return [
        (model.contract.served_name, photo.name) for model, photo in islice(requests(models, photographs, seed), count)
    ]


def test_the_same_seed_gives_the_same_requests_and_another_gives_others():
    """A run can be repeated, and two users do not march in step."""
    assert sent("0/0/1") == sent("0/0/1")
    assert sent("0/0/1") != sent("0/0/2")


def test_models_are_asked_for_by_weight_and_photographs_equally():
    """Of 4000 requests to weights 1 and 3: a quarter and three quarters, within 5 standard deviations (137)."""
    seen = Counter(sent("0"))
    models, photographs = Counter[str](), Counter[str]()
    for (model, photograph), count in seen.items():
        models[model] += count
        photographs[photograph] += count
    assert abs(models["googlenet_fp32"] - 1000) <= 137
    assert abs(photographs["a.jpg"] - 2000) <= 158
    assert len(seen) == 4


def test_a_reply_is_a_float32_a_class():
    """What the server sends for one image."""
    assert WeightedModel(SERVED[0], 1).reply_bytes == 4 * len(LABELS)


def test_a_model_that_only_imitates_is_described_as_such():
    """Figures of an emulated model are never taken for a GPU's."""
    real = WeightedModel(SERVED[0], 1)
    imitated = WeightedModel(contract("googlenet_fp16", "fp16 weights, fp32 arithmetic"), 0.5)
    assert real.described() == "googlenet_fp32: weight 1, release 0123456789abcdef"
    assert imitated.described().endswith(
        "weight 0.5, release 0123456789abcdef, emulated: fp16 weights, fp32 arithmetic"
    )


def test_an_answer_must_be_the_first_one_again():
    """For the same photograph, model and release; another of each starts anew."""
    cat, dog = Photograph("cat.jpg", b""), Photograph("dog.jpg", b"")
    answers = FirstAnswers()
    answers.check(cat, answer(0))
    answers.check(cat, answer(0))
    answers.check(dog, answer(1))
    answers.check(cat, answer(1, release="fedcba9876543210"))
    answers.check(cat, answer(2, served_name="inception_v3_fp32"))
    with pytest.raises(
        MeasurementFailed, match=r"googlenet_fp32 release 0123456789abcdef answered cat\.jpg with another"
    ):
        answers.check(cat, answer(2))


def test_contradictions_of_one_photograph_count_as_one_kind_of_failure():
    """locust counts failures by their text: a thousand classes must not become a thousand rows."""
    cat, answers, texts = Photograph("cat.jpg", b""), FirstAnswers(), set()
    answers.check(cat, answer(0))
    for index in (1, 2):
        with pytest.raises(MeasurementFailed) as failure:
            answers.check(cat, answer(index))
        texts.add(str(failure.value))
    assert len(texts) == 1
