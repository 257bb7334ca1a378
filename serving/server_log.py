"""The reason for a failed start, in one line, out of tritonserver's log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# In the order in which they explain: the first pattern that matches anywhere is the reason.
_MODEL_FAILURES = tuple(
    re.compile(pattern)
    for pattern in (
        r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)",
        r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)",
        r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)",
        r"failed to poll model '(?P<model>[^']+)': (?P<reason>.*)",
    )
)
# After this one version 2.51 waits for ever, so it must be seen while the server is still alive.
_STUB_FAILURE = re.compile(r"Failed to preinitialize Python stub: (?P<reason>.*)")
_PROTOBUF_ERROR = re.compile(r"Error parsing text-format \S+ (?P<reason>.*)")
_PORT_IN_USE = re.compile(r"Socket '\S+:(?P<port>\d+)' already in use")
_TRACE_PLACE = re.compile(r"\s*At:\s*(?P<file>\S+)\((?P<line>\d+)\)")
_ERROR_LINE = re.compile(
    r"^E\d{4} \S+\s+\d+ \S+\] (?P<reason>.*)|^(?P<plain>error: .*|.*error while loading shared libraries.*)"
)
_TAIL_LINES, _TAIL_LINE_CHARS = 3, 200


@dataclass(frozen=True)
class LoadFailure:
    """A model that the server would not load; `model` is None where the log does not say which."""

    model: str | None
    reason: str


def read_log(path: Path) -> str:
    """The log as text; what is not UTF-8 in it is marked, not fatal."""
    return path.read_text(errors="replace") if path.exists() else ""


def load_failure(log: str) -> LoadFailure | None:
    """The first model that failed to load, with its reason in one line."""
    for pattern in _MODEL_FAILURES:
        match = pattern.search(log)
        if match:
            reason = one_line(match["reason"])
            detail = _PROTOBUF_ERROR.search(log)
            if detail and "text proto" in reason:
                reason = f"{reason}: {one_line(detail['reason'])}"
            return LoadFailure(match["model"], reason)
    match = _STUB_FAILURE.search(log)
    return LoadFailure(None, one_line(match["reason"])) if match else None


def busy_port(log: str) -> int | None:
    """The port that another program held when the server wanted to bind it."""
    match = _PORT_IN_USE.search(log)
    return int(match["port"]) if match else None


def last_error(log: str) -> str:
    """The last thing the server complained about, in one line; a note that there is none."""
    for line in reversed(log.splitlines()):
        match = _ERROR_LINE.search(line)
        if match:
            return one_line(match["reason"] or match["plain"])
    return "the log names no error"


def ending(path: Path) -> str:
    """A sentence with the log's last lines, in one line, for a message that may outlive the log."""
    lines = [line for line in read_log(path).splitlines() if line.strip()][-_TAIL_LINES:]
    return f"Its log ends with: {' | '.join(one_line(line)[:_TAIL_LINE_CHARS] for line in lines) or '(nothing)'}"


def one_line(text: str) -> str:
    r"""A log message without its quotes, its escaped `\n` and its traceback, whose first place is kept."""
    text = text.strip().removeprefix('"').removesuffix('"').replace("\\n", "\n")
    text, _, trace = text.partition("\n\nAt:")
    place = _TRACE_PLACE.match("At:" + trace) if trace else None
    where = f" ({Path(place['file']).name}, line {place['line']})" if place else ""
    return " ".join(text.split()) + where
