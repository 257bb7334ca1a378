"""Weight files to modules: three formats, two layouts, two generations of names, and no tensor too many or too few."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from builder.architectures import module_from_spec, without_auxiliary_heads
from builder.catalog import MODELS
from builder.errors import WeightsRejected
from builder.pdparams import MAX_ELEMENTS
from builder.weights import load_weights, tensors_from_file

_PARITY = Path(__file__).parents[2] / "data" / "parity"
_AUXILIARY = ("_conv_o1", "_fc_o1", "_out1", "_conv_o2", "_fc_o2", "_out2")
_GOOGLENET, _INCEPTION_V3 = MODELS["GoogLeNet"], MODELS["InceptionV3"]

Arrays = dict[str, np.ndarray]


def _googlenet(classes: int = 1000) -> nn.Module:
    torch.manual_seed(classes)
    return module_from_spec(_GOOGLENET.with_classes(classes))


def _torch_layout(module: nn.Module) -> Arrays:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def _paddle_layout(arrays: Arrays) -> Arrays:
    """What Paddle would save of a network without batch normalisation."""
    return {name: array.T if array.ndim == 2 else array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def googlenet() -> nn.Module:
    return _googlenet()


@pytest.fixture(scope="module")
def inception_v3() -> Arrays:
    """A whole InceptionV3 in Paddle's layout and today's names."""
    shapes = json.loads((_PARITY / "state_dict_shapes.json").read_text())["InceptionV3"]
    rng = np.random.default_rng(3)
    return {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def _assert_same_weights(module: nn.Module, expected: Arrays) -> None:
    given = {name: array for name, array in _torch_layout(module).items() if not name.endswith("num_batches_tracked")}
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(given[name], array, err_msg=name)


def _refusal(spec_name: str, tensors: Arrays) -> str:
    with pytest.raises(WeightsRejected) as caught:
        load_weights(MODELS[spec_name], tensors, source="given.pdparams")
    message = str(caught.value)
    assert "given.pdparams" in message
    assert spec_name in message
    return message


@pytest.mark.parametrize("layout", [_paddle_layout, dict])
def test_both_layouts_give_the_same_frozen_module(googlenet: nn.Module, layout: Callable[[Arrays], Arrays]) -> None:
    """Paddle keeps linear weights as in x out, PyTorch as out x in; the module is ready for inference."""
    module = load_weights(_GOOGLENET, layout(_torch_layout(googlenet)), source="given")
    _assert_same_weights(module, _torch_layout(googlenet))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    image = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(module(image), googlenet(image))


def test_the_given_tensors_are_not_changed(googlenet: nn.Module) -> None:
    """The caller's dict and arrays stay as they were, also where a layout is translated."""
    tensors = _paddle_layout(_torch_layout(googlenet))
    before = {name: (id(array), array.shape) for name, array in tensors.items()}
    load_weights(_GOOGLENET, tensors, source="given")
    assert before == {name: (id(array), array.shape) for name, array in tensors.items()}


@pytest.mark.parametrize("layout", [_paddle_layout, dict])
@pytest.mark.parametrize("classes", [1, 7, 1024])
def test_the_head_decides_the_number_of_classes(classes: int, layout: Callable[[Arrays], Arrays]) -> None:
    """A fine-tuned GoogLeNet has three heads of that width; 1024 classes make the head square in both layouts."""
    tensors = _torch_layout(_googlenet(classes))
    module = load_weights(_GOOGLENET, layout(tensors), source="given")
    _assert_same_weights(module, tensors)
    assert module(torch.rand(1, 3, 224, 224)).shape == (1, classes)


def test_heads_of_different_widths_are_refused() -> None:
    """All three of GoogLeNet's heads classify the same classes."""
    tensors = _torch_layout(_googlenet(7))
    tensors["_out1.weight"], tensors["_out1.bias"] = np.zeros((9, 1024), np.float32), np.zeros(9, np.float32)
    assert "'_out1.weight' has shape [9, 1024] and not [7, 1024]" in _refusal("GoogLeNet", tensors)


def test_a_state_dict_without_auxiliary_heads_loads_without_them(googlenet: nn.Module) -> None:
    """What `without_auxiliary_heads` leaves can be saved and loaded again."""
    tensors = {name: array for name, array in _torch_layout(googlenet).items() if not name.startswith(_AUXILIARY)}
    module = load_weights(_GOOGLENET, tensors, source="given")
    _assert_same_weights(module, tensors)
    assert without_auxiliary_heads(module) is module


def test_auxiliary_heads_missing_in_part_are_refused(googlenet: nn.Module) -> None:
    """All of them or none: a file that lost some of its tensors is damaged."""
    tensors = {name: array for name, array in _torch_layout(googlenet).items() if not name.startswith("_out2")}
    assert "2 missing: _out2.bias, _out2.weight" in _refusal("GoogLeNet", tensors)


def test_missing_and_unexpected_tensors_are_counted_and_named_in_the_files_terms(inception_v3: Arrays) -> None:
    """Up to five names of each kind, and how many more there are."""
    tensors = dict(inception_v3)
    for name in [name for name in tensors if name.startswith("inception_stem.conv_1a_3x3.")]:
        tensors[name + ".old"] = tensors.pop(name)
    del tensors["fc.bias"], tensors["inception_stem.conv_2a_3x3.bn._mean"]
    message = _refusal("InceptionV3", tensors)
    assert "of its 470 tensors, 7 missing: fc.bias, " in message
    assert "inception_stem.conv_1a_3x3.bn._mean" in message
    assert " and 2 more; 5 unexpected: inception_stem.conv_1a_3x3.bn._mean.old, " in message


def test_another_models_file_is_refused(inception_v3: Arrays) -> None:
    """The names tell, before anything is allocated."""
    assert "missing" in _refusal("Xception65", inception_v3)
    assert "missing" in _refusal("GoogLeNet", inception_v3)
    assert "missing" in _refusal("GoogLeNet", {})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(inception_v3: Arrays, value: float) -> None:
    """One such number would make every answer NaN."""
    name = "inception_block_list.3.branch3x3.conv.weight"
    tensors = inception_v3 | {name: inception_v3[name].copy()}
    tensors[name].flat[17] = value
    assert f"{name!r} has 1 values that are not finite" in _refusal("InceptionV3", tensors)


def test_a_negative_variance_is_named(inception_v3: Arrays) -> None:
    """Its root would be NaN."""
    name = "inception_block_list.3.branch3x3.bn._variance"
    tensors = inception_v3 | {name: inception_v3[name] - 2}
    assert f"{name!r} has a negative variance" in _refusal("InceptionV3", tensors)


def test_a_wrong_shape_is_named_in_the_files_layout(inception_v3: Arrays) -> None:
    """Linear weights are quoted as the file has them."""
    tensors = inception_v3 | {"fc.weight": np.zeros((2000, 1000), np.float32)}
    assert "'fc.weight' has shape [2000, 1000] and not [2048, 1000]" in _refusal("InceptionV3", tensors)
    tensors = inception_v3 | {"fc.bias": np.zeros((1, 1000), np.float32)}
    assert "'fc.bias' has shape [1, 1000] and not [1000]" in _refusal("InceptionV3", tensors)


def test_every_name_of_the_older_inception_v3_is_understood(inception_v3: Arrays) -> None:
    """All 472 names of PaddleClas 2.1's file, held against the full table that was made by running that version."""
    new_name_of = json.loads((_PARITY / "inceptionv3_legacy_keymap.json").read_text())
    assert len(new_name_of) == len(inception_v3) == 472
    legacy = {old: inception_v3[new] for old, new in new_name_of.items()}
    _assert_same_weights(
        load_weights(_INCEPTION_V3, legacy, source="given"),
        _torch_layout_without_counters(load_weights(_INCEPTION_V3, inception_v3, source="given")),
    )


def _torch_layout_without_counters(module: nn.Module) -> Arrays:
    return {name: array for name, array in _torch_layout(module).items() if not name.endswith("num_batches_tracked")}


def test_paddles_statistics_become_pytorchs(inception_v3: Arrays) -> None:
    """`_mean` and `_variance` are the running statistics; the counter that Paddle lacks is zero."""
    module = load_weights(_INCEPTION_V3, inception_v3, source="given")
    state = _torch_layout(module)
    norm = "inception_stem.conv_1a_3x3.bn"
    np.testing.assert_array_equal(state[f"{norm}.running_mean"], inception_v3[f"{norm}._mean"])
    np.testing.assert_array_equal(state[f"{norm}.running_var"], inception_v3[f"{norm}._variance"])
    assert state[f"{norm}.num_batches_tracked"] == 0
    _assert_same_weights(load_weights(_INCEPTION_V3, state, source="given"), _torch_layout_without_counters(module))


def test_mixed_names_are_refused(inception_v3: Arrays) -> None:
    """One tensor under two names, or statistics of two frameworks, is a file that was put together wrongly."""
    message = _refusal("InceptionV3", inception_v3 | {"out.bias": inception_v3["fc.bias"]})
    assert "'out.bias' and 'fc.bias' are the same tensor" in message
    mixed = dict(inception_v3)
    mixed["inception_stem.conv_1a_3x3.bn.running_mean"] = mixed.pop("inception_stem.conv_1a_3x3.bn._mean")
    assert "Paddle's names in part" in _refusal("InceptionV3", mixed)


# From here on: files.


def _small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def _assert_small_state(tensors: Arrays) -> None:
    assert tensors.keys() == _small_state().keys()
    for name, tensor in _small_state().items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())
        assert tensors[name].dtype == (np.int64 if name.endswith("num_batches_tracked") else np.float32)


def _saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def _file_refusal(path: Path) -> str:
    with pytest.raises(WeightsRejected) as caught:
        tensors_from_file(path)
    assert str(path) in str(caught.value)
    assert "weights_only` set to `False`" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_pytorch_files_are_read(tmp_path: Path, suffix: str, is_zip: bool) -> None:
    """Under each of its suffixes, in the format of today and in the one before PyTorch 1.6."""
    path = _saved(tmp_path / f"w{suffix}", _small_state(), _use_new_zipfile_serialization=is_zip)
    _assert_small_state(tensors_from_file(path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_one_level_of_wrapping_is_taken_off(tmp_path: Path, wrapper: str) -> None:
    """Trainers keep the weights beside the epoch and the optimizer."""
    content = {wrapper: _small_state(), "epoch": 7, "optimizer": {"lr": 0.1}}
    _assert_small_state(tensors_from_file(_saved(tmp_path / "w.pth", content)))


def test_ambiguous_or_foreign_wrapping_is_refused(tmp_path: Path) -> None:
    """Nothing is guessed: two candidates, none, or a list."""
    both = {"state_dict": _small_state(), "model": _small_state()}
    assert "both 'state_dict' and 'model'" in _file_refusal(_saved(tmp_path / "a.pth", both))
    assert "'net'" in _file_refusal(_saved(tmp_path / "b.pth", {"net": _small_state()}))
    assert "list" in _file_refusal(_saved(tmp_path / "c.pth", [torch.zeros(2)]))
    assert "'epoch'" in _file_refusal(_saved(tmp_path / "d.pth", _small_state() | {"epoch": 7}))
    assert "type int" in _file_refusal(_saved(tmp_path / "e.pth", {7: torch.zeros(2)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_of_pytorch_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """In both of its formats."""
    state = {"w": torch.tensor([0.5, -1.25]).to(dtype)}
    save_file(state, tmp_path / "w.safetensors")
    for path in (_saved(tmp_path / "w.pth", state), tmp_path / "w.safetensors"):
        tensors = tensors_from_file(path)
        assert tensors["w"].dtype == np.float32
        np.testing.assert_array_equal(tensors["w"], [0.5, -1.25])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bool),
        torch.eye(2).to_sparse(),
    ],
)
def test_tensors_that_are_no_dense_floats_are_named(tmp_path: Path, tensor: torch.Tensor) -> None:
    """Integers are for counters only."""
    assert "'w' is of kind" in _file_refusal(_saved(tmp_path / "w.pth", {"w": tensor}))


def test_an_expanded_tensor_cannot_pass_the_limit_of_elements(tmp_path: Path) -> None:
    """One stored number may claim any shape: the claim is counted before it is made real."""
    path = _saved(tmp_path / "w.pth", {"w": torch.zeros(1).expand(MAX_ELEMENTS + 1)})
    assert path.stat().st_size < 10_000
    assert "MAX_ELEMENTS" in _file_refusal(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """torch.save stores; an archive that unpacks to a multiple of its size is a bomb."""
    original = _saved(tmp_path / "w.pth", {"w": torch.zeros(1_000_000)})
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed" in _file_refusal(bomb)


class _RunsACommand:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_an_evil_pytorch_file_is_refused_and_runs_nothing(tmp_path: Path, options: dict[str, bool]) -> None:
    """The refusal names the global, without torch's advice to turn the protection off."""
    marker = tmp_path / "executed"
    path = _saved(tmp_path / "w.pth", _small_state() | {"w": _RunsACommand(marker)}, **options)
    assert f"{os.name}.system" in _file_refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the proof that the payload works
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_under_pytorchs_suffix_is_read_as_data(tmp_path: Path, protocol: int) -> None:
    """torch would only say that it is invalid; read as data, an evil one is refused by the name of its global."""
    marker = tmp_path / "executed"
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"w": _RunsACommand(marker)}, protocol))
    assert f"{os.name}.system" in _file_refusal(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps({"w": np.ones(2, np.float32)}, protocol))
    np.testing.assert_array_equal(tensors_from_file(path)["w"], [1, 1])


def test_a_whole_pytorch_module_is_refused(tmp_path: Path) -> None:
    """Loading a pickled module means running its code."""
    assert "torch.nn.modules.linear.Linear" in _file_refusal(_saved(tmp_path / "w.pth", nn.Linear(2, 2)))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kept_share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_pytorch_file_is_refused(tmp_path: Path, is_zip: bool, kept_share: float) -> None:
    """Whatever torch raises, the outcome is one error with the file's name."""
    path = _saved(tmp_path / "w.pth", _small_state(), _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept_share)])
    _file_refusal(path)


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    """The format that holds nothing but tensors."""
    save_file(_small_state(), tmp_path / "w.safetensors")
    _assert_small_state(tensors_from_file(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: (1 << 30).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"{" * (len(data) - 8),
        lambda data: pickle.dumps({"w": np.zeros(2)}),
        lambda data: b"<!DOCTYPE html><html></html>",
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Truncated, with an absurd header, or something else altogether."""
    path = tmp_path / "w.safetensors"
    save_file(_small_state(), path)
    path.write_bytes(damage(path.read_bytes()))
    _file_refusal(path)


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors", ".pt"])
def test_html_missing_files_and_folders_are_refused_in_every_format(tmp_path: Path, suffix: str) -> None:
    """The usual accidents: an error page saved under the file's name, a wrong path."""
    path = tmp_path / f"w{suffix}"
    assert "cannot be read" in _file_refusal(path)
    path.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    assert "<!DOCTYPE" in _file_refusal(path)
    path.unlink()
    path.mkdir()
    assert "not a regular file" in _file_refusal(path)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """The format is not guessed."""
    path = tmp_path / "w.ckpt"
    path.write_bytes(pickle.dumps({"w": np.zeros(2)}))
    message = _file_refusal(path)
    for suffix in (".pdparams", ".safetensors", ".pt", ".pth", ".bin"):
        assert suffix in message
