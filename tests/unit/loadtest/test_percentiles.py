"""Percentiles are samples, their bounds assume nothing, and too few samples have none."""

import math
import random
from fractions import Fraction

import pytest

from loadtest.percentiles import highest_level, needed_samples, percentile, ranks
from loadtest.statistics import summarised


@pytest.mark.parametrize(("level", "needed"), [(50.0, 11), (90.0, 64), (95.0, 130), (99.0, 662), (99.9, 6636)])
def test_the_samples_needed_are_mlperfs(level, needed):
    """64 for the 90th and 662 for the 99th stand in MLPerf Inference's rules; the others follow from the same rule."""
    assert needed_samples(level) == needed


def test_one_sample_less_is_no_percentile():
    """Not a guess, not the largest sample: nothing."""
    told = percentile([float(number) for number in range(661)], 99.0)
    assert (told.value, told.low, told.high, told.needed) == (None, None, None, 662)
    assert percentile([float(number) for number in range(662)], 99.0).value == 655.0
    assert highest_level(661) == 95.0
    assert highest_level(10_000) == 99.0  # what a generator is judged by
    assert highest_level(10) is None


@pytest.mark.parametrize(
    ("count", "level", "rank"), [(1000, 99.0, 990), (1000, 99.9, 999), (662, 99.0, 656), (11, 50.0, 6)]
)
def test_a_percentile_is_the_nearest_rank(count, level, rank):
    """99.9 % of 1000 is 999: exact, though no binary fraction is 0.999."""
    assert ranks(count, level)[1] == rank


@pytest.mark.parametrize("count", [11, 15, 40, 101])
def test_the_bounds_of_the_median_are_those_of_the_sign_test(count):
    """The same as the summaries of the other benchmarks, which were held against tables."""
    low, _, high = ranks(count, 50.0)
    summary = summarised(range(1, count + 1))
    assert (low, high) == (summary.low, summary.high)


@pytest.mark.parametrize(("count", "level"), [(64, 90.0), (130, 95.0), (662, 99.0), (1000, 99.0)])
def test_the_bounds_are_the_innermost_that_fail_in_at_most_a_fortieth_each(count, level):
    """Against exact sums of binomial terms."""
    share = Fraction(round(level), 100)
    low, middle, high = ranks(count, level)

    def at_most(successes):
        return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(successes + 1))

    assert at_most(low - 1) <= 0.025 < at_most(low)
    assert at_most(high - 2) < 0.975 <= at_most(high - 1)
    assert low < middle <= high


def test_the_bounds_hold_the_true_percentile_as_often_as_they_say():
    """Of 2,000 seeded sets of exponential latencies: 95 % by promise, a little more since ranks are whole."""
    chance = random.Random("coverage")
    truth = -math.log(1 - 0.9)
    held = 0
    for _ in range(2000):
        told = percentile(sorted(chance.expovariate(1.0) for _ in range(100)), 90.0)
        held += told.low <= truth <= told.high
    assert 0.94 <= held / 2000 <= 0.99


def test_a_million_samples_are_no_trouble():
    """The terms are summed in logarithms: none of them is 0 that should not be."""
    low, middle, high = ranks(1_000_000, 99.9)
    assert middle == 999_000
    assert 50 <= middle - low <= 70  # 1.96 standard deviations of 31.6
    assert 50 <= high - middle <= 70


@pytest.mark.parametrize("level", [0.0, 49.9, 99.999, 100.0, float("nan")])
def test_other_percentiles_are_a_mistake(level):
    with pytest.raises(ValueError, match=r"expected 50 to 99\.99"):
        needed_samples(level)
