"""The highest rate of independent arrivals at which a model keeps its objective."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from loadtest.arrivals import ABANDONED, DECIDED, OK, Run, Sample
from loadtest.arrivals_figures import invalidity, latency_of
from loadtest.errors import UsageError
from loadtest.percentiles import Percentile, needed_samples, percentile, ranks

Verdict = Literal["holds", "misses", "INVALID"]
End = Literal["found", "below the lowest", "at the highest", "INVALID", "interrupted"]
# A Poisson schedule has at times fewer requests than its mean: with a fifth more, 662 are missed once in 10^6 runs.
_MARGIN = 1.2
# That many beyond what is allowed are no accident; fewer might be one of the generator's, which only the end tells.
_BEYOND_CHANCE = 64


@dataclass(frozen=True)
class Objective:
    """The `level`-th percentile of latency is at most `slo_ms`, and at most `max_failure_share` of requests fail.

    The percentile must be known to: it is its upper bound that is held against `slo_ms`. A request without an answer is
    slower than any answer.
    """

    slo_ms: float
    level: float = 99.0
    max_failure_share: float = 0.0


@dataclass(frozen=True)
class Probe:
    """One rate, tried: what its latencies were and whether the objective holds; `reason` where it does not."""

    rate_per_s: float
    requests: int
    latency_ms: Percentile
    failure_share: float
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Capacity:
    """`holds_per_s` is the highest rate that was seen to hold, `misses_per_s` the lowest that was seen not to."""

    end: End
    holds_per_s: float | None
    misses_per_s: float | None
    probes: tuple[Probe, ...]


def probe_duration_s(rate_per_s: float, objective: Objective, at_least_s: float, at_most_s: float) -> float:
    """How long a rate is tried: until the percentile can be told; `UsageError` where that takes too long."""
    needed = needed_samples(objective.level)
    duration_s = max(at_least_s, _MARGIN * needed / rate_per_s)
    if duration_s > at_most_s:
        raise UsageError(
            f"p{objective.level:g} needs {needed} requests, which at {rate_per_s:.3g}/s take {duration_s:.0f} s, and "
            f"--max-probe-s is {at_most_s:g}; ask for a lower --percentile (p90 needs {needed_samples(90.0)}), a "
            "higher --low or a longer --max-probe-s"
        )
    return duration_s


def judged(run: Run, rate_per_s: float, objective: Objective) -> Probe:
    """Whether the objective held in `run`; INVALID where the run says more of the generator than of the server."""
    is_cut_short = run.stopped == DECIDED
    samples = [each for each in run.samples if not (is_cut_short and each.outcome == ABANDONED)]  # by this command
    latencies = sorted(map(latency_of, samples))
    told = percentile(latencies, objective.level)
    failed = sum(sample.outcome != OK for sample in samples)
    share = failed / len(samples) if samples else 0.0
    invalid = invalidity(run)
    verdict: Verdict = "misses"
    if invalid:
        verdict, reason = "INVALID", "; ".join(invalid)
    elif is_cut_short:
        late = sum(latency > objective.slo_ms for latency in latencies)
        reason = f"stopped when {late} of {run.planned} were late or not answered"
    elif share > objective.max_failure_share:
        reason = f"{failed} of {len(samples)} failed"
    elif told.high is None:
        verdict, reason = "INVALID", f"{len(latencies)} requests are too few for p{objective.level:g}: {told.needed}"
    elif told.high > objective.slo_ms:
        reason = f"the upper bound of p{objective.level:g} is above {objective.slo_ms:g} ms"
    else:
        verdict, reason = "holds", ""
    return Probe(rate_per_s, len(samples), told, share, verdict, reason)


class Hopelessness:
    """Tells of a run's samples, one by one, when so many were late that the rest cannot mend it."""

    def __init__(self, planned: int, objective: Objective) -> None:
        self._slo_ms, self._late = objective.slo_ms, 0
        self._bearable = planned - ranks(max(1, planned), objective.level)[2] + _BEYOND_CHANCE

    def __call__(self, sample: Sample) -> bool:
        """Whether it is certain now."""
        self._late += latency_of(sample) > self._slo_ms
        return self._late > self._bearable


async def search(
    probe: Callable[[float, int], Awaitable[Probe | None]],
    *,
    low_per_s: float,
    high_per_s: float,
    tolerance: float,
    report: Callable[[Probe], None] = lambda _probe: None,
) -> Capacity:
    """Double the rate from `low_per_s` until one misses, then halve the gap down to `tolerance` of the rate.

    `probe(rate, number)` tries a rate, number 0 first; None means that it was interrupted. The search ends at
    `high_per_s`, and at the first probe that is INVALID: beyond that rate the generator would be measured.
    """
    probes: list[Probe] = []
    holds: float | None = None
    misses: float | None = None
    end: End | None = None
    rate = low_per_s
    while end is None:
        tried = await probe(rate, len(probes))
        if tried is None:
            end = "interrupted"
            break
        probes.append(tried)
        report(tried)
        if tried.verdict == "holds":
            holds = rate
        elif tried.verdict == "misses":
            misses = rate
        end = _end(tried, holds, misses, high_per_s, tolerance)
        if holds is not None:
            rate = min(2 * holds, high_per_s) if misses is None else math.sqrt(holds * misses)
    return Capacity(end, holds, misses, tuple(probes))


def _end(tried: Probe, holds: float | None, misses: float | None, high_per_s: float, tolerance: float) -> End | None:
    """Why the search is over; None where it is not."""
    if tried.verdict == "INVALID":
        return "INVALID"
    if holds is None:
        return "below the lowest"
    if misses is None:
        return "at the highest" if holds >= high_per_s else None
    return "found" if misses <= holds * (1 + tolerance) else None
