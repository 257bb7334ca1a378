"""Percentiles that are samples themselves, with bounds that assume no distribution, and none from too few samples.

The bounds assume that samples are independent. Latencies of one queue are not quite: after a slow answer comes another.
So an interval is the narrowest that can be claimed, and two runs may differ by more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
LEVELS = (50.0, 90.0, 95.0, 99.0, 99.9)
LOWEST_LEVEL, HIGHEST_LEVEL = 50.0, 99.99
# MLPerf Inference's early stopping: a percentile is known when fewer than 1 % of the runs of that many samples would
# have less than two beyond it. 64 samples for the 90th, 662 for the 99th.
_DOUBT = 0.01


@dataclass(frozen=True)
class Percentile:
    """The `level`-th percentile of `samples` values and the bounds that hold the true one with 95 % confidence.

    `value`, `low` and `high` are values that were measured, or None where there were fewer than `needed`. Infinity
    stands for a request without an answer.
    """

    level: float
    value: float | None
    low: float | None
    high: float | None
    samples: int
    needed: int


def percentile(ordered: Sequence[float], level: float) -> Percentile:
    """The `level`-th percentile, 50 to 99.99, of values in ascending order; see `ranks` and `needed_samples`."""
    count, needed = len(ordered), needed_samples(level)
    if count < needed:
        return Percentile(level, None, None, None, count, needed)
    low, value, high = ranks(count, level)
    return Percentile(level, ordered[value - 1], ordered[low - 1], ordered[high - 1], count, needed)


@lru_cache
def needed_samples(level: float) -> int:
    """The smallest number of samples that the `level`-th percentile is told from: 662 for the 99th.

    P(at most one sample beyond the true percentile) <= 1 %: MLPerf Inference's rule for ending a run early, "Early
    Stopping Criterion" of its inference policies. Every smaller number than that also lacks a bound or rests it on the
    largest sample alone.
    """
    if not LOWEST_LEVEL <= level <= HIGHEST_LEVEL:
        raise ValueError(f"percentile {level:g}: expected {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}")
    below = float(_share(level))
    count = 2
    while below**count + count * (1 - below) * below ** (count - 1) > _DOUBT:
        count += 1
    return count


def highest_level(count: int) -> float | None:
    """The highest of `LEVELS` up to the 99th that `count` samples tell, None where they tell none."""
    return max((level for level in LEVELS if level <= 99 and count >= needed_samples(level)), default=None)


@lru_cache
def ranks(count: int, level: float) -> tuple[int, int, int]:
    """Which of `count` ordered samples, from 1, are the lower bound, the percentile and the upper bound.

    The percentile is the nearest rank, ceil(count * level / 100). The number of samples below the true percentile is
    binomial, so the bounds are the innermost ranks that it passes with at most 2.5 % on either side.
    """
    share = _share(level)
    at_most = np.cumsum(_binomial(count, float(share)))
    tail = (1 - CONFIDENCE) / 2
    # The lower bound fails when fewer than `low` samples lie below the percentile, the upper when `high` or more do.
    low = max(1, int(np.searchsorted(at_most, tail, side="right")))
    high = min(count, int(np.searchsorted(at_most, 1 - tail, side="left")) + 1)
    return low, math.ceil(count * share), high


def _share(level: float) -> Fraction:
    return Fraction(repr(level)) / 100  # exact: 99.9 is no binary fraction


def _binomial(count: int, chance: float) -> npt.NDArray[np.float64]:
    """The probabilities of 0 to `count` successes, by the ratio of neighbours, in logarithms."""
    successes = np.arange(count)
    steps = np.log((count - successes) / (successes + 1)) + math.log(chance) - math.log1p(-chance)
    logarithms = np.concatenate(([0.0], np.cumsum(steps)))
    weights: npt.NDArray[np.float64] = np.exp(logarithms - logarithms.max())
    probabilities: npt.NDArray[np.float64] = weights / weights.sum()
    return probabilities
