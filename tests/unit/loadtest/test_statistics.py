"""Medians with an interval that assumes nothing."""

import pytest

from loadtest.statistics import summarised


@pytest.mark.parametrize(
    ("count", "low_rank", "confidence"),
    [(6, 0, 0.96875), (7, 0, 0.984375), (9, 1, 0.9609375), (15, 3, 0.9648437)],
)
def test_the_interval_is_the_narrowest_that_covers_95_percent(count, low_rank, confidence):
    """Ranks of the binomial distribution; the figures are in every table of the sign test."""
    summary = summarised(list(range(count)))
    assert (summary.low, summary.high) == (low_rank, count - 1 - low_rank)
    assert summary.confidence == pytest.approx(confidence, abs=1e-6)
    assert summary.median == (count - 1) / 2


def test_few_samples_say_how_little_they_cover():
    """Minimum to maximum, with the confidence that this has."""
    summary = summarised([3.0, 1.0, 2.0])
    assert (summary.low, summary.median, summary.high) == (1.0, 2.0, 3.0)
    assert summary.confidence == pytest.approx(0.75)


def test_no_samples_are_no_summary():
    """A median of nothing is a mistake, not a zero."""
    with pytest.raises(ValueError, match="no samples"):
        summarised([])
