"""Ctrl-C as a wish to stop soon: what was asked for is still answered. A second one ends the program at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NOTICE = b"\nstopping when what is under way is answered; Ctrl-C again stops at once\n"


class Interrupted(Exception):
    """Ended a wait for input."""


class Interruption:
    """While entered, remembers a Ctrl-C in `is_wanted`.

    `end_input` is then called; where it says that input is being waited for, `Interrupted` is raised as well, for that
    wait might never end of itself. While not `is_worth_waiting`, a Ctrl-C is what it always is. Outside the main
    thread, or where Ctrl-C is ignored (`nohup`, `&`), nothing is changed.
    """

    def __init__(self, end_input: Callable[[], bool]) -> None:
        self.is_wanted = False
        self.is_worth_waiting = False
        self._end_input = end_input
        self._before: Any = None

    def __enter__(self) -> Interruption:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_wanted or not self.is_worth_waiting:
            raise KeyboardInterrupt
        self.is_wanted = True
        if self._end_input():
            raise Interrupted
        os.write(2, _NOTICE)  # the handler may have come in the middle of a print, which must not be entered twice
