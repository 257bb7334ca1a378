"""What a build shows: lines in a log, a spinner on a terminal, nothing when asked to be quiet."""

from __future__ import annotations

import io
import os
import re

import pytest

from builder.progress import Progress


def test_a_finished_step_is_one_line_with_its_seconds() -> None:
    """Who, what, how long: a log can be read afterwards."""
    log = io.StringIO()
    with Progress(log).step("googlenet", "export to ONNX"):
        assert not log.getvalue()
    assert re.fullmatch(r"googlenet +export to ONNX  \d+\.\d s\n", log.getvalue())


def test_a_failed_step_does_not_read_as_finished() -> None:
    """The error speaks for itself: no line says that the step was done."""
    log = io.StringIO()
    with pytest.raises(ValueError, match="broken"), Progress(log).step("googlenet", "export to ONNX"):
        raise ValueError("broken")
    assert not log.getvalue()


def test_quiet_is_quiet() -> None:
    """Not a byte, whatever is reported."""
    log = io.StringIO()
    progress = Progress(log, is_quiet=True)
    progress.line("googlenet", "unchanged")
    with progress.step("googlenet", "export"), progress.bytes_of("googlenet", "download weights") as counter:
        counter(10, 10)
    assert not log.getvalue()


def test_standard_error_is_the_default_so_that_standard_output_stays_for_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--json` can be piped while the progress is watched."""
    Progress().line("googlenet", "unchanged")
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == f"{'googlenet':<26}unchanged\n"


def test_a_transfer_in_a_log_is_a_line_every_ten_percent() -> None:
    """A download of many blocks does not fill a log: at most eleven lines."""
    log = io.StringIO()
    with Progress(log).bytes_of("googlenet", "download weights") as counter:
        for done in range(0, 20_000_001, 40_000):
            counter(done, 20_000_000)
    lines = log.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].endswith("download weights  0.0 of 20.0 MB")
    assert lines[5].endswith("10.0 of 20.0 MB")
    assert lines[10].endswith("20.0 of 20.0 MB")


def test_a_transfer_of_unknown_size_is_no_error() -> None:
    """A server need not say how much comes."""
    log = io.StringIO()
    with Progress(log).bytes_of("googlenet", "download weights") as counter:
        counter(1_000_000, None)
    assert not log.getvalue()


def test_a_terminal_gets_the_finished_lines_too() -> None:
    """The spinner goes away; what was done stays on the screen."""
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as terminal, os.fdopen(reading, "rb", buffering=0) as screen:
        progress = Progress(terminal)
        with progress.step("googlenet", "export to ONNX"):
            pass
        progress.line("googlenet", "unchanged")
        shown = b""
        while b"unchanged" not in shown:
            shown += screen.read(4096)
    assert re.search(rb"googlenet +export to ONNX  \d+\.\d s\r\n", shown)


def test_a_bar_on_a_terminal_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """`build --json > result.json` on a terminal: the bar goes where the progress goes, not into the result."""
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as terminal, os.fdopen(reading, "rb", buffering=0) as screen:
        with Progress(terminal).bytes_of("googlenet", "download weights") as counter:
            counter(5_000_000, 10_000_000)
        print("end", file=terminal, flush=True)
        shown = b""
        while b"end" not in shown:
            shown += screen.read(4096)
    assert not capsys.readouterr().out
    assert b"download weights" in shown
