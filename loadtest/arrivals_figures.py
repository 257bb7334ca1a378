"""What an open loop's samples say, and whether they may be believed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from loadtest.arrivals import DECIDED, INTERRUPTED, OK, Run, Sample
from loadtest.percentiles import LEVELS, Percentile, highest_level, needed_samples, percentile

# A generator that was itself late by more than this share of what it measured has measured itself.
LARGEST_DELAY_SHARE = 0.10
SLICES = 10


@dataclass(frozen=True)
class Slice:
    """One stretch of the schedule: how many requests were due in it, and the median and largest latency of those that
    were answered; None where none was.
    """

    from_s: float
    requests: int
    median_ms: float | None
    largest_ms: float | None


@dataclass(frozen=True)
class Figures:
    """One run in numbers; rates are requests a second from the first moment due to the last end.

    In `latency_ms` a request without an answer is slower than any answer. `goodput_per_s` counts answers within the
    objective. `invalid` says why the figures are not to be believed; empty where they are.
    """

    requests: int
    planned: int
    outcomes: dict[str, int]
    offered_per_s: float
    answered_per_s: float
    goodput_per_s: float | None
    latency_ms: tuple[Percentile, ...]
    dispatch_delay_ms: tuple[Percentile, ...]
    peak_outstanding: int
    elapsed_s: float
    generator_cores: float
    over_time: tuple[Slice, ...]
    invalid: tuple[str, ...]

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return self.outcomes.get(OK, 0)

    @property
    def failure_share(self) -> float:
        """How many of the requests sent were not answered, of 1."""
        return 1 - self.answered / self.requests if self.requests else 0.0


def figures_of(run: Run, duration_s: float, slo_ms: float | None = None, levels: Sequence[float] = LEVELS) -> Figures:
    """The figures of a run whose schedule was `duration_s` long."""
    samples = run.samples
    elapsed_s = max(duration_s if run.stopped is None else 0.0, run.elapsed_s)
    latencies = sorted(latency_of(sample) for sample in samples)
    delays = sorted(sample.delay_ms for sample in samples)
    good = None if slo_ms is None else sum(latency <= slo_ms for latency in latencies) / elapsed_s
    outcomes = Counter(sample.outcome for sample in samples)
    return Figures(
        requests=len(samples),
        planned=run.planned,
        outcomes=dict(outcomes.most_common()),
        offered_per_s=run.planned / duration_s,
        answered_per_s=outcomes[OK] / elapsed_s,
        goodput_per_s=good,
        latency_ms=tuple(percentile(latencies, level) for level in levels),
        dispatch_delay_ms=tuple(percentile(delays, level) for level in levels),
        peak_outstanding=run.peak_outstanding,
        elapsed_s=elapsed_s,
        generator_cores=run.cpu_s / elapsed_s,
        over_time=_over_time(samples, duration_s),
        invalid=invalidity(run),
    )


def latency_of(sample: Sample) -> float:
    """Milliseconds to the answer; infinity where there was none: whoever waited for it is waiting still."""
    return sample.latency_ms if sample.outcome == OK else math.inf


def invalidity(run: Run) -> tuple[str, ...]:
    """Why a run's figures are the generator's rather than the server's; empty where they are the server's."""
    reasons = [] if run.stopped in (None, INTERRUPTED, DECIDED) else [f"stopped early: {run.stopped}"]
    answered = sorted(sample.latency_ms for sample in run.samples if sample.outcome == OK)
    if not answered:
        return tuple(reasons)  # then there is no latency to believe or not
    level = highest_level(len(answered))
    if level is None:
        reasons.append(
            f"{len(answered)} answers are too few to tell whether the generator was in time; at least "
            f"{needed_samples(LEVELS[0])} are needed"
        )
        return tuple(reasons)
    delay = percentile(sorted(sample.delay_ms for sample in run.samples), level).value or 0.0
    latency = percentile(answered, level).value or 0.0
    if delay > LARGEST_DELAY_SHARE * latency:
        reasons.append(
            f"the generator was late: p{level:g} of its delay is {delay:.2f} ms, more than {LARGEST_DELAY_SHARE:.0%} "
            f"of the latency's {latency:.2f} ms; lower --rate, or run it where other work leaves it a core"
        )
    return tuple(reasons)


def _over_time(samples: Sequence[Sample], duration_s: float) -> tuple[Slice, ...]:
    """Slices of equal length, those in which something was due."""
    width_ns = duration_s * 1e9 / SLICES
    slices = []
    for number, group in groupby(samples, key=lambda sample: min(SLICES - 1, int(sample.scheduled_ns // width_ns))):
        due = list(group)
        answered = sorted(sample.latency_ms for sample in due if sample.outcome == OK)
        median_ms = answered[(len(answered) - 1) // 2] if answered else None
        slices.append(Slice(number * width_ns / 1e9, len(due), median_ms, answered[-1] if answered else None))
    return tuple(slices)
