"""What a caller gets back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from client.errors import ServerUnavailable
from client.reply import predictions_from_scores
from client.results import Classification, ModelHealth, Prediction

RESULT = Classification(
    predictions=(Prediction(281, "tabby, tabby cat", 0.75), Prediction(282, "tiger cat", 0.125)),
    model="InceptionV3",
    served_name="inception_v3_fp16",
    precision="fp16",
    version="2",
    release="0123456789abcdef",
    emulated=None,
    preprocess_ms=1.5,
    inference_ms=10.25,
    total_ms=12.0,
)


def test_the_highest_scores_come_first() -> None:
    """With their own index and label."""
    found = predictions_from_scores(np.float32([0.125, 0.5, 0.375]), ["a", "b", "c"], 2)
    assert found == (Prediction(1, "b", 0.5), Prediction(2, "c", 0.375))


def test_equal_scores_keep_the_order_of_their_index() -> None:
    """The same reply always gives the same list."""
    found = predictions_from_scores(np.float32([0.1, 0.2, 0.2, 0.3, 0.2]), list("abcde"), 4)
    assert [each.index for each in found] == [3, 1, 2, 4]


def test_all_classes_can_be_asked_for() -> None:
    """top_k may be the number of classes."""
    found = predictions_from_scores(np.full(4, 0.25, np.float32), list("abcd"), 4)
    assert [each.index for each in found] == [0, 1, 2, 3]


def test_a_result_survives_json() -> None:
    """to_dict holds everything, in plain types."""
    printed = json.loads(json.dumps(RESULT.to_dict()))
    assert printed["predictions"][0] == {"index": 281, "label": "tabby, tabby cat", "score": 0.75}
    assert set(printed) == {field.name for field in dataclasses.fields(Classification)}
    assert printed["emulated"] is None


def test_a_result_reads_well_and_cannot_be_changed() -> None:
    """repr names the model and the classes."""
    assert repr(RESULT) == (
        "<Classification by inception_v3_fp16 release 0123456789abcdef: 0.7500 tabby, tabby cat; 0.1250 tiger cat>"
    )
    assert RESULT.best.label == "tabby, tabby cat"
    with pytest.raises(dataclasses.FrozenInstanceError):
        RESULT.model = "other"


def test_health_is_an_answer_or_a_reason() -> None:
    """Never both, and plain in JSON."""
    assert ModelHealth("a_fp32", 1.5, None).to_dict() == {
        "served_name": "a_fp32", "is_healthy": True, "latency_ms": 1.5, "error": None,
    }  # fmt: skip
    assert ModelHealth("a_fp32", None, ServerUnavailable("gone")).to_dict()["error"] == "gone"
