"""`python -m loadtest`: argument parsing and printing, no measuring."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from client import InceptionError
from loadtest.arrivals_command import add_commands
from loadtest.bench import PARTS, BenchOptions, bench, models_directory
from loadtest.errors import LoadtestError, UsageError
from loadtest.inprocess import served_names
from loadtest.machine import machine_facts, machine_line
from loadtest.report import as_json, bench_tables, print_tables, runtimes_table
from loadtest.runtimes import compare_runtimes
from serving import ServingError

PHOTO = Path("examples/photos/rocket.jpg")
_EXAMPLES = """examples:
  python -m loadtest bench --json bench.json                 everything; 20 to 30 minutes on two cores
  python -m loadtest bench --parts latency,throughput --model googlenet_fp32 --repository model_repository
  python -m loadtest runtimes --repository model_repository  OpenVINO against ONNX Runtime"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (LoadtestError, ServingError, InceptionError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("loadtest: interrupted; nothing was left running", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Measure what is served on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    benching = commands.add_parser(
        "bench",
        help="build and start costs, idle latency and throughput against the same model in-process",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benching.add_argument("--parts", default=",".join(PARTS), metavar="P[,P]", help="of: %(default)s (default: all)")
    benching.add_argument("--alternations", type=int, default=7, metavar="N", help="in-process and served in turn")
    benching.add_argument(
        "--photo", type=Path, default=PHOTO, metavar="FILE", help="classified for latency (default: %(default)s)"
    )
    benching.set_defaults(run=_bench)

    runtimes = commands.add_parser("runtimes", help="OpenVINO against ONNX Runtime, alternating, per model")
    runtimes.add_argument("--rounds", type=int, default=7, metavar="N", help="each runtime in turn (default: 7)")
    runtimes.set_defaults(run=_runtimes)
    add_commands(commands)

    for command in (benching, runtimes):
        command.add_argument(
            "--repository",
            type=Path,
            default=Path("bench_repository"),
            metavar="DIR",
            help="default: %(default)s, which the part `build` of bench makes anew",
        )
        command.add_argument("--model", action="append", metavar="SERVED_NAME", help="repeatable (default: all)")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _bench(options: argparse.Namespace) -> int:
    parts = tuple(part.strip() for part in options.parts.split(",") if part.strip())
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise UsageError(f"--parts {options.parts!r}: expected some of {', '.join(PARTS)}, separated by commas")
    if options.alternations < 1:
        raise UsageError(f"--alternations {options.alternations}: expected 1 or more")
    if not options.photo.is_file():
        raise UsageError(f"--photo {options.photo}: no such file; run this from the project's directory or name a JPEG")
    figures = bench(
        BenchOptions(parts, options.repository, tuple(options.model or ()), options.alternations, options.photo),
        _progress,
    )
    facts = machine_facts()
    print_tables(machine_line(facts), bench_tables(figures))
    _write(options.json, facts, figures)
    return 0


def _runtimes(options: argparse.Namespace) -> int:
    figures = []
    repository = models_directory(options.repository)
    for name in options.model or served_names(repository):
        _progress(f"runtimes: {name}")
        figures += compare_runtimes(repository, name, options.rounds)
    facts = machine_facts()
    print_tables(machine_line(facts), [runtimes_table(figures)])
    _write(options.json, facts, figures)
    return 0


def _write(path: Path | None, facts: dict[str, object], figures: Sequence[object]) -> None:
    if path is not None:
        path.write_text(json.dumps({"machine": facts, "figures": as_json(figures)}, indent=2) + "\n")
        print(f"written to {path}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
