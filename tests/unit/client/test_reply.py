"""A reply is used only when everything about it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from client.contract import ModelContract, Preprocessing
from client.errors import BadResponse
from client.reply import OutputTensor, Reply, probabilities_from_reply, wrong_rows

CONTRACT = ModelContract(
    served_name="inception_v3_fp32",
    version="1",
    architecture="InceptionV3",
    precision="fp32",
    release="0123456789abcdef",
    preprocessing=Preprocessing(320, 299, ""),
    labels=("a", "b", "c", "d"),
    emulated=None,
    input_name="image",
    output_name="probabilities",
    max_batch_size=8,
)


def reply(scores: list[float], **changes: object) -> Reply:
    data = np.array(scores, dtype="<f4").tobytes()
    tensor = dataclasses.replace(OutputTensor("probabilities", "FP32", (1, len(scores)), data), **changes)
    return Reply("inception_v3_fp32", "1", (tensor,))


def test_probabilities_come_out_as_they_were_sent() -> None:
    """In label order, as float32."""
    assert checked(reply([0.25, 0.5, 0.125, 0.125])).tolist() == [[0.25, 0.5, 0.125, 0.125]]


def checked(reply: Reply, images: int = 1) -> np.ndarray:
    """The probabilities, or the first error."""
    rows = probabilities_from_reply(reply, CONTRACT, images)
    for error in wrong_rows(rows, CONTRACT).values():
        raise error
    return rows


def test_a_sum_within_the_tolerance_is_accepted() -> None:
    """A GPU's softmax is not exact."""
    assert checked(reply([0.2501, 0.5, 0.125, 0.1253])).shape == (1, 4)


@pytest.mark.parametrize(
    "scores",
    [
        [0.25, 0.5, 0.125, float("nan")],
        [float("nan")] * 4,
        [float("inf"), 0, 0, 0],
        [float("inf"), float("-inf"), 0.5, 0.5],
        [1.5, -0.5, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 1.0],
        [0.25, 0.5, 0.125, 0.127],
        [0.5, 0.5],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [],
    ],
)
def test_numbers_that_are_no_probabilities_are_refused(scores: list[float]) -> None:
    """Finite, none negative, a sum of 1, one for each label."""
    with pytest.raises(BadResponse, match="inception_v3_fp32 version 1"):
        checked(reply(scores))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "logits"},
        {"datatype": "FP16"},
        {"datatype": "nonsense"},
        {"shape": (4,)},
        {"shape": (2, 2)},
        {"shape": (4, 1)},
        {"data": b""},
        {"data": b"\x00" * 15},
        {"data": b"\x00" * 32},
    ],
    ids=str,
)
def test_a_tensor_that_is_not_the_promised_one_is_refused(changes: dict[str, object]) -> None:
    """Name, dtype, shape and size."""
    with pytest.raises(BadResponse):
        checked(reply([0.25, 0.5, 0.125, 0.125], **changes))


def test_no_output_and_two_outputs_are_refused() -> None:
    """Exactly what was promised, nothing beside it."""
    one = reply([0.25, 0.5, 0.125, 0.125])
    make: Callable[[int], Reply] = lambda count: dataclasses.replace(one, outputs=one.outputs * count)  # noqa: E731
    for count in (0, 2):
        with pytest.raises(BadResponse):
            probabilities_from_reply(make(count), CONTRACT, 1)


def test_several_images_are_several_rows() -> None:
    """Each row is checked, and a wrong one spoils no other."""
    rows = np.float32([[0.25, 0.5, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    good = Reply("a", "1", (OutputTensor("probabilities", "FP32", (2, 4), rows.tobytes()),))
    np.testing.assert_array_equal(probabilities_from_reply(good, CONTRACT, 2), rows)
    rows[1, 2] = 0.5
    bad = Reply("a", "1", (OutputTensor("probabilities", "FP32", (2, 4), rows.tobytes()),))
    (place, error) = next(iter(wrong_rows(probabilities_from_reply(bad, CONTRACT, 2), CONTRACT).items()))
    assert (place, "sum 1.5" in str(error)) == (1, True)
    with pytest.raises(BadResponse, match=r"\(2, 4\)"):
        probabilities_from_reply(good, CONTRACT, 3)
