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


def probabilities_from_reply(reply: Reply, contract: ModelContract) -> npt.NDArray[np.float32]:
    """One image's probabilities, float32 [classes], in the order of the contract's labels.

    Raises `BadResponse` unless the reply holds exactly the tensor that the contract promises, finite, not negative and
    with a sum of 1.
    """
    classes = len(contract.labels)
    expected = (contract.output_name, "FP32", (1, classes))
    found = [(output.name, output.datatype, output.shape) for output in reply.outputs]
    if found != [expected]:
        raise _bad(contract, f"outputs {found}, expected {[expected]}")
    data = reply.outputs[0].data
    if len(data) != classes * _FLOAT32_BYTES:
        raise _bad(contract, f"{len(data)} bytes of probabilities, expected {classes * _FLOAT32_BYTES}")
    probabilities = np.frombuffer(data, dtype="<f4")
    if not np.isfinite(probabilities).all():
        raise _bad(contract, "NaN or infinite probabilities")
    total = float(probabilities.sum(dtype=np.float64))
    if abs(total - 1.0) > SUM_TOLERANCE or float(probabilities.min()) < 0.0:
        raise _bad(
            contract,
            f"probabilities with sum {total:g} and minimum {float(probabilities.min()):g}, "
            f"expected none below 0 and a sum of 1 within {SUM_TOLERANCE:g}",
        )
    return probabilities


def predictions_from_scores(
    scores: npt.NDArray[np.float32], labels: Sequence[str], top_k: int
) -> tuple[Prediction, ...]:
    """The `top_k` highest of `scores`, float32 [classes], best first; of equal scores the lower index comes first."""
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return tuple(Prediction(index, labels[index], float(scores[index])) for index in order)


def _bad(contract: ModelContract, what: str) -> BadResponse:
    return BadResponse(
        f"{contract.served_name} version {contract.version} answered {what}: the answer is not used; "
        "verify the model repository"
    )
