"""How far a run of `classify` is, on a terminal: a bar, or a line now and then where rich is not installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, TextIO

UPDATE_INTERVAL_S = 0.1
LINE_INTERVAL_S = 10.0


def say(text: str, stream: TextIO | None = None) -> None:
    """One line on `stream`, standard error unless given; what is not Unicode in a path becomes escapes."""
    stream = stream or sys.stderr
    stream.write(_shown(text) + "\n")
    stream.flush()


class Progress(Protocol):
    """What a run tells while it goes on."""

    def update(self, done: int, errors: int, skipped: int) -> None:
        """So many are done, so many errors are among them, and so many were done before this run."""

    def line(self, text: str) -> None:
        """Show a line of its own on standard error."""

    def __enter__(self) -> Progress: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def progress_on(stream: TextIO, count: Callable[[], int] | None) -> Progress:
    """The progress for `stream`: nothing but lines where it is no terminal.

    `count` says how many images there are; it is asked in a thread of its own while the run goes on.
    """
    if not stream.isatty():
        return Lines(stream, interval_s=None)
    try:
        return Bar(stream, count)
    except ModuleNotFoundError:
        return Lines(stream)


class Lines:
    """One line every `interval_s`; None: none at all."""

    def __init__(self, stream: TextIO, interval_s: float | None = LINE_INTERVAL_S) -> None:
        self._stream, self._interval_s = stream, interval_s
        self._started_s = self._told_s = time.monotonic()

    def update(self, done: int, errors: int, skipped: int) -> None:
        """See `Progress`."""
        now_s = time.monotonic()
        if self._interval_s is None or now_s - self._told_s < self._interval_s:
            return
        self._told_s = now_s
        before = f", {skipped} done before" if skipped else ""
        self.line(f"{done} images{before}, {errors} errors, {done / (now_s - self._started_s):.1f} images/s")

    def line(self, text: str) -> None:
        """See `Progress`."""
        say(text, self._stream)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is to be ended."""


class Bar:
    """rich's bar: done of all, images/s of the last seconds, errors, time left. Raises `ModuleNotFoundError`."""

    def __init__(self, stream: TextIO, count: Callable[[], int] | None) -> None:
        rich, console = import_module("rich.progress"), import_module("rich.console")
        self._console: Any = console.Console(file=stream)
        self._bar: Any = rich.Progress(
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TextColumn("{task.fields[errors]} errors"),
            rich.TimeRemainingColumn(),
            console=self._console,
            # The rows are not shown while there is a bar, so nothing needs to be kept apart from it.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, rate="", errors=0)
        self._count, self._counted = count, -1
        self._done = self._errors = self._skipped = 0
        self._updated_s = 0.0

    def update(self, done: int, errors: int, skipped: int) -> None:
        """See `Progress`."""
        self._done, self._errors, self._skipped = done, errors, skipped
        now_s = time.monotonic()
        if now_s - self._updated_s >= UPDATE_INTERVAL_S:
            self._updated_s = now_s
            self._show()

    def _show(self) -> None:
        speed = self._bar.tasks[0].speed
        total = None if self._counted < 0 else max(self._done, self._counted - self._skipped)
        rate = f"{speed:.1f} images/s" if speed else ""
        self._bar.update(self._task, completed=self._done, total=total, errors=self._errors, rate=rate)

    def line(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(_shown(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Bar:
        self._bar.start()
        if self._count is not None:
            threading.Thread(target=self._count_all, daemon=True, name="inception-count").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show()
        self._bar.stop()

    def _count_all(self) -> None:
        if self._count is not None:
            self._counted = self._count()


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
