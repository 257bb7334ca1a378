"""`python -m loadtest arrivals` and `capacity`: options in, tables out."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from client import ModelContract
from client.settings import settings_from
from loadtest.arrivals import INTERRUPTED, MAX_OUTSTANDING, OK, Run, Sample, run_schedule
from loadtest.arrivals_figures import figures_of
from loadtest.arrivals_output import (
    arrivals_json,
    arrivals_tables,
    check_writable,
    probe_line,
    served_line,
    write_csv,
    write_json,
)
from loadtest.arrivals_target import Target, TargetOptions, check_address, opened
from loadtest.capacity import Capacity, Hopelessness, Objective, Probe, judged, probe_duration_s, search
from loadtest.errors import MeasurementFailed, UsageError
from loadtest.machine import machine_facts, machine_line
from loadtest.percentiles import HIGHEST_LEVEL, LOWEST_LEVEL
from loadtest.schedule import CONSTANT, POISSON, arrival_times_ns
from loadtest.workload import EXAMPLE_PHOTOGRAPHS, photographs_in

EXIT_INVALID, EXIT_INTERRUPTED = 4, 130
_WIDTH = 140
_EXAMPLES = """examples:
  python -m loadtest arrivals --rate 40 --duration 20 --model InceptionV3 --slo-ms 200 --json arrivals.json
  python -m loadtest arrivals --rate 40 --duration 20 --constant --csv samples.csv
  python -m loadtest capacity --slo-ms 200 --percentile 95 --model InceptionV3

exit codes: 0 done, 1 no answer or no rate that holds, 2 options, 4 INVALID (the generator was measured),
130 interrupted"""


def add_commands(commands: Any) -> None:
    """Add both commands to a parser's subparsers."""
    arrivals = _added(commands, "arrivals", "an open loop: requests sent when they are due, whatever the server does")
    arrivals.add_argument("--rate", type=float, required=True, metavar="R", help="requests a second")
    arrivals.add_argument("--duration", type=float, required=True, metavar="S", help="seconds in which they are due")
    arrivals.add_argument("--slo-ms", type=float, metavar="MS", help="count the answers within that, too")
    arrivals.add_argument("--csv", type=Path, metavar="FILE", help="write every sample there, one a row")
    arrivals.set_defaults(run=_arrivals)

    capacity = _added(commands, "capacity", "the highest rate at which a percentile of latency keeps an objective")
    capacity.add_argument("--slo-ms", type=float, required=True, metavar="MS", help="the objective")
    capacity.add_argument("--percentile", type=float, default=99.0, metavar="P", help="that keeps it (default: 99)")
    capacity.add_argument("--max-failure-share", type=float, default=0.0, metavar="X", help="of 1 (default: 0)")
    capacity.add_argument("--low", type=float, default=10.0, metavar="R", help="the first rate tried (default: 10)")
    capacity.add_argument("--high", type=float, default=2000.0, metavar="R", help="the last (default: 2000)")
    capacity.add_argument("--tolerance", type=float, default=0.05, metavar="X", help="of the rate (default: 0.05)")
    capacity.add_argument("--duration", type=float, default=10.0, metavar="S", help="of a try, at least (default: 10)")
    capacity.add_argument("--max-probe-s", type=float, default=120.0, metavar="S", help="at most (default: 120)")
    capacity.set_defaults(run=_capacity)


def _added(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="host:port, grpc:// or http:// (default: as `python -m client`)")
    parser.add_argument("--token", help="opens what the server restricts; better in $INCEPTION_TOKEN")
    parser.add_argument("--model", metavar="NAME", help="default: the one that is served")
    parser.add_argument("--photographs", type=Path, default=EXAMPLE_PHOTOGRAPHS, metavar="DIR", help="JPEGs to send")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="photographs a request (default: 1)")
    parser.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="of each call (default: 30)")
    parser.add_argument("--max-outstanding", type=int, default=MAX_OUTSTANDING, metavar="N", help="more is INVALID")
    parser.add_argument("--seed", default="0", metavar="TEXT", help="of the moments of arrival (default: 0)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--poisson", dest="kind", action="store_const", const=POISSON, default=POISSON, help="default")
    kinds.add_argument("--constant", dest="kind", action="store_const", const=CONSTANT, help="equal gaps")
    parser.add_argument("--shared-memory", action="store_true", help="pixels in memory shared with the server")
    parser.add_argument("--allow-remote", action="store_true", help="load a server on another machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write conditions, figures and samples there")
    return parser


def _arrivals(options: argparse.Namespace) -> int:
    schedule_ns = arrival_times_ns(options.kind, options.rate, options.duration, options.seed)
    if not schedule_ns:
        raise UsageError(f"nothing is due in {options.duration:g} s at {options.rate:g}/s; ask for more of either")
    target_options = _target_options(options)

    async def measure() -> tuple[Run, ModelContract]:
        async with opened(target_options) as target:
            _say(f"warming up {target.contract.served_name}")
            await target.warm_up()
            _say(f"{len(schedule_ns)} {options.kind} arrivals in {options.duration:g} s, seed {options.seed!r}")
            return await _run(target, schedule_ns, options), target.contract

    facts = machine_facts()
    run, contract = asyncio.run(measure())
    figures = figures_of(run, options.duration, options.slo_ms)
    console = _console()
    console.print(machine_line(facts), f"{served_line(contract)}; {_conditions(options)}", sep="\n", soft_wrap=True)
    for table in arrivals_tables(figures):
        console.print(table)
    for reason in figures.invalid:
        console.print(f"INVALID: {reason}", soft_wrap=True)
    if options.json is not None:
        write_json(options.json, arrivals_json(figures, run) | _context(options, contract, facts))
    if options.csv is not None:
        write_csv(options.csv, run)
    if run.stopped == INTERRUPTED:
        _say(f"interrupted after {figures.requests} of {figures.planned} requests; the figures are of those")
        return EXIT_INTERRUPTED
    if OK not in figures.outcomes:
        raise MeasurementFailed(f"none of {figures.requests} requests was answered: {figures.outcomes}")
    return EXIT_INVALID if figures.invalid else 0


def _capacity(options: argparse.Namespace) -> int:
    objective = _objective(options)
    probe_duration_s(options.low, objective, options.duration, options.max_probe_s)
    target_options = _target_options(options)
    console = _console()

    async def measure() -> tuple[Capacity, ModelContract]:
        async with opened(target_options) as target:
            _say(f"{served_line(target.contract)}; {_conditions(options)}")

            async def probe(rate_per_s: float, number: int) -> Probe | None:
                duration_s = probe_duration_s(rate_per_s, objective, options.duration, options.max_probe_s)
                schedule_ns = arrival_times_ns(options.kind, rate_per_s, duration_s, f"{options.seed}/{number}")
                await target.warm_up()
                run = await _run(target, schedule_ns, options, Hopelessness(len(schedule_ns), objective))
                return None if run.stopped == INTERRUPTED else judged(run, rate_per_s, objective)

            found = await search(
                probe,
                low_per_s=options.low,
                high_per_s=options.high,
                tolerance=options.tolerance,
                report=lambda tried: console.print(probe_line(tried, objective.level), soft_wrap=True),
            )
            return found, target.contract

    facts = machine_facts()
    found, contract = asyncio.run(measure())
    console.print(machine_line(facts), served_line(contract), _told(found, objective), sep="\n", soft_wrap=True)
    if options.json is not None:
        content = {"kind": "Capacity", "valid": found.end != "INVALID", **asdict(found)}
        write_json(options.json, content | _context(options, contract, facts))
    if found.end == "interrupted":
        return EXIT_INTERRUPTED
    if found.end == "INVALID":
        return EXIT_INVALID
    return 0 if found.holds_per_s is not None else 1


async def _run(
    target: Target,
    schedule_ns: tuple[int, ...],
    options: argparse.Namespace,
    is_decided: Callable[[Sample], bool] = lambda _sample: False,
) -> Run:
    """One run, with what was made before it out of the garbage collector's way."""
    gc.collect()
    gc.freeze()
    try:
        return await run_schedule(
            schedule_ns,
            target.send,
            timeout_s=options.timeout_s,
            max_outstanding=options.max_outstanding,
            is_decided=is_decided,
        )
    finally:
        gc.unfreeze()


def _target_options(options: argparse.Namespace) -> TargetOptions:
    """What both commands ask for; `UsageError` for what cannot be, before anything is sent."""
    for option, value in (("--batch-size", options.batch_size), ("--max-outstanding", options.max_outstanding)):
        if value < 1:
            raise UsageError(f"{option} {value}: expected 1 or more")
    if options.slo_ms is not None and not options.slo_ms > 0:
        raise UsageError(f"--slo-ms {options.slo_ms:g}: expected milliseconds above 0")
    check_writable(options.json, getattr(options, "csv", None))
    settings = settings_from(options.url, options.token, os.environ, Path())
    check_address(settings, is_remote_allowed=options.allow_remote)
    return TargetOptions(
        settings,
        photographs_in(options.photographs),
        options.model,
        options.batch_size,
        options.timeout_s,
        options.shared_memory,
    )


def _objective(options: argparse.Namespace) -> Objective:
    if not LOWEST_LEVEL <= options.percentile <= HIGHEST_LEVEL:
        raise UsageError(f"--percentile {options.percentile:g}: expected {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}")
    if not 0 <= options.max_failure_share < 1:
        raise UsageError(f"--max-failure-share {options.max_failure_share:g}: expected 0 to less than 1")
    if not 0 < options.low <= options.high:
        raise UsageError(f"--low {options.low:g} --high {options.high:g}: expected rates above 0, the lower one first")
    if not options.tolerance > 0:
        raise UsageError(f"--tolerance {options.tolerance:g}: expected a share above 0, such as 0.05")
    return Objective(options.slo_ms, options.percentile, options.max_failure_share)


def _conditions(options: argparse.Namespace) -> str:
    """How the load was made."""
    memory = ", shared memory" if options.shared_memory else ""
    return (
        f"{options.kind} arrivals, seed {options.seed!r}, batch {options.batch_size}{memory}, time-out "
        f"{options.timeout_s:g} s, nothing tried again; photographs were decoded and resized beforehand"
    )


def _context(options: argparse.Namespace, contract: ModelContract, facts: dict[str, object]) -> dict[str, Any]:
    """The conditions, for the file: everything but the token."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "emulated": contract.emulated,
        "served": contract.to_dict(),
        "machine": facts,
        "seed": options.seed,
        "options": {key: value for key, value in given.items() if key not in ("token", "run")},
    }


def _told(found: Capacity, objective: Objective) -> str:
    """The end of a search, as a sentence."""
    promise = f"p{objective.level:g} <= {objective.slo_ms:g} ms"
    held = "no rate was seen to hold" if found.holds_per_s is None else f"{promise} holds at {found.holds_per_s:.2f}/s"
    if found.end == "INVALID":
        return f"INVALID: {held}; beyond that the generator was measured, see the last rate's reason"
    missed = "" if found.misses_per_s is None else f", not at {found.misses_per_s:.2f}/s"
    more = {
        "at the highest": "; that is --high, the true capacity may be more",
        "below the lowest": "; ask again with a lower --low",
        "interrupted": "; interrupted before the search had ended",
    }
    return f"{held}{missed}{more.get(found.end, '')}"


def _console() -> Console:
    return Console(width=_WIDTH, highlight=False, markup=False)


def _say(text: str) -> None:
    Console(stderr=True, width=_WIDTH, highlight=False, markup=False).print(text, soft_wrap=True)
