"""How far a run is: a bar on a terminal, nothing in a log."""

from __future__ import annotations

import sys
import threading
from io import StringIO

import pytest

from client.progress import Bar, Lines, progress_on


class Terminal(StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_errors_only() -> None:
    """No line for what went well."""
    log = StringIO()
    with progress_on(log, lambda: 3) as progress:
        progress.update(1, 0, 0)
        progress.line("InvalidImage: caf\udce9.jpg")
    assert log.getvalue() == "InvalidImage: caf\\udce9.jpg\n"


def test_a_terminal_gets_a_bar_with_errors_and_what_is_left() -> None:
    """The number of all images comes from a thread that counts them."""
    counted = threading.Event()

    def count() -> int:
        counted.set()
        return 5

    terminal = Terminal()
    with progress_on(terminal, count) as progress:
        assert isinstance(progress, Bar)
        assert counted.wait(30)
        while progress._counted < 0:
            pass
        progress.update(2, 1, 1)
        progress.line("a line above the bar [not markup]")
    shown = terminal.getvalue()
    assert "2/4" in shown
    assert "1 errors" in shown
    assert "a line above the bar [not markup]" in shown


def test_without_rich_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich is not among what the client needs."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert isinstance(progress_on(Terminal(), None), Lines)
    log = StringIO()
    lines = Lines(log, interval_s=0.0)
    lines.update(10, 2, 3)
    assert log.getvalue().startswith("10 images, 3 done before, 2 errors, ")
