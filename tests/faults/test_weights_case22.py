"""Case 22 of the faults, through the public door: whatever is wrong with a weight file, `WeightsRejected` says what.

Nothing of the file is executed and nothing is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from builder import MODELS, module_from_weights
from builder.architectures import module_from_spec
from builder.download import pretrained_file
from builder.errors import WeightsRejected
from builder.hashing import sha256_of_file


class RunsACommand:
    """Unpickling it creates the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    """A GoogLeNet state dict as Paddle has it."""
    state = module_from_spec(MODELS["GoogLeNet"]).state_dict()
    return {name: tensor.numpy().T if tensor.ndim == 2 else tensor.numpy() for name, tensor in state.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "GoogLeNet_pretrained.pdparams"


def _assert_refused(path: Path, expected: str) -> None:
    others = set(path.parent.iterdir())
    with pytest.raises(WeightsRejected, match=expected) as caught:
        module_from_weights("GoogLeNet", path)
    assert str(path) in str(caught.value)
    assert set(path.parent.iterdir()) == others


def test_the_whole_file_loads(path: Path, whole: dict[str, np.ndarray]) -> None:
    """The control: what the cases below damage is accepted undamaged."""
    path.write_bytes(pickle.dumps(whole, 2))
    assert not module_from_weights("GoogLeNet", path).training


def test_an_evil_pickle_runs_nothing(path: Path, whole: dict[str, np.ndarray]) -> None:
    """The payload would create a file; it does not exist."""
    marker = path.with_name("executed")
    path.write_bytes(pickle.dumps(whole | {"_fc_out.bias": RunsACommand(marker)}, 2))
    _assert_refused(path, rf"{os.name}\.system")
    assert not marker.exists()


def test_truncated_empty_and_html_files(path: Path, whole: dict[str, np.ndarray]) -> None:
    """What broken downloads leave."""
    data = pickle.dumps(whole, 4)
    path.write_bytes(data[: len(data) // 2])
    _assert_refused(path, "truncated")
    path.write_bytes(b"")
    _assert_refused(path, "empty")
    path.write_bytes(b"<html><body>502 Bad Gateway</body></html>")
    _assert_refused(path, "<html>")


def test_one_flipped_bit_of_a_pinned_file(path: Path, whole: dict[str, np.ndarray]) -> None:
    """No format notices it; the pinned hash does, and names both."""
    data = bytearray(pickle.dumps(whole, 4))
    path.write_bytes(data)
    lock_file = path.with_name("weights.lock.json")
    spec = dataclasses.replace(MODELS["GoogLeNet"], weights_url="https://weights.invalid/x")  # nothing to fetch from
    pretrained_file(spec, cache_dir=path.parent, lock_file=lock_file)  # pins what lies there
    pinned = lock_file.read_text()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    module_from_weights("GoogLeNet", path)  # loads: the bit alone does not show
    flipped = sha256_of_file(path)
    with pytest.raises(WeightsRejected) as caught:
        pretrained_file(spec, cache_dir=path.parent, lock_file=lock_file)
    assert flipped in str(caught.value)
    assert json.loads(pinned)["GoogLeNet"]["sha256"] in str(caught.value)
    assert lock_file.read_text() == pinned


def test_missing_and_extra_keys_wrong_shapes_and_nan(path: Path, whole: dict[str, np.ndarray]) -> None:
    """Each names the tensor."""
    name = "_ince4a._conv3._conv.weight"
    cases = {
        f"1 missing: {name}": {key: value for key, value in whole.items() if key != name},
        "1 unexpected: teacher.weight": whole | {"teacher.weight": np.zeros(3, np.float32)},
        rf"'{name}' has shape \[208, 96, 3\]": whole | {name: np.zeros((208, 96, 3), np.float32)},
        f"'{name}' has 179712 values that are not finite": whole | {name: np.full_like(whole[name], np.nan)},
    }
    for expected, content in cases.items():
        path.write_bytes(pickle.dumps(content, 4))
        _assert_refused(path, expected)
