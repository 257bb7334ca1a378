"""Figures as tables for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.bench import Figure
from loadtest.bench_build import BuildCost, StartCost
from loadtest.bench_client import ClientCost, ClientRatio, QueueCost
from loadtest.bench_serving import CONCURRENCY, IdleLatency, Throughput
from loadtest.runtimes import RuntimeComparison
from loadtest.statistics import Summary

_WIDTH = 180


def print_tables(conditions: str, tables: Sequence[Table]) -> None:
    """The conditions, then each table."""
    console = Console(width=_WIDTH)
    console.print(conditions, highlight=False, soft_wrap=True)
    for table in tables:
        console.print(table)


def as_json(figures: Sequence[Any]) -> list[dict[str, Any]]:
    """Every figure as a dictionary that says what `kind` it is."""
    return [{"kind": type(figure).__name__, **asdict(figure)} for figure in figures]


def bench_tables(figures: Sequence[Figure]) -> list[Table]:
    """One table a kind of figure, those that were measured."""
    builds = [figure for figure in figures if isinstance(figure, BuildCost)]
    starts = [figure for figure in figures if isinstance(figure, StartCost)]
    latencies = [figure for figure in figures if isinstance(figure, IdleLatency)]
    throughputs = [figure for figure in figures if isinstance(figure, Throughput)]
    tables = (
        _build_table(builds),
        _start_table(starts),
        _latency_table(latencies),
        _throughput_table(throughputs),
        _client_table([figure for figure in figures if isinstance(figure, ClientRatio)]),
        _client_cost_table([figure for figure in figures if isinstance(figure, ClientCost)]),
        _queue_table([figure for figure in figures if isinstance(figure, QueueCost)]),
    )
    return [table for table in tables if table.row_count]


def _build_table(builds: Sequence[BuildCost]) -> Table:
    table = _table("Build (one run each)", "build", "wall s", "peak memory GB", "imports torch")
    for build in builds:
        is_torch_imported = "yes" if build.is_torch_imported else "no"
        table.add_row(build.title, f"{build.wall_s:.1f}", f"{build.peak_gb:.2f}", is_torch_imported)
    return table


def _start_table(starts: Sequence[StartCost]) -> Table:
    table = _table("Start of the server (one run each)", "models", "ready s", "memory GB (PSS)")
    for start in starts:
        table.add_row(start.title, f"{start.ready_s:.1f}", f"{start.memory_gb:.2f}")
    return table


def _latency_table(latencies: Sequence[IdleLatency]) -> Table:
    table = _table(
        "Batch 1, idle server: classify(JPEG) against the same work in-process, p50",
        "model", "client ms", "in-process ms", "difference ms, median [95 % interval]",
    )  # fmt: skip
    for each in latencies:
        difference = _interval(each.overhead_ms, 2)
        table.add_row(each.name, f"{each.client_p50_ms:.2f}", f"{each.inprocess_p50_ms:.2f}", difference)
    return table


def _throughput_table(throughputs: Sequence[Throughput]) -> Table:
    table = _table(
        f"Throughput at concurrency {CONCURRENCY}, closed loop, against the best in-process batch size",
        "model", "best batch", "in-process img/s", "served img/s", "served / in-process, median [95 % interval]",
    )  # fmt: skip
    for load in throughputs:
        table.add_row(
            load.served_name,
            str(load.best_batch),
            f"{load.inprocess_images_per_s:.1f}",
            f"{load.served_images_per_s:.1f}",
            _interval(load.ratio, 3),
        )
    return table


def _client_table(ratios: Sequence[ClientRatio]) -> Table:
    table = _table(
        "Client, on a model that answers at once",
        "client", "against", "unit", "client", "other", "client / other, median [95 % interval]", "aim",
    )  # fmt: skip
    for each in ratios:
        aim = f"{'<=' if each.is_lower_better else '>='} {each.aim:g}"
        digits = 2 if each.is_lower_better else 0
        table.add_row(
            each.what,
            each.against,
            each.unit,
            f"{each.client:.{digits}f}",
            f"{each.other:.{digits}f}",
            _interval(each.ratio, 2),
            aim,
        )
    return table


def _client_cost_table(costs: Sequence[ClientCost]) -> Table:
    table = _table("Client alone (one run)", "what", "unit", "seen", "aim")
    for each in costs:
        table.add_row(each.what, each.unit, f"{each.value:.2f}", f"< {each.aim:g}")
    return table


def _queue_table(costs: Sequence[QueueCost]) -> Table:
    table = _table(
        "One instance, full batches of 8, eight under way: a queue bounded at 64 requests against one without a bound",
        "ms for each batch", "bounded images/s", "unbounded images/s", "bounded / unbounded, median [95 % interval]",
    )  # fmt: skip
    for each in costs:
        table.add_row(
            f"{each.sleep_ms:g}",
            f"{each.bounded_images_per_s:.0f}",
            f"{each.unbounded_images_per_s:.0f}",
            _interval(each.ratio, 2),
        )
    return table


def runtimes_table(comparisons: Sequence[RuntimeComparison]) -> Table:
    """The two runtimes, one row a model and batch size."""
    table = _table(
        "CPU runtimes, in-process, all cores, alternating",
        "model", "batch", "OpenVINO ms/image", "ONNX Runtime ms/image", "OpenVINO / ONNX Runtime",
    )  # fmt: skip
    for each in comparisons:
        table.add_row(
            each.served_name,
            str(each.batch_size),
            _interval(each.openvino_ms, 1),
            _interval(each.onnxruntime_ms, 1),
            _interval(each.ratio, 3),
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _interval(summary: Summary, digits: int) -> str:
    return f"{summary.median:.{digits}f} [{summary.low:.{digits}f}, {summary.high:.{digits}f}]"
