"""What a caller gets back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from client.errors import ServerUnavailable
from client.reply import predictions_from_scores
from client.results import Classification, ModelHealth, ModelStatistics, Phase, Prediction, Timings

RESULT = Classification(
    predictions=(Prediction(281, "tabby, tabby cat", 0.75), Prediction(282, "tiger cat", 0.125)),
    model="InceptionV3",
    served_name="inception_v3_fp16",
    precision="fp16",
    version="2",
    release="0123456789abcdef",
    emulated=None,
    timings=Timings(preprocess_ms=1.5, inference_ms=10.25, total_ms=12.0),
)


def test_the_highest_scores_come_first() -> None:
    """With their own index and label."""
    found = predictions_from_scores(np.float32([0.125, 0.5, 0.375]), ["a", "b", "c"], 2)
    assert found == (Prediction(1, "b", 0.5), Prediction(2, "c", 0.375))


def test_equal_scores_keep_the_order_of_their_index() -> None:
    """The same reply always gives the same list."""
    found = predictions_from_scores(np.float32([0.1, 0.2, 0.2, 0.3, 0.2]), list("abcde"), 4)
    assert [each.index for each in found] == [3, 1, 2, 4]


@pytest.mark.parametrize("top_k", [4, 5, 1000])
def test_all_classes_can_be_asked_for(top_k: int) -> None:
    """And more than all are all."""
    found = predictions_from_scores(np.full(4, 0.25, np.float32), list("abcd"), top_k)
    assert [each.index for each in found] == [0, 1, 2, 3]


def test_a_result_survives_json() -> None:
    """to_dict holds everything, in plain types."""
    printed = json.loads(json.dumps(RESULT.to_dict()))
    assert printed["predictions"][0] == {"index": 281, "label": "tabby, tabby cat", "score": 0.75}
    assert set(printed) == {field.name for field in dataclasses.fields(Classification)} - {"probabilities"}
    assert printed["emulated"] is None
    assert printed["timings"] == {"preprocess_ms": 1.5, "inference_ms": 10.25, "total_ms": 12.0}


def test_probabilities_are_in_the_dictionary_where_they_were_asked_for() -> None:
    """All of them, and results with and without them compare by the rest."""
    full = dataclasses.replace(RESULT, probabilities=np.float32([0.25, 0.75]))
    assert full.to_dict()["probabilities"] == [0.25, 0.75]
    assert full == RESULT


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


def test_statistics_have_means_and_survive_json() -> None:
    """A model that has done nothing has means of 0, not a division by it."""
    done, nothing = Phase(4, 10.0), Phase(0, 0.0)
    told = ModelStatistics("a_fp32", "1", 12, 4, done, nothing, done, done, done, done)
    assert (told.mean_batch_size, told.queue.mean_ms, told.failure.mean_ms) == (3.0, 2.5, 0.0)
    printed = json.loads(json.dumps(told.to_dict()))
    assert printed["queue"] == {"count": 4, "sum_ms": 10.0, "mean_ms": 2.5}
    assert printed["mean_batch_size"] == 3.0
