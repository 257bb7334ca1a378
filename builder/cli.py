"""`python -m builder`: argument parsing and printing, no logic."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.build_command import add_build
from builder.errors import BuilderError
from builder.targets import TARGETS

_EXIT_CODES = """exit codes:
  0  done
  1  our fault or the environment's
  2  usage
  3  incomplete: a step needs another machine, everything else is done and kept
  4  a check failed: parity, accuracy or integrity"""

_LIST_EXAMPLES = """examples:
  python -m builder list
  python -m builder list --json"""

_PUBLISH_EXAMPLES = """examples:
  python -m builder publish copied/inception_v3_fp16 copied/inception_v3_fp32
  python -m builder publish /mnt/v100/model_repository/*         the V100's plans join those of the T4"""

_DOCTOR_EXAMPLES = """examples:
  python -m builder doctor
  python -m builder doctor --json"""

_VERIFY_EXAMPLES = """examples:
  python -m builder verify                                       the repository that `build` writes
  python -m builder verify --gpu t4                              also that every model has its plan for a T4
  python -m builder verify /srv/models --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on standard error, never a stack trace."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except BuilderError as error:
        print(f"builder: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "builder":
            raise
        print(
            f"builder: this needs {error.name}, which is not installed here: `make install` installs all that a build "
            "needs. doctor, list --json, verify, publish and --explain need nothing",
            file=sys.stderr,
        )
        return BuilderError.exit_code
    except BrokenPipeError:  # `| head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BuilderError.exit_code
    except OSError as error:
        print(
            f"builder: the system refused: {error}. See to permissions and free space, then run this again to go on",
            file=sys.stderr,
        )
        return BuilderError.exit_code
    except KeyboardInterrupt:
        print(
            "builder: interrupted; each model of the repository is either as it was or whole and new, run the same "
            "command to go on",
            file=sys.stderr,
        )
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

    add_build(commands, _EXIT_CODES)

    publish = commands.add_parser(
        "publish",
        help="install folders that were built elsewhere; plans for other GPUs join what is served",
        epilog=f"{_PUBLISH_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    publish.add_argument("folder", type=Path, nargs="+", help="a model folder")
    publish.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: %(default)s"
    )
    publish.add_argument("--json", action="store_true", help="for machines")
    publish.set_defaults(run=_publish)

    doctor = commands.add_parser(
        "doctor",
        help="GPUs, driver and TensorRT here, what each target needs, and the one command to run",
        epilog=f"{_DOCTOR_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: %(default)s"
    )
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(run=_doctor)

    verify = commands.add_parser(
        "verify",
        help="hash a repository again and name every file that is not as published",
        epilog=f"{_VERIFY_EXAMPLES}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument(
        "repository", type=Path, nargs="?", default=Path("model_repository"), help="default: %(default)s"
    )
    verify.add_argument("--gpu", choices=sorted(TARGETS), help="also name the models that this machine could not serve")
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


def _publish(options: argparse.Namespace) -> int:
    from builder.install import install, model_folders
    from builder.publish import Repository

    folders, skipped = model_folders(options.folder)
    for path in skipped:
        print(f"builder: {path} is skipped: it is no model", file=sys.stderr)
    repository = Repository(options.repository)
    installed = []
    try:
        with repository.locked():
            for folder in folders:
                installed.append(install(repository, folder, {}))
    finally:  # those before a refused one are published
        if options.json:
            print(json.dumps([result.as_dict() for result in installed], indent=2))
        else:
            for result in installed:
                print(f"{result.served_name:<28}version {result.version}, release {result.release}")
                for caution in result.cautions:
                    print(f"  {caution}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from builder.doctor import diagnosis, print_diagnosis

    seen = diagnosis(options.repository)
    if options.json:
        print(json.dumps(seen, indent=2))
    else:
        print_diagnosis(seen)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from builder.verify import verify

    report = verify(options.repository, TARGETS[options.gpu] if options.gpu else None)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, problems in report.items():
            print(f"{name:<28}{'ok' if not problems else f'{len(problems)} problem(s)'}")
            for problem in problems:
                print(f"  {problem}")
    return 4 if any(report.values()) else 0
