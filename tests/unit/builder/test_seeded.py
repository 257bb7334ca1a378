"""Untrained weights that make every later check mean something."""

import numpy as np
import pytest
import torch

from builder import MODELS
from builder.golden import golden_images
from builder.onnx_export import Normalise, logits_of
from builder.seeded import LOGIT_STD, seeded_module


@pytest.mark.parametrize("name", ["GoogLeNet", "InceptionV3", "Xception41_deeplab"])
def test_logits_are_spread_and_photographs_differ(name):
    """With a default initialisation every probability is 1/1000 and any graph passes any comparison."""
    spec = MODELS[name]
    logits = logits_of(seeded_module(spec), golden_images(spec.input_size))
    assert logits.std() == pytest.approx(LOGIT_STD, rel=0.05)
    assert len(set(logits.argmax(1))) == len(logits)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    """A build is keyed by the seed."""
    spec = MODELS["GoogLeNet"]
    one, again, other = (seeded_module(spec, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["_conv._conv.weight"], other["_conv._conv.weight"])


def test_float32_noise_stays_far_below_the_parity_bound():
    """An untrained deep network can amplify rounding until a correct export fails its check."""
    spec = MODELS["InceptionV4"]
    module = seeded_module(spec)
    images = golden_images(spec.input_size)[:1]
    single = logits_of(module, images)
    with torch.inference_mode():
        double = module.double()(Normalise()(torch.from_numpy(images)).double()).numpy()
    assert np.abs(single - double).max() < 1e-3


def test_golden_images_are_photographs_of_the_size_asked_for():
    """Cropped up to 320, repeated beyond."""
    for size in (96, 224, 299, 320, 400):
        images = golden_images(size)
        assert images.shape == (3, size, size, 3)
        assert images.dtype == np.uint8
        assert images.std() > 30
