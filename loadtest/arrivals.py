"""An open loop: every request is sent when it is due, whether or not those before it were answered.

A closed loop waits for the server it measures, so that a stall costs it one slow sample. Here all that became due
during the stall are slow, because a latency counts from the moment a request was due (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client import InceptionError

OK, ABANDONED = "ok", "Abandoned"
MAX_OUTSTANDING = 10_000
# How long after the last moment due a generator that is behind goes on sending, and how long after the time-out of the
# last request it waits for what has not ended.
GRACE_S = 1.0
INTERRUPTED, DECIDED = "it was interrupted", "its outcome was certain"
_LEAD_NS = 20_000_000  # between fixing the start and the first moment due
_NS = 1_000_000_000


class Sample(NamedTuple):
    """One request: nanoseconds after the start at which it was due, was begun and ended; `outcome` is `OK`, the class
    of the error, or `ABANDONED` for one that the run did not wait for.
    """

    scheduled_ns: int
    dispatched_ns: int
    ended_ns: int
    outcome: str

    @property
    def latency_ms(self) -> float:
        """From the moment it was due to its end."""
        return (self.ended_ns - self.scheduled_ns) / 1e6

    @property
    def delay_ms(self) -> float:
        """What the generator itself was late by."""
        return (self.dispatched_ns - self.scheduled_ns) / 1e6


@dataclass(frozen=True)
class Run:
    """What became of a schedule of `planned` requests: every sample in the order of the schedule.

    `stopped` says why the rest was not sent, None when all were. `cpu_s` is what this process used meanwhile.
    """

    samples: tuple[Sample, ...]
    planned: int
    stopped: str | None
    peak_outstanding: int
    elapsed_s: float
    cpu_s: float


@dataclass(frozen=True)
class Pace:
    """How the loop waits: asleep until `spin_ns` before a moment that is due, then looking again and again.

    `spin_ns` is what the event loop's own sleep may overshoot by: 1.5 ms with epoll, which knows milliseconds only.
    """

    spin_ns: int = 1_500_000
    clock_ns: Callable[[], int] = time.perf_counter_ns

    async def until(self, due_ns: int) -> None:
        """Return as soon as possible after `due_ns` of the clock; others run at least once meanwhile."""
        left_ns = due_ns - self.clock_ns()
        await asyncio.sleep(max(0, left_ns - self.spin_ns) / 1e9)
        while self.clock_ns() < due_ns:
            await asyncio.sleep(0)


async def run_schedule(
    schedule_ns: Sequence[int],
    send: Callable[[int], Awaitable[object]],
    *,
    timeout_s: float,
    max_outstanding: int = MAX_OUTSTANDING,
    pace: Pace = Pace(),
    is_decided: Callable[[Sample], bool] = lambda _sample: False,
) -> Run:
    """Begin `send(number)` at each moment of the schedule; an `InceptionError` it raises is that request's outcome.

    `send` must end within `timeout_s`. The run ends within the schedule's length, `timeout_s` and twice `GRACE_S`:
    what has not ended then is abandoned. It stops early, and says so, when more than `max_outstanding` are under way,
    when it falls too far behind, when `is_decided` says of a sample that the rest does not matter, and when it is
    cancelled: the samples so far are its answer then. Any other exception of `send` is raised.
    """
    loop = _OpenLoop(schedule_ns, send, timeout_s, max_outstanding, pace, is_decided)
    return await loop.run()


@dataclass
class _OpenLoop:
    """One run and its state."""

    _schedule_ns: Sequence[int]
    _send: Callable[[int], Awaitable[object]]
    _timeout_s: float
    _max_outstanding: int
    _pace: Pace
    _is_decided: Callable[[Sample], bool]
    _samples: list[Sample] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _peak: int = 0
    _start_ns: int = 0
    _stopped: str | None = None
    _is_cut_short: bool = False
    _progressed: asyncio.Event = field(default_factory=asyncio.Event)
    _fault: BaseException | None = None

    async def run(self) -> Run:
        """See `run_schedule`."""
        cpu_began_s = time.process_time()
        self._start_ns = self._pace.clock_ns() + _LEAD_NS
        try:
            await self._dispatch()
            await self._drain()
        except asyncio.CancelledError:
            self._stopped = INTERRUPTED
            if task := asyncio.current_task():
                task.uncancel()  # what was measured is still to be handed over
        elapsed_s = (self._pace.clock_ns() - self._start_ns) / 1e9
        await self._abandon()
        if self._fault is not None:
            raise self._fault
        return Run(
            tuple(sorted(self._samples)),
            len(self._schedule_ns),
            self._stopped,
            self._peak,
            elapsed_s,
            time.process_time() - cpu_began_s,
        )

    async def _dispatch(self) -> None:
        """Begin all that is due, then wait for the next moment."""
        last_ns = self._start_ns + (self._schedule_ns[-1] if self._schedule_ns else 0) + round(GRACE_S * _NS)
        number = 0
        while number < len(self._schedule_ns) and self._stopped is None:
            await self._pace.until(self._start_ns + self._schedule_ns[number])
            now_ns = self._pace.clock_ns()
            if now_ns > last_ns:
                left = len(self._schedule_ns) - number
                self._stopped = f"the generator fell so far behind that {left} requests were never sent"
            while (
                self._stopped is None
                and number < len(self._schedule_ns)
                and self._start_ns + self._schedule_ns[number] <= now_ns
            ):
                self._begin(number)
                number += 1
        await asyncio.sleep(0)  # the last one has begun

    async def _drain(self) -> None:
        """Wait for what is under way, unless nobody needs it any more."""
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                while self._tasks and not self._is_cut_short:
                    self._progressed.clear()
                    await self._progressed.wait()
        except TimeoutError:
            return

    def _begin(self, number: int) -> None:
        if len(self._tasks) >= self._max_outstanding:
            self._stopped = f"{self._max_outstanding} requests were under way, which is the bound (--max-outstanding)"
            return
        task = asyncio.get_running_loop().create_task(self._one(self._schedule_ns[number], number))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._peak = max(self._peak, len(self._tasks))

    async def _one(self, scheduled_ns: int, number: int) -> None:
        clock_ns, start_ns = self._pace.clock_ns, self._start_ns
        dispatched_ns = clock_ns() - start_ns
        outcome = OK
        try:
            await self._send(number)
        except InceptionError as error:
            outcome = type(error).__name__
        except asyncio.CancelledError:
            outcome = ABANDONED
        sample = Sample(scheduled_ns, dispatched_ns, clock_ns() - start_ns, outcome)
        self._samples.append(sample)
        if self._stopped is None and self._is_decided(sample):
            self._stopped, self._is_cut_short = DECIDED, True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._progressed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error
            self._stopped, self._is_cut_short = "a request failed in an unforeseen way", True

    async def _abandon(self) -> None:
        left = tuple(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
