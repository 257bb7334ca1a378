"""The same inputs through two forms of one model: one tolerance table, one verdict. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from builder.errors import ParityFailed

# |difference of log-probabilities| allowed between torch and the written file.
# FP32: runtimes reorder sums (4e-4 at the worst was seen); the smallest real mistake, a wrong epsilon, moves logits by
# 4.5e-3. FP16: the checked FP32 graph with its weights rounded to 11 bits, which a CPU runtime computes in FP32. 0.43
# was seen, on an untrained InceptionV4; a wrong cast or an overflow moves logits by several units. Whether FP16 is good
# enough to serve is decided in precision.py.
LOG_PROBABILITY_TOLERANCE = {"fp32": 2e-3, "fp16": 1.0}
_FLOOR = 1e-30  # float32 has no better


@dataclass(frozen=True)
class Bound:
    """What a comparison allows, and what it means when that is exceeded.

    `top1_agreement` is the least share of inputs with the same top-1; of few inputs it is rounded down.
    """

    log_probability_difference: float
    top1_agreement: float
    meaning: str


WRITTEN_FILE = {
    precision: Bound(tolerance, 0.0, "The written graph is not the model it came from")
    for precision, tolerance in LOG_PROBABILITY_TOLERANCE.items()
}


@dataclass(frozen=True)
class Verdict:
    """What a comparison saw: the worst |log-probability difference|, its bound and the share of equal top-1."""

    compared: str
    max_log_probability_difference: float
    tolerance: float
    top1_agreement: float

    def as_dict(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def compare(
    compared: str,
    precision: str,
    reference: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    bounds: Mapping[str, Bound] = WRITTEN_FILE,
) -> Verdict:
    """Hold `probabilities` (N x classes) against `reference` logits (N x classes); log-probabilities are logits too.

    Raises `ParityFailed` when the shapes differ, a value is not finite or negative, or the precision's bound is
    exceeded. Probabilities below 1e-30 count as 1e-30.
    """
    if reference.shape != probabilities.shape:
        raise ParityFailed(f"{compared}: {probabilities.shape} came out where {reference.shape} was expected")
    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ParityFailed(f"{compared}: the answer has values that are no probabilities; nothing was published")
    bound = bounds[precision]
    expected = np.maximum(log_probabilities(reference), np.log(_FLOOR))
    seen = np.log(np.maximum(probabilities.astype(np.float64), _FLOOR))
    worst = float(np.abs(expected - seen).max())
    agreeing = int((expected.argmax(-1) == seen.argmax(-1)).sum())
    agreement = agreeing / len(expected)
    if worst > bound.log_probability_difference:
        raise ParityFailed(
            f"{compared}: log-probabilities differ by up to {worst:.2e}, {bound.log_probability_difference:.0e} is "
            f"allowed for {precision} (top-1 agrees on {agreement:.0%}); nothing was published. {bound.meaning}"
        )
    if agreeing < int(bound.top1_agreement * len(expected)):
        raise ParityFailed(
            f"{compared}: top-1 agrees on {agreeing} of {len(expected)} inputs, {bound.top1_agreement:.0%} is expected "
            f"for {precision}; nothing was published. {bound.meaning}"
        )
    return Verdict(compared, worst, bound.log_probability_difference, agreement)


def log_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities as logits for `compare`."""
    logits: NDArray[np.float32] = np.log(np.maximum(probabilities, np.float32(_FLOOR)))
    return logits
