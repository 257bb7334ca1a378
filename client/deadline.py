"""One deadline for a whole call, however many requests it takes."""

from __future__ import annotations

import math
import time

from client.errors import DeadlineExceeded, InvalidRequest

# Beyond a day a number is a mistake (milliseconds for seconds), and gRPC's clock arithmetic has limits of its own.
MAX_TIMEOUT_S = 86_400.0


class Deadline:
    """The moment, `timeout_s` seconds after it was made, at which a call must have ended."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._ends_at_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds left, more than 0; raises `DeadlineExceeded` when there are none."""
        left_s = self.left_s()
        if left_s <= 0:
            raise DeadlineExceeded(f"no answer within timeout_s={self.timeout_s:g}; nothing more was sent")
        return left_s

    def left_s(self) -> float:
        """Seconds left, 0 when there are none."""
        return max(0.0, self._ends_at_s - time.monotonic())


def checked_timeout_s(timeout_s: float) -> float:
    """`timeout_s` as a float; `InvalidRequest` unless it is a number of seconds above 0 and at most a day."""
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not math.isfinite(timeout_s) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"timeout_s is {timeout_s!r}; expected seconds, more than 0 and at most {MAX_TIMEOUT_S:g}")
    return float(timeout_s)
