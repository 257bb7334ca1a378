"""A request is sent again seldom, after a pause, within the call's deadline, and never where that may do harm."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from client import errors
from client.deadline import Deadline
from client.errors import (
    DeadlineExceeded,
    InceptionError,
    InferenceFailed,
    NotAllowed,
    Overloaded,
    QueueFull,
    ServerUnavailable,
    SomeFailed,
)
from client.operations import AskReady
from client.retries import NO_RETRIES, Call, RetryBudget, RetryPolicy
from client.steps import Pause, Send

POLICY = RetryPolicy()


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now_s: float = 0.0

    def deadline(self, timeout_s: float) -> FakeDeadline:
        return FakeDeadline(self, self.now_s + timeout_s)


@dataclass
class FakeDeadline(Deadline):
    """A deadline by that clock."""

    clock: Clock
    ends_at_s: float

    def left_s(self) -> float:
        return max(0.0, self.ends_at_s - self.clock.now_s)

    def remaining_s(self) -> float:
        if self.left_s() <= 0:
            raise DeadlineExceeded("no time left")
        return self.left_s()


@dataclass
class Schedule:
    """What happens to each try of one call: an error or an answer, and how long it takes."""

    tries: list[tuple[InceptionError | None, float]]
    sent: list[float] = field(default_factory=list)  # when each try was sent
    pauses_s: list[float] = field(default_factory=list)


def play(schedule: Schedule, clock: Clock, call: Call) -> Any:
    """Drive one call through the schedule; its answer, or its error."""
    steps = call.ask(AskReady("model"))
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                schedule.pauses_s.append(step.duration_s)
                clock.now_s += step.duration_s
                step = steps.send(None)
                continue
            assert isinstance(step, Send)
            schedule.sent.append(clock.now_s)
            error, duration_s = schedule.tries[min(len(schedule.sent), len(schedule.tries)) - 1]
            clock.now_s += min(duration_s, step.timeout_s)
            if duration_s > step.timeout_s:
                error = DeadlineExceeded("the transport gave up")
            step = steps.send(True) if error is None else steps.throw(error)
    except StopIteration as end:
        return end.value
    except InceptionError as error:
        return error


def outcome(
    *tries: InceptionError | None, timeout_s: float = 30.0, policy: RetryPolicy = POLICY
) -> tuple[Any, Schedule]:
    clock, schedule = Clock(), Schedule([(each, 0.01) for each in tries])
    call = Call(clock.deadline(timeout_s), policy, RetryBudget(policy), lambda: 1.0)
    return play(schedule, clock, call), schedule


@pytest.mark.parametrize(
    "error", [ServerUnavailable("gone"), QueueFull("full")], ids=lambda error: type(error).__name__
)
def test_what_may_do_better_in_a_moment_is_tried_again(error: InceptionError) -> None:
    """Nobody answered, or a full queue refused at once."""
    answer, schedule = outcome(error, error, None)
    assert answer is True
    assert schedule.pauses_s == [0.2, 1.0]


def test_nothing_else_is_tried_again() -> None:
    """Every other class of the tree: a failed model, a passed deadline, a restricted call, a wrong answer."""
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, InceptionError)]
    others = [each for each in kinds if each not in (ServerUnavailable, QueueFull, SomeFailed)]
    assert {InferenceFailed, DeadlineExceeded, NotAllowed, Overloaded} <= set(others)
    for kind in others:
        error = kind("no")
        assert outcome(error, None)[0] is error


def test_a_call_is_tried_at_most_three_times() -> None:
    """Two retries, over all the requests that one call needs."""
    error = ServerUnavailable("gone")
    answer, schedule = outcome(error)
    assert answer is error
    assert len(schedule.sent) == 3
    clock = Clock()
    call = Call(clock.deadline(30), POLICY, RetryBudget(POLICY))
    assert play(Schedule([(error, 0.01), (None, 0.01)]), clock, call) is True
    assert play(Schedule([(error, 0.01), (None, 0.01)]), clock, call) is True
    assert play(Schedule([(error, 0.01), (None, 0.01)]), clock, call) is error


def test_no_pause_outlasts_the_deadline() -> None:
    """Where there is no time for another try, the error comes at once."""
    error = ServerUnavailable("gone")
    answer, schedule = outcome(error, None, timeout_s=0.2)
    assert answer is error
    assert (len(schedule.sent), schedule.pauses_s) == (1, [])


def test_the_pause_is_spread() -> None:
    """Between half of it and all of it, so that clients which failed together do not come back together."""
    for fraction, expected in ((0.0, 0.1), (0.5, 0.15), (1.0, 0.2)):
        clock, schedule = Clock(), Schedule([(ServerUnavailable("gone"), 0.0), (None, 0.0)])
        play(schedule, clock, Call(clock.deadline(5), POLICY, RetryBudget(POLICY), lambda f=fraction: f))
        assert schedule.pauses_s == [pytest.approx(expected)]


def test_where_the_time_ends_between_two_requests_the_failure_is_the_news() -> None:
    """A server that was away is told of, not that looking for it took all the time."""
    clock, error = Clock(), ServerUnavailable("gone")
    call = Call(clock.deadline(1.0), POLICY, RetryBudget(POLICY), lambda: 1.0)
    assert play(Schedule([(error, 0.01), (None, 0.01)]), clock, call) is True
    clock.now_s += 5.0
    assert play(Schedule([(None, 0.01)]), clock, call) is error


def test_a_policy_may_say_never() -> None:
    """`wait_until_ready` and `health` have their own rhythm."""
    error = ServerUnavailable("gone")
    assert outcome(error, None, policy=NO_RETRIES)[0] is error


def test_retries_are_a_tenth_of_the_traffic() -> None:
    """A server that is down is asked 1.1 times as much as a sound one, not three times; the first ten are free."""
    budget, clock, sent = RetryBudget(POLICY), Clock(), 0
    for _ in range(1000):
        schedule = Schedule([(ServerUnavailable("gone"), 0.0)])
        play(schedule, clock, Call(clock.deadline(30), POLICY, budget))
        sent += len(schedule.sent)
    assert 1090 <= sent <= 1111


SCHEDULES = 10_000


def test_ten_thousand_schedules_keep_every_promise() -> None:
    """Seeded: any failure can be played again by its number alone, see the message."""
    kinds = [ServerUnavailable, QueueFull, Overloaded, InferenceFailed, NotAllowed]
    budget, retries, first_tries = RetryBudget(POLICY), 0, 0
    for seed in range(SCHEDULES):
        chance = random.Random(seed)
        tries = []
        for _ in range(4):
            error = None if chance.random() < 0.4 else chance.choice(kinds)(f"seed {seed}")
            tries.append((error, chance.choice([0.0, 0.01, 0.2, 3.0])))
        timeout_s = chance.choice([0.05, 0.5, 2.0, 30.0])
        clock, schedule = Clock(now_s=seed * 100.0), Schedule(tries)
        began_s = clock.now_s
        result = play(schedule, clock, Call(clock.deadline(timeout_s), POLICY, budget, chance.random))
        sent, told = len(schedule.sent), f"seed {seed}"
        assert 1 <= sent <= 3, told
        assert clock.now_s - began_s <= timeout_s + 1e-9, told
        assert all(at_s < began_s + timeout_s for at_s in schedule.sent), told
        # Every try but the last ended in what may be tried again; a right answer ends the call.
        before = [error for error, _ in tries[: sent - 1]]
        assert all(error is not None and error.is_retryable for error in before), told
        last_error, last_s = tries[sent - 1]
        left_s = timeout_s - (schedule.sent[-1] - began_s)
        if last_s > left_s:
            assert isinstance(result, DeadlineExceeded), told
        elif last_error is None:
            assert result is True, told
        else:
            assert result is last_error, told
        retries, first_tries = retries + sent - 1, first_tries + 1
    assert retries <= POLICY.budget_ratio * first_tries + POLICY.budget_reserve
    assert retries > 0.05 * first_tries
