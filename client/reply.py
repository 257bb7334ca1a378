"""A server's reply -> probabilities -> predictions. Everything is checked: a wrong answer is worse than none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.contract import ModelContract
from client.errors import BadResponse
from client.results import Prediction

# Softmax in float32 over 1000 classes sums to 1 within 1e-6; 1e-3 leaves room for a GPU's faster exponential.
SUM_TOLERANCE = 1e-3
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class OutputTensor:
    """One output as it came over the wire: `datatype` is the protocol's, e.g. "FP32"; `data` is little-endian."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Reply:
    """What the server answered to one inference, free of any library's types."""

    model: str
    version: str
    outputs: tuple[OutputTensor, ...]


def probabilities_from_reply(reply: Reply, contract: ModelContract, images: int) -> npt.NDArray[np.float32]:
    """The probabilities of `images` images, float32 [images, classes], in the order of the contract's labels.

    Raises `BadResponse` unless the reply holds exactly the tensor that the contract promises; `wrong_rows` says whether
    its numbers are probabilities.
    """
    classes = len(contract.labels)
    expected = [(contract.output_name, "FP32", (images, classes))]
    found = [(output.name, output.datatype, output.shape) for output in reply.outputs]
    if found != expected:
        raise _bad(contract, f"outputs {found}, expected {expected}")
    data = reply.outputs[0].data
    if len(data) != images * classes * _FLOAT32_BYTES:
        raise _bad(contract, f"{len(data)} bytes of probabilities, expected {images * classes * _FLOAT32_BYTES}")
    return np.frombuffer(data, dtype="<f4").reshape(images, classes)


def wrong_rows(probabilities: npt.NDArray[np.float32], contract: ModelContract) -> dict[int, BadResponse]:
    """An error for each row that is not finite, has a negative number, or a sum other than 1; usually none."""
    # The minimum first: it is NaN where anything is, and without -inf no sum is invalid.
    is_positive = np.minimum.reduce(probabilities, axis=None) >= 0.0
    if is_positive and all(abs(total - 1.0) <= SUM_TOLERANCE for total in _totals(probabilities)):
        return {}
    reasons = ((row, _what_is_wrong(scores)) for row, scores in enumerate(probabilities))
    return {row: _bad(contract, reason) for row, reason in reasons if reason is not None}


def _totals(probabilities: npt.NDArray[np.float32]) -> list[float]:
    totals: list[float] = np.add.reduce(probabilities, axis=1, dtype=np.float64).tolist()
    return totals


def predictions_from_scores(
    scores: npt.NDArray[np.float32], labels: Sequence[str], top_k: int
) -> tuple[Prediction, ...]:
    """The `top_k` highest of `scores`, float32 [classes], best first; of equal scores the lower index comes first.

    All of them where there are fewer.
    """
    top_k = min(top_k, len(scores))
    # Sorting a thousand classes for five of them costs more than all the rest of a reply.
    least = np.partition(scores, -top_k)[-top_k]
    (candidates,) = (scores >= least).nonzero()
    order = candidates[(-scores[candidates]).argsort(kind="stable")][:top_k].tolist()
    return tuple([Prediction(index, labels[index], scores.item(index)) for index in order])


def _what_is_wrong(scores: npt.NDArray[np.float32]) -> str | None:
    if not np.isfinite(scores).all():
        return "NaN or infinite probabilities"
    total, lowest = float(scores.sum(dtype=np.float64)), float(scores.min())
    if abs(total - 1.0) <= SUM_TOLERANCE and lowest >= 0.0:
        return None
    return (
        f"probabilities with sum {total:g} and minimum {lowest:g}, "
        f"expected none below 0 and a sum of 1 within {SUM_TOLERANCE:g}"
    )


def _bad(contract: ModelContract, what: str) -> BadResponse:
    return BadResponse(
        f"{contract.served_name} version {contract.version} answered {what}: the answer is not used; "
        "verify the model repository"
    )
