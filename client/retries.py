"""When a request is sent again: seldom, after a pause, within the call's deadline, and never for what may do harm.

Only an error that `is_retryable` counts: nobody answered, or a full queue refused at once. Inference changes nothing on
the server, so a request whose fate is unknown may be repeated; one that the server worked on and failed is not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from client.deadline import Deadline
from client.errors import InceptionError, InvalidRequest
from client.operations import Operation
from client.steps import Pause, Send, Steps

A = TypeVar("A")


@dataclass(frozen=True)
class RetryPolicy:
    """At most `max_retries` in one call, and over all calls `budget_ratio` of what is sent.

    The first pause is between half of `first_pause_s` and all of it, each next one `pause_factor` times as long; the
    two together outlast gRPC's own pause before it connects again. The
    budget keeps a broken server from being asked three times as much as a sound one; `budget_reserve` retries may be
    made before any traffic has earned them.
    """

    max_retries: int = 2
    first_pause_s: float = 0.2
    pause_factor: float = 5.0
    budget_ratio: float = 0.1
    budget_reserve: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidRequest(f"RetryPolicy: {name} is {value!r}; expected a number, not below 0")


NO_RETRIES = RetryPolicy(max_retries=0)


class RetryBudget:
    """How many retries the recent traffic of one client has earned.

    Threads may miscount each other's by a little. A lock would be exact, and would hang a process forked while it was
    held.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio, self._reserve = policy.budget_ratio, policy.budget_reserve
        self._left = policy.budget_reserve

    def earn(self) -> None:
        """One request is sent for the first time."""
        self._left = min(self._reserve, self._left + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be made; it is counted."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Call:
    """One call of a user: its deadline, and the retries left to all the requests it needs."""

    def __init__(
        self,
        deadline: Deadline,
        policy: RetryPolicy,
        budget: RetryBudget,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self.deadline = deadline
        self._policy, self._budget, self._fraction = policy, budget, fraction
        self._retries = 0
        self._tried_again_for: InceptionError | None = None

    def ask(self, operation: Operation[A]) -> Steps[A]:
        """The answer to `operation`, sent again where that is safe and there is time for it."""
        self._budget.earn()
        while True:
            try:
                answer: A = yield Send(operation, self._remaining_s())
            except InceptionError as error:
                pause_s = self._pause_s_after(error)
                if pause_s is None:
                    raise
            else:
                return answer
            yield Pause(pause_s)

    def _remaining_s(self) -> float:
        """Seconds left; where there are none after a failure, that failure is the news, not the time it took."""
        if self._tried_again_for is not None and self.deadline.left_s() <= 0:
            raise self._tried_again_for
        return self.deadline.remaining_s()

    def _pause_s_after(self, error: InceptionError) -> float | None:
        """Seconds until the next try; None where there is to be none."""
        policy = self._policy
        if not error.is_retryable or self._retries >= policy.max_retries:
            return None
        longest_s = policy.first_pause_s * policy.pause_factor**self._retries
        pause_s = longest_s * (0.5 + 0.5 * self._fraction())
        if pause_s >= self.deadline.left_s() or not self._budget.take():
            return None
        self._retries, self._tried_again_for = self._retries + 1, error
        return pause_s
