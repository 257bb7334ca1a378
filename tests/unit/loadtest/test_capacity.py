"""The search for the highest rate that keeps an objective, held against servers whose capacity is known."""

from __future__ import annotations

import asyncio
import math

import pytest

from loadtest.arrivals import ABANDONED, DECIDED, OK, Run, Sample
from loadtest.capacity import Hopelessness, Objective, Probe, judged, probe_duration_s, search
from loadtest.cli import main
from loadtest.errors import UsageError
from loadtest.percentiles import Percentile

OBJECTIVE = Objective(50.0)


def run_of(latencies_ms, outcomes=None, *, delay_ms=0.1, stopped=None):
    samples = tuple(
        Sample(number * 1000, number * 1000 + round(delay_ms * 1e6), number * 1000 + round(latency_ms * 1e6), outcome)
        for number, (latency_ms, outcome) in enumerate(
            zip(latencies_ms, outcomes or [OK] * len(latencies_ms), strict=True)
        )
    )
    return Run(samples, len(samples), stopped, 1, 1.0, 0.1)


@pytest.mark.parametrize(
    ("run", "verdict", "reason"),
    [
        (run_of([20.0] * 800), "holds", ""),
        (run_of([60.0] * 800), "misses", "upper bound of p99"),
        (run_of([20.0] * 799 + [900.0]), "holds", ""),
        (run_of([20.0] * 793 + [60.0] * 7), "misses", "upper bound"),  # p99 is 20 ms, but is it?
        (run_of([20.0] * 800, [OK] * 799 + ["QueueFull"]), "misses", "1 of 800 failed"),
        (run_of([20.0] * 800, delay_ms=5.0), "INVALID", "generator was late"),
        (run_of([20.0] * 600), "INVALID", "too few"),
        (run_of([20.0] * 800, stopped="the generator fell behind"), "INVALID", "stopped early"),
        (run_of([90.0] * 100, stopped=DECIDED), "misses", "stopped when 100"),
    ],
)
def test_a_rate_holds_when_the_upper_bound_of_its_percentile_does(run, verdict, reason):
    """And nothing failed, and the generator was in time."""
    probe = judged(run, 10.0, OBJECTIVE)
    assert probe.verdict == verdict
    assert reason in probe.reason


def test_failures_within_the_share_are_borne_and_still_slower_than_any_answer():
    """4 of 2,000 may fail; 40 of them are p99."""
    objective = Objective(50.0, 99.0, 0.05)
    assert judged(run_of([20.0] * 2000, [OK] * 1996 + ["QueueFull"] * 4), 10.0, objective).verdict == "holds"
    probe = judged(run_of([20.0] * 2000, [OK] * 1960 + ["QueueFull"] * 40), 10.0, objective)
    assert probe.verdict == "misses"
    assert probe.latency_ms.value == math.inf


def test_what_the_command_abandoned_itself_is_no_failure():
    """Of a try that was ended because it was hopeless."""
    run = run_of([90.0] * 100 + [5.0] * 50, [OK] * 100 + [ABANDONED] * 50, stopped=DECIDED)
    assert judged(run, 10.0, OBJECTIVE).failure_share == 0.0


def test_a_try_is_given_up_only_when_the_rest_could_not_mend_it():
    """A few late answers may be the generator's: 64 beyond what the percentile allows are not."""
    late, good = Sample(0, 0, 90_000_000, OK), Sample(0, 0, 1_000_000, OK)
    hopeless = Hopelessness(1000, OBJECTIVE)
    assert not any(hopeless(good) for _ in range(1000))
    given_up_after = next(number for number in range(1, 1000) if hopeless(late))
    assert 64 < given_up_after < 80


def test_a_try_is_long_enough_for_its_percentile_or_refused():
    """662 samples for p99, with room for a Poisson schedule that has fewer than its mean."""
    assert probe_duration_s(1000, OBJECTIVE, 10, 120) == 10
    assert probe_duration_s(10, OBJECTIVE, 10, 120) == pytest.approx(79.44)
    with pytest.raises(UsageError, match=r"needs 662 requests.*p90 needs 64"):
        probe_duration_s(1, OBJECTIVE, 10, 120)


def searched(verdict_of, **options):
    """A search in which `verdict_of(rate)` is known."""
    asked = []

    async def probe(rate, number):
        assert number == len(asked)
        asked.append(rate)
        verdict = verdict_of(rate)
        nothing = Percentile(99.0, None, None, None, 0, 662)
        return None if verdict is None else Probe(rate, 0, nothing, 0.0, verdict, "")

    options = {"low_per_s": 10.0, "high_per_s": 2000.0, "tolerance": 0.05} | options
    return asyncio.run(search(probe, **options)), asked


@pytest.mark.parametrize("capacity", [10.0, 11.3, 37.0, 160.0, 999.0])
def test_the_search_closes_in_on_a_known_capacity(capacity):
    """From below and from above, to within the tolerance, in few tries."""
    found, asked = searched(lambda rate: "holds" if rate <= capacity else "misses")
    assert found.end == "found"
    assert found.holds_per_s <= capacity < found.misses_per_s <= found.holds_per_s * 1.05
    assert len(asked) <= 13


def test_the_search_says_when_its_limits_were_the_limit():
    """A capacity beyond them is not known."""
    found, asked = searched(lambda rate: "holds", high_per_s=50.0)
    assert (found.end, found.holds_per_s, found.misses_per_s) == ("at the highest", 50.0, None)
    assert asked == [10.0, 20.0, 40.0, 50.0]
    found, asked = searched(lambda rate: "misses")
    assert (found.end, found.holds_per_s, found.misses_per_s, asked) == ("below the lowest", None, 10.0, [10.0])


def test_an_invalid_try_ends_the_search():
    """Beyond it the generator would be measured."""
    found, _ = searched(lambda rate: "holds" if rate < 100 else "INVALID")
    assert (found.end, found.holds_per_s, found.misses_per_s) == ("INVALID", 80.0, None)


def test_an_interrupted_search_tells_what_it_knows():
    found, _ = searched(lambda rate: "holds" if rate < 30 else None)
    assert (found.end, found.holds_per_s, len(found.probes)) == ("interrupted", 20.0, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--percentile", "100"], "--percentile 100"),
        (["--percentile", "nan"], "--percentile nan"),
        (["--low", "1"], "--max-probe-s"),
        (["--low", "0"], "--low 0"),
        (["--low", "20", "--high", "10"], "the lower one first"),
        (["--tolerance", "0"], "--tolerance 0"),
        (["--max-failure-share", "1"], "--max-failure-share 1"),
        (["--url", "10.0.0.1"], "--allow-remote"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    """Told before anything is sent."""
    monkeypatch.chdir(tmp_path)
    assert main(["capacity", "--slo-ms", "50", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
