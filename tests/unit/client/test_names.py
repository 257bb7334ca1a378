"""What a model may be called."""

from __future__ import annotations

import pytest

from client.errors import InvalidRequest
from client.names import SLUGS, base_slug, checked_precision, slug_and_precision, usual_served_names


@pytest.mark.parametrize(("name", "slug"), SLUGS.items())
def test_name_slug_and_served_name_mean_the_same_model(name: str, slug: str) -> None:
    """In any case, as PaddleClas writes it or as Triton serves it."""
    assert slug_and_precision(name) == (slug, None)
    assert slug_and_precision(name.upper()) == (slug, None)
    assert slug_and_precision(slug) == (slug, None)
    assert slug_and_precision(f"{slug}_fp16") == (slug, "fp16")
    assert slug_and_precision(f"{name}_fp32") == (slug, "fp32")
    assert base_slug(slug) == slug


def test_a_size_is_part_of_the_slug() -> None:
    """GoogLeNet at 299 is another model than at its usual 224."""
    assert slug_and_precision("GoogLeNet_299") == ("googlenet_299", None)
    assert slug_and_precision("xception41_deeplab_320_fp16") == ("xception41_deeplab_320", "fp16")
    assert base_slug("googlenet_299") == "googlenet"


@pytest.mark.parametrize("name", ["", "ResNet50", "inception", "inception_v3_int8", "inception_v3_", "_fp16", "v3"])
def test_other_names_are_nobody(name: str) -> None:
    """Nothing is matched by resemblance."""
    assert slug_and_precision(name) is None


def test_the_usual_served_names_are_all_eight_in_both_precisions() -> None:
    """They are asked for where listing is not allowed."""
    assert len(set(usual_served_names())) == 16


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    """The message lists what there is."""
    with pytest.raises(InvalidRequest, match="'fp16' or 'fp32'"):
        checked_precision("int8")
