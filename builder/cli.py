"""`python -m builder`: argument parsing and printing, no logic."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.build import BuildOptions, build
from builder.catalog import MODELS, ModelSpec, spec_from_name
from builder.errors import BuilderError, IncompleteBuild, UsageError
from builder.progress import Progress
from builder.targets import TARGETS, precisions_from_option

_EXIT_CODES = """exit codes:
  0  done
  1  our fault or the environment's
  2  usage
  3  incomplete: a step needs another machine, everything else is done and kept
  4  a check failed: parity, accuracy or integrity"""

_BUILD_EXAMPLES = """examples:
  python -m builder build --gpu cpu                              all eight, fp32, official weights
  python -m builder build --gpu cpu --weights seeded             without network: untrained, calibrated weights
  python -m builder build --gpu cpu --model InceptionV3 --precision fp32,fp16
  python -m builder build --gpu cpu --model Xception41 --weights flowers.pdparams --labels flowers.txt
  python -m builder build --gpu cpu --model GoogLeNet --input-size 299
  python -m builder build --gpu t4                               TensorRT folders; ends with 3 where there is no T4"""

_LIST_EXAMPLES = """examples:
  python -m builder list
  python -m builder list --json"""

_VERIFY_EXAMPLES = """examples:
  python -m builder verify                                       the repository that `build` writes
  python -m builder verify /srv/models --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on standard error, never a stack trace."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except BuilderError as error:
        print(f"builder: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            f"builder: the system refused: {error}. See to permissions and free space, then run this again to go on",
            file=sys.stderr,
        )
        return BuilderError.exit_code
    except KeyboardInterrupt:
        print("builder: interrupted; the repository is as it was, run the same command to go on", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m builder",
        description="PaddleClas's Inception series as Triton model folders.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser(
        "list",
        help="the eight models: sizes, true counts, PaddleClas's published figures",
        epilog=f"{_LIST_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=_list)

    build = commands.add_parser(
        "build",
        help="weights -> ONNX -> checked, published model folders",
        epilog=f"{_BUILD_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("--gpu", required=True, choices=sorted(TARGETS), help="the kind of machine that will serve")
    build.add_argument(
        "--model", action="append", metavar="NAME", help="a model of the list, repeatable (default: all eight)"
    )
    build.add_argument(
        "--precision", metavar="P[,P]", help="fp32, fp16 or both (default: fp32 for cpu, both for a GPU)"
    )
    build.add_argument(
        "--weights",
        default="pretrained",
        metavar="SOURCE",
        help="'pretrained' (default: PaddleClas's files, downloaded once), 'seeded' (untrained), or a .pdparams, "
        ".safetensors or torch file",
    )
    build.add_argument("--seed", type=int, default=0, metavar="N", help="with --weights seeded (default: %(default)s)")
    build.add_argument("--labels", type=Path, metavar="FILE", help="one label per line, for a head of other classes")
    build.add_argument("--input-size", type=int, metavar="PIXELS", help="another input size; becomes part of the name")
    build.add_argument("--instances", type=int, default=1, metavar="N", help="instance_group count (default: 1)")
    build.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: %(default)s"
    )
    build.add_argument(
        "--cache-dir", type=Path, default=Path(".cache"), metavar="DIR", help="downloads (default: %(default)s)"
    )
    build.add_argument(
        "--lock-file",
        type=Path,
        default=Path("weights.lock.json"),
        metavar="FILE",
        help="SHA-256 of each official file, pinned on first use; commit it (default: %(default)s)",
    )
    build.add_argument("--quiet", action="store_true", help="no progress on standard error")
    build.add_argument("--json", action="store_true", help="the result for machines, on standard output")
    build.set_defaults(run=_build)

    verify = commands.add_parser(
        "verify",
        help="hash a repository again and name every file that is not as published",
        epilog=f"{_VERIFY_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument(
        "repository", type=Path, nargs="?", default=Path("model_repository"), help="default: %(default)s"
    )
    verify.add_argument("--json", action="store_true", help="for machines")
    verify.set_defaults(run=_verify)
    return parser


def _list(options: argparse.Namespace) -> int:
    from builder.listing import listing_rows, listing_table

    if options.json:
        print(json.dumps(listing_rows(), indent=2))
    else:
        listing_table()
    return 0


def _build(options: argparse.Namespace) -> int:
    target = TARGETS[options.gpu]
    if options.instances < 1:
        raise UsageError(f"--instances {options.instances}: expected 1 or more")
    asked = BuildOptions(
        specs=_specs(options),
        target=target,
        precisions=precisions_from_option(options.precision, target),
        repository=options.repository,
        weights=options.weights,
        seed=options.seed,
        labels=options.labels,
        instances=options.instances,
        cache_dir=options.cache_dir,
        lock_file=options.lock_file,
    )
    try:
        built = build(asked, Progress(is_quiet=options.quiet))
        _tell_built([result.as_dict() for result in built], as_json=options.json)
    except IncompleteBuild as incomplete:
        _tell_built(incomplete.results, as_json=options.json)
        raise
    return 0


def _tell_built(results: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=2))


def _specs(options: argparse.Namespace) -> tuple[ModelSpec, ...]:
    names = options.model or list(MODELS)
    specs = tuple(dict.fromkeys(spec_from_name(name) for name in names))
    for option, value in (("--input-size", options.input_size), ("--labels", options.labels)):
        if value is not None and options.model is None:
            raise UsageError(f"{option} goes with --model: it is not meant for all eight")
    if options.weights not in ("pretrained", "seeded") and len(specs) != 1:
        raise UsageError("--weights FILE goes with exactly one --model: a weight file belongs to one architecture")
    if options.input_size is None:
        return specs
    return tuple(spec.at_input_size(options.input_size) for spec in specs)


def _verify(options: argparse.Namespace) -> int:
    from builder.verify import verify

    report = verify(options.repository)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, problems in report.items():
            print(f"{name:<28}{'ok' if not problems else f'{len(problems)} problem(s)'}")
            for problem in problems:
                print(f"  {problem}")
    return 4 if any(report.values()) else 0
