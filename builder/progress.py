"""What a build shows while it works: a spinner and finished lines on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import rich.progress


class Progress:
    """Reports the steps of a build to `stream` (standard error unless given); silent when `is_quiet`."""

    def __init__(self, stream: TextIO | None = None, *, is_quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._is_quiet = is_quiet
        self._is_terminal = self._stream.isatty()

    @contextlib.contextmanager
    def step(self, subject: str, action: str) -> Iterator[None]:
        """Show `action` on `subject` while the block runs, and how long it took when it ends well."""
        started = time.perf_counter()
        with self._spinner(f"{subject}  {action}"):
            yield
        self.line(subject, f"{action}  {time.perf_counter() - started:.1f} s")

    def line(self, subject: str, text: str) -> None:
        """One finished line."""
        if not self._is_quiet:
            print(f"{subject:<26}{text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def bytes_of(self, subject: str, action: str) -> Iterator[ByteCounter]:
        """A counter for a transfer: a bar on a terminal, a line every ten percent in a log."""
        terminal = self._stream if self._is_terminal and not self._is_quiet else None
        counter = ByteCounter(self, subject, action, terminal)
        with counter:
            yield counter

    def _spinner(self, text: str) -> contextlib.AbstractContextManager[object]:
        if self._is_quiet or not self._is_terminal:
            return contextlib.nullcontext()
        from rich.console import Console

        return Console(file=self._stream).status(text)


class ByteCounter:
    """Callable as `counter(done_bytes, total_bytes or None)`."""

    def __init__(self, progress: Progress, subject: str, action: str, terminal: TextIO | None) -> None:
        self._progress, self._subject, self._action = progress, subject, action
        self._terminal = terminal
        self._told_tenths = -1
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> ByteCounter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        """`done_bytes` of `total_bytes` have arrived."""
        if self._terminal:
            self._bar = self._bar or self._started_bar(self._terminal)
            self._bar.update(self._bar.task_ids[0], completed=done_bytes, total=total_bytes)
        elif total_bytes and (tenths := 10 * done_bytes // total_bytes) > self._told_tenths:
            self._told_tenths = tenths
            self._progress.line(self._subject, f"{self._action}  {done_bytes / 1e6:.1f} of {total_bytes / 1e6:.1f} MB")

    def _started_bar(self, terminal: TextIO) -> rich.progress.Progress:
        """Only now: most weights are there already, and nothing is transferred."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        bar = Progress(*columns, console=Console(file=terminal))
        bar.add_task(f"{self._subject}  {self._action}", total=None)
        bar.start()
        return bar
