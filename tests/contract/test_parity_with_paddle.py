"""Every model, loaded as a user loads it, gives the logits that PaddleClas itself gives.

The references come from PaddlePaddle in float64 (see tests/data/parity/README.md). PyTorch's float32 stays within
2.2e-4 of them, the smallest real mistake is 4.5e-3: the tolerance lies between.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from builder import module_from_weights
from builder.catalog import MODELS

DATA = Path(__file__).parents[1] / "data/parity"
TOLERANCE = 1e-3

SHAPES = json.loads((DATA / "state_dict_shapes.json").read_text("utf-8"))
LEGACY_TO_CURRENT = json.loads((DATA / "inceptionv3_legacy_keymap.json").read_text("utf-8"))

_SPEC = importlib.util.spec_from_file_location("parity_recipe", DATA / "recipe.py")
recipe = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(recipe)


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine waiting threads cost ten times what a second one gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reference(name):
    with np.load(DATA / "reference" / f"{name}.npz") as archive:
        return dict(archive)


def module_through_a_file(name, tensors, folder, protocol=4):
    """Write what `paddle.save` writes, load it through the public path, and leave no file behind."""
    path = folder / f"{name}_pretrained.pdparams"
    names = {key: f"parameter_{index}" for index, key in enumerate(tensors)}
    with path.open("wb") as file:
        pickle.dump({**tensors, "StructuredToParameterName@@": names}, file, protocol)
    module = module_from_weights(name, path)
    path.unlink()  # 27 to 171 MB each
    return module


def worst_difference(logits, expected):
    return float(np.abs(logits.numpy() - expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_paddleclas(name, tmp_path, record_property):
    """Both batches, one of them not square, agree to 1e-3 at a spread of about 2."""
    expected = reference(name)
    module = module_through_a_file(name, recipe.weights(name, SHAPES[name], expected), tmp_path)
    with torch.inference_mode():
        differences = [
            worst_difference(module(torch.from_numpy(images)), expected[f"logits{index}"])
            for index, images in enumerate(recipe.inputs(name))
        ]
    record_property("worst_difference", max(differences))
    assert max(differences) <= TOLERANCE


def test_auxiliary_heads_of_googlenet_are_those_of_paddleclas(tmp_path):
    """They too carry official weights: all three outputs agree, so nothing of the file is misplaced."""
    expected = reference("GoogLeNet")
    module = module_through_a_file("GoogLeNet", recipe.weights("GoogLeNet", SHAPES["GoogLeNet"], expected), tmp_path)
    for index, images in enumerate(recipe.inputs("GoogLeNet")):
        with torch.inference_mode():
            outputs = module.forward_with_auxiliaries(torch.from_numpy(images))
        keys = (f"logits{index}", f"aux1_{index}", f"aux2_{index}")
        differences = {key: worst_difference(output, expected[key]) for key, output in zip(keys, outputs, strict=True)}
        assert max(differences.values()) <= TOLERANCE, differences


def test_the_older_file_of_inception_v3_gives_the_same_logits(tmp_path):
    """PaddleClas 2.1 named InceptionV3's tensors differently and wrote pickle protocol 2; that file loads as well."""
    expected = reference("InceptionV3")
    current = recipe.weights("InceptionV3", SHAPES["InceptionV3"], expected)
    legacy = {old: current[new] for old, new in LEGACY_TO_CURRENT.items()}
    assert len(legacy) == len(current)
    assert legacy.keys() != current.keys()
    module = module_through_a_file("InceptionV3", legacy, tmp_path, protocol=2)
    with torch.inference_mode():
        logits = module(torch.from_numpy(recipe.inputs("InceptionV3")[0]))
    assert worst_difference(logits, expected["logits0"]) <= TOLERANCE
