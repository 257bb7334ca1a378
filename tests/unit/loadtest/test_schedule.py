"""When requests are due, before the first is sent."""

from itertools import pairwise
from statistics import mean, pstdev

import pytest

from loadtest.errors import UsageError
from loadtest.schedule import CONSTANT, MAX_ARRIVALS, POISSON, arrival_times_ns


def test_constant_arrivals_have_equal_gaps_and_begin_at_once():
    """Each moment is counted from the beginning: no error adds up."""
    assert arrival_times_ns(CONSTANT, 4, 1, "any") == (0, 250_000_000, 500_000_000, 750_000_000)
    assert arrival_times_ns(CONSTANT, 3, 100, "any")[-1] == round(299 / 3 * 1e9)


def test_a_poisson_schedule_is_the_same_for_the_same_seed_and_no_other():
    """So a run can be done again, here and on another machine; the first moments are written down."""
    schedule = arrival_times_ns(POISSON, 100, 10, "0")
    assert schedule == arrival_times_ns(POISSON, 100, 10, "0")
    assert schedule != arrival_times_ns(POISSON, 100, 10, "1")
    assert schedule[:3] == (4_489_320, 28_209_441, 32_717_494)


def test_poisson_gaps_are_exponential():
    """Mean and standard deviation are both 1 / rate, and e^-1 of the gaps are longer than that."""
    schedule = arrival_times_ns(POISSON, 50, 400, "gaps")
    gaps_s = [(after - before) / 1e9 for before, after in pairwise(schedule)]
    assert len(schedule) == pytest.approx(20_000, rel=0.03)
    assert mean(gaps_s) == pytest.approx(0.02, rel=0.03)
    assert pstdev(gaps_s) == pytest.approx(0.02, rel=0.05)
    assert sum(gap > 0.02 for gap in gaps_s) / len(gaps_s) == pytest.approx(0.3679, abs=0.02)
    assert 0 < schedule[0] < schedule[-1] < 400e9


@pytest.mark.parametrize(
    ("rate", "duration"),
    [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (1, float("inf")), (MAX_ARRIVALS + 1, 1)],
)
def test_what_is_no_bounded_schedule_is_refused(rate, duration):
    """A run always ends, and every sample of it fits into memory."""
    with pytest.raises(UsageError, match=r"expected|ask for"):
        arrival_times_ns(POISSON, rate, duration, "0")
