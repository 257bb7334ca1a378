"""The eight rows, their names and sizes."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.catalog import MODELS, spec_from_name
from builder.errors import UnknownModel, UsageError


def test_the_catalog_is_paddleclas_inception_series() -> None:
    """Eight models under PaddleClas's own names; a row's key is its name."""
    assert list(MODELS) == [
        "GoogLeNet", "InceptionV3", "InceptionV4", "Xception41", "Xception41_deeplab", "Xception65",
        "Xception65_deeplab", "Xception71",
    ]  # fmt: skip
    assert all(name == spec.name for name, spec in MODELS.items())


def test_no_two_models_share_a_served_name() -> None:
    """Slugs are different and are what Triton and a file system take as a name."""
    slugs = [spec.slug for spec in MODELS.values()]
    assert len(set(slugs)) == len(slugs)
    assert all(slug.replace("_", "").isalnum() and slug == slug.lower() for slug in slugs)


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_each_row_is_whole(spec) -> None:
    """HTTPS weights of that very model, PaddleClas's evaluation sizes, published accuracies that are fractions."""
    assert spec.weights_url.startswith("https://")
    assert spec.weights_url.endswith(f"/{spec.name}_pretrained.pdparams")
    assert (spec.input_size, spec.resize_short) == ((224, 256) if spec.name == "GoogLeNet" else (299, 320))
    assert spec.classes == 1000
    assert 0.5 < spec.published.top1 < spec.published.top5 < 1
    assert spec.served_name("fp16") == f"{spec.slug}_fp16"


@pytest.mark.parametrize("name", ["InceptionV3", "inceptionv3", "INCEPTIONV3", "inception_v3", "Inception_V3"])
def test_a_model_is_found_by_name_or_slug_in_any_case(name: str) -> None:
    """People type what they remember."""
    assert spec_from_name(name) is MODELS["InceptionV3"]


@pytest.mark.parametrize("name", ["", "ResNet50", "inception", "googlenet_fp32", "InceptionV3 "])
def test_an_unknown_name_is_answered_with_all_names(name: str) -> None:
    """No guessing: the message lists what there is."""
    with pytest.raises(UnknownModel) as caught:
        spec_from_name(name)
    assert all(model in str(caught.value) for model in MODELS)


@pytest.mark.parametrize(("size", "resize_short"), [(224, 256), (299, 320), (256, 293), (384, 439), (96, 110)])
def test_another_size_becomes_part_of_the_name(size: int, resize_short: int) -> None:
    """PaddleClas's two known pairs of sizes, and the 224/256 ratio for every other."""
    spec = dataclasses.replace(MODELS["InceptionV4"], input_size=500).at_input_size(size)
    assert (spec.slug, spec.input_size, spec.resize_short) == (f"inception_v4_{size}", size, resize_short)


def test_the_catalogs_own_size_changes_nothing() -> None:
    """Asking for what is there anyway gives the same row and the same name."""
    assert MODELS["GoogLeNet"].at_input_size(224) is MODELS["GoogLeNet"]


@pytest.mark.parametrize("size", [-1, 0, 95, 1025, 10**9])
def test_a_size_out_of_range_is_refused_with_the_range(size: int) -> None:
    """Too small for the network, too large for a machine: told before anything is built."""
    with pytest.raises(UsageError, match=r"96\.\.1024"):
        MODELS["GoogLeNet"].at_input_size(size)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(size=st.integers(96, 1024))
def test_the_crop_always_fits_into_the_resized_image(size: int) -> None:
    """The short side is never below the crop, and at most a seventh above it."""
    spec = MODELS["Xception41"].at_input_size(size)
    assert size < spec.resize_short <= math.ceil(size / 0.875)


def test_a_head_of_other_classes_is_the_same_model() -> None:
    """Fine-tuning changes the number of outputs and nothing else."""
    spec = MODELS["Xception71"].with_classes(7)
    assert spec.classes == 7
    assert spec.with_classes(1000) == MODELS["Xception71"]
