"""When requests are due: decided before the first is sent, the same for the same seed on every machine."""

from __future__ import annotations

import math
import random

from loadtest.errors import UsageError

POISSON, CONSTANT = "poisson", "constant"
MAX_ARRIVALS = 1_000_000
_NS = 1_000_000_000


def arrival_times_ns(kind: str, rate_per_s: float, duration_s: float, seed: str) -> tuple[int, ...]:
    """The moments within `duration_s`, in nanoseconds after its beginning and in their order.

    `CONSTANT` has one every 1 / `rate_per_s`, the first at once. `POISSON` has gaps of the exponential distribution
    with that mean, drawn from `seed`: users who do not know of each other. Raises `UsageError` for what is no such
    rate or duration, and for more than `MAX_ARRIVALS`.
    """
    for option, value in (("--rate", rate_per_s), ("--duration", duration_s)):
        if not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: expected a number above 0")
    if rate_per_s * duration_s > MAX_ARRIVALS:
        raise UsageError(
            f"{rate_per_s:g} requests/s for {duration_s:g} s are more than {MAX_ARRIVALS:,} requests, the most that a "
            "run keeps every sample of; ask for a lower --rate or a shorter --duration"
        )
    if kind == CONSTANT:
        times = (number / rate_per_s for number in range(math.ceil(rate_per_s * duration_s)))
        return tuple(round(time_s * _NS) for time_s in times)
    chance = random.Random(seed)
    arrivals = []
    time_s = chance.expovariate(rate_per_s)
    while time_s < duration_s:
        arrivals.append(round(time_s * _NS))
        time_s += chance.expovariate(rate_per_s)
    return tuple(arrivals)
