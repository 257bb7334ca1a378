"""Medians with their spread, and nothing that assumes a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """The median of `samples` values and an interval that holds the true median with `confidence`."""

    median: float
    low: float
    high: float
    confidence: float
    samples: int


def summarised(values: Sequence[float]) -> Summary:
    """Median and its confidence interval from order statistics (binomial ranks; no distribution assumed).

    The narrowest pair of ranks that covers the median with at least 95 %; with fewer than 6 values no pair does, and
    the interval is minimum to maximum with the confidence it has. Raises `ValueError` on no values.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        raise ValueError("no samples to summarise")
    ranks = range(count // 2 + 1)
    lower = max((rank for rank in ranks if _coverage(count, rank) >= CONFIDENCE), default=0)
    return Summary(median(ordered), ordered[lower], ordered[count - 1 - lower], _coverage(count, lower), count)


def _coverage(count: int, rank: int) -> float:
    """Probability that the true median lies between the values of `rank` and `count - 1 - rank` (0-based)."""
    outside = sum(math.comb(count, below) for below in range(rank + 1))
    return float(max(0.0, 1.0 - 2.0 * outside / 2**count))
