"""An open loop's figures as tables for people, and its samples as JSON and CSV for machines."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from client import ModelContract
from loadtest.arrivals import Run, Sample
from loadtest.arrivals_figures import Figures
from loadtest.capacity import Probe
from loadtest.errors import LoadtestError, UsageError
from loadtest.percentiles import Percentile

UNANSWERED = "unanswered"  # in place of an infinite latency, which JSON does not have


def served_line(contract: ModelContract) -> str:
    """What was asked, and before all else whether the server only imitates it."""
    emulated = f"EMULATED ({contract.emulated}): " if contract.emulated else ""
    return f"{emulated}{contract.served_name} version {contract.version}, release {contract.release}"


def arrivals_tables(figures: Figures) -> list[Table]:
    """Rates and outcomes, percentiles, and latency over the time of the run."""
    return [_rates(figures), _percentiles(figures), _over_time(figures)]


def probe_line(probe: Probe, level: float) -> str:
    """One rate of a search, in a line."""
    told = interval(probe.latency_ms)
    reason = f": {probe.reason}" if probe.reason else ""
    return (
        f"{probe.rate_per_s:8.2f}/s  {probe.requests:6} requests  p{level:g} {told} ms  "
        f"failed {probe.failure_share:.2%}  {probe.verdict}{reason}"
    )


def interval(told: Percentile) -> str:
    """`value [low, high]`, or how many samples it would need."""
    if told.value is None or told.low is None or told.high is None:
        return f"n too small (needs {told.needed})"
    return f"{_ms(told.value)} [{_ms(told.low)}, {_ms(told.high)}]"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if math.isfinite(value) else UNANSWERED


def _rates(figures: Figures) -> Table:
    table = _table("Open loop: sent when due", "requests", "due /s", "answered /s", "within the objective /s",
                   "outcomes", "most under way", "generator, cores")  # fmt: skip
    table.add_row(
        f"{figures.requests} of {figures.planned}",
        f"{figures.offered_per_s:.2f}",
        f"{figures.answered_per_s:.2f}",
        "-" if figures.goodput_per_s is None else f"{figures.goodput_per_s:.2f}",
        ", ".join(f"{count} {outcome}" for outcome, count in figures.outcomes.items()) or "none",
        str(figures.peak_outstanding),
        f"{figures.generator_cores:.2f}",
    )
    return table


def _percentiles(figures: Figures) -> Table:
    table = _table(
        "Percentiles, ms [95 % bounds]; no answer is slower than any answer",
        "percentile", "latency from the moment due", "of it, the delay of the generator",
    )  # fmt: skip
    for latency, delay in zip(figures.latency_ms, figures.dispatch_delay_ms, strict=True):
        table.add_row(f"p{latency.level:g}", interval(latency), interval(delay))
    return table


def _over_time(figures: Figures) -> Table:
    table = _table("Latency over time", "due from, s", "requests", "median ms", "largest ms")
    for part in figures.over_time:
        table.add_row(f"{part.from_s:.1f}", str(part.requests), _ms(part.median_ms), _ms(part.largest_ms))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    return table


def check_writable(*paths: Path | None) -> None:
    """Raise `UsageError` before anything is measured where a file cannot be written."""
    for path in paths:
        if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            raise UsageError(f"{path} cannot be written; expected a file in a directory that exists and is yours")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One object; an infinite latency becomes `UNANSWERED`."""
    _write(path, json.dumps(_finite(content), allow_nan=False) + "\n")


def arrivals_json(figures: Figures, run: Run) -> dict[str, Any]:
    """Figures and every sample, each a list in the order of `sample_fields`."""
    return {
        "kind": "Arrivals",
        "valid": not figures.invalid,
        "stopped": run.stopped,
        "figures": asdict(figures),
        "sample_fields": list(Sample._fields),
        "samples": [list(sample) for sample in run.samples],
    }


def write_csv(path: Path, run: Run) -> None:
    """One row a sample, in the order of the schedule."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*Sample._fields, "delay_ms", "latency_ms"))
            writer.writerows((*sample, f"{sample.delay_ms:.6f}", f"{sample.latency_ms:.6f}") for sample in run.samples)
    except OSError as error:
        raise _unwritten(path, error) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> LoadtestError:
    return LoadtestError(f"{path} could not be written ({error.strerror}); what was measured is printed above only")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return UNANSWERED
    return value
