"""The benchmark of the README: what is measured, in which order, on which models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench_build import BuildCost, StartCost, build_cost, start_cost
from loadtest.bench_client import ClientCost, ClientRatio, QueueCost, client_costs, client_ratios, queue_costs
from loadtest.bench_serving import IdleLatency, Throughput, idle_latency, idle_latency_of_instant_model, throughput
from loadtest.errors import UsageError
from loadtest.inprocess import served_names

PARTS = ("build", "start", "latency", "throughput", "client", "queue")

# Marks a directory that the part `build` made and may make anew; the models lie in its folder `models`.
_MARKER = ".bench"

Figure = BuildCost | StartCost | IdleLatency | Throughput | ClientRatio | ClientCost | QueueCost


@dataclass(frozen=True)
class BenchOptions:
    """`parts` of `PARTS`; `models` are served names, empty for all of the repository."""

    parts: tuple[str, ...]
    repository: Path
    models: tuple[str, ...]
    alternations: int
    photo: Path


def bench(options: BenchOptions, progress: Callable[[str], None]) -> list[Figure]:
    """Measure the parts asked for, in the order of `PARTS`; returns every figure.

    The part `build` makes the repository anew; without it, it must be there. Raises `LoadtestError` or `ServingError`
    when something measured does not run.
    """
    figures: list[Figure] = []
    if "build" in options.parts:
        figures += _builds(options.repository, progress)
    repository = models_directory(options.repository)
    names = options.models or served_names(repository)
    if "start" in options.parts:
        progress(f"start: {names[0]}, then all {len(names)}")
        figures.append(start_cost(names[0], repository, [names[0]]))
        figures.append(start_cost(f"all {len(names)}", repository, list(names)))
    if "latency" in options.parts:
        photo = options.photo.read_bytes()
        progress("idle latency: a model that answers at once")
        figures.append(idle_latency_of_instant_model(repository, _pattern(names), photo, options.alternations))
        for name in names:
            progress(f"idle latency: {name}")
            figures.append(idle_latency(repository, name, photo, options.alternations))
    if "throughput" in options.parts:
        for name in names:
            progress(f"throughput: {name}, {options.alternations} alternations")
            figures.append(throughput(repository, name, options.alternations))
    if "client" in options.parts:
        progress(f"client: against tritonclient and bare decoding, {options.alternations} alternations")
        photo = options.photo.read_bytes()
        figures += client_ratios(repository, _pattern(names), photo, options.alternations)
        progress("client: memory and import")
        figures += client_costs(repository, _pattern(names))
    if "queue" in options.parts:
        progress(f"queue: with a bound and without, {options.alternations} alternations")
        figures += queue_costs(repository, _pattern(names), options.alternations)
    return figures


def _pattern(names: Sequence[str]) -> str:
    """The model whose tensors a model without a network has: of 299 pixels where there is one."""
    return next((name for name in names if not name.startswith("googlenet_")), names[0])


def models_directory(repository: Path) -> Path:
    """Where the models lie: below a directory that the part `build` made, else in `repository` itself."""
    return repository / "models" if _is_ours(repository) else repository


def _is_ours(directory: Path) -> bool:
    return (directory / _MARKER).exists()


def _builds(directory: Path, progress: Callable[[str], None]) -> list[Figure]:
    if directory.exists() and not _is_ours(directory):
        raise UsageError(
            f"{directory} was not made by this benchmark, and the part `build` would delete it; give another "
            "--repository, or leave the part out"
        )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / _MARKER).touch()
    progress("cold build: all eight, fp32, seeded")
    cold = build_cost("cold, all eight fp32, seeded", directory / "models", directory / "cache")
    progress("second build: nothing has changed")
    return [cold, build_cost("unchanged", directory / "models", directory / "cache")]
