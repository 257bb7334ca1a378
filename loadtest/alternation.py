"""Two or more things measured in turn, so that a drift of the machine's speed hits all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def in_turn(steps: Sequence[Callable[[], None]], turns: int) -> None:
    """Every step, `turns` times; every second turn in the opposite order."""
    for turn in range(turns):
        for step in steps if turn % 2 == 0 else reversed(steps):
            step()
