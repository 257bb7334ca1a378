"""`python -m client classify | models | health | statistics`: argument parsing and printing, no logic."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from client.classify_command import INTERRUPTED, classify
from client.client import InceptionClient
from client.errors import InceptionError, ServerUnavailable
from client.report import MAX_NAMED_ERRORS
from client.settings import SERVING_FILE, TOKEN_VARIABLE, URL_VARIABLE, Settings, settings_from

_DESCRIPTION = "Classify images on a Triton server that serves PaddleClas's Inception series."
_EPILOG = f"""\
examples:
  python -m client classify cat.jpg                               where one model is served
  python -m client classify cat.jpg --model InceptionV3           fp16 where served, else fp32
  python -m client classify *.jpg --model xception65_fp32 --top-k 1
  python -m client classify cat.jpg --format jsonl | jq .predictions
  python -m client classify photos/ --recursive --format csv --output answers.csv --resume
  find photos -name '*.jpg' -print0 | python -m client classify - --null --output answers.parquet
  python -m client models --url grpc://gpu-host:8001              or http://gpu-host:8000
  python -m client health                                         one real inference on every model
  python -m client statistics                                     where the server's time went

The address is --url, else ${URL_VARIABLE}, else the one in {SERVING_FILE}, else localhost:8001. The token is
--token, else ${TOKEN_VARIABLE} (other users of the machine cannot see that), else the one in {SERVING_FILE}
for the server named there.

exit codes: 0 done, 1 the server or the network, 2 a bad image or a wrong option, 4 an answer that cannot be right,
130 Ctrl-C. With several images each bad one is named on stderr (the first {MAX_NAMED_ERRORS}), the others are
answered, and the highest code is returned; what ends a run early decides its code alone."""

_CLASSIFY_EPILOG = """\
A named file is always tried. Of a directory those files are whose names end as an image's does, or that have no ending
and begin as an image does; hidden ones are left out. "-" reads paths from standard input.

With --output, each row is in FILE as soon as it is known, in the images' order. A run may be killed at any moment: the
same command with --resume goes on where it stopped, and loses and repeats no row. It keeps the rows of bad images, and
tries again what failed for the server's reasons or could not be read. An image is known by its path as given: name the
images in the same way again. FILE.state.json says which model, release and options the rows are of; a run with others
is refused. Parquet is made at the end of a run, of the rows in FILE.rows; in its texts a byte of a path that is not
UTF-8 is \\xNN, and a backslash of such a path is doubled.

columns of csv and parquet: image, label_1, index_1, score_1, ... label_K, index_K, score_K, model, precision, release,
emulated, error. A row of jsonl is {"image": path} with every field of the answer, or with "error".

"""

_NOT_WRITTEN = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an `InceptionError` becomes one line on stderr."""
    _open_missing_streams()
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except BrokenPipeError:  # whoever read our output has gone
        _discard_output()
        return _NOT_WRITTEN
    except OSError as error:
        if error.filename is not None:  # not of standard output
            raise
        _discard_output()
        with suppress(OSError):
            print(f"standard output cannot be written: {error.strerror or error}", file=sys.stderr)
        return _NOT_WRITTEN


def _open_missing_streams() -> None:
    """A stream that was closed before Python started is None, which `print` takes for the other one."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _discard_output() -> None:
    """What is still to be written goes nowhere; without this Python would complain once more as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> int:
    try:
        settings = settings_from(options.url, options.token, os.environ, Path())
        with InceptionClient(settings.url, token=settings.token, timeout_s=options.timeout_s) as client:
            code: int = options.run(client, options, settings)
            sys.stdout.flush()
            return code
    except InceptionError as error:
        return _reported(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _models(client: InceptionClient, options: argparse.Namespace, settings: Settings) -> int:
    try:
        contracts = client.models()
    except InceptionError as error:
        return _reported(error, settings)
    if options.json:
        print(json.dumps([contract.to_dict() for contract in contracts]))
        return 0
    if not contracts:
        print(f"no model of this project is served at {settings.url}", file=sys.stderr)
    for contract in contracts:
        size = contract.preprocessing.crop
        emulated = f"  emulated: {contract.emulated}" if contract.emulated else ""
        print(
            f"{contract.served_name:<24} {contract.architecture:<20} {contract.precision}  {size}x{size}  "
            f"{len(contract.labels)} classes  release {contract.release}  version {contract.version}{emulated}"
        )
    return 0


def _health(client: InceptionClient, options: argparse.Namespace, settings: Settings) -> int:
    try:
        health = client.health()
    except InceptionError as error:
        return _reported(error, settings)
    if options.json:
        print(json.dumps([each.to_dict() for each in health]))
    for each in health:
        if each.error is not None:
            print(f"{each.served_name:<24} failed: {each.error}", file=sys.stderr)
        elif not options.json:
            print(f"{each.served_name:<24} answered in {each.latency_ms:.1f} ms")
    if not health:
        print(f"no model of this project is served at {settings.url}: that is not healthy", file=sys.stderr)
        return 1
    return max((each.error.exit_code for each in health if each.error is not None), default=0)


def _statistics(client: InceptionClient, options: argparse.Namespace, settings: Settings) -> int:
    try:
        models = client.server_statistics()
    except InceptionError as error:
        return _reported(error, settings)
    if options.json:
        print(json.dumps([model.to_dict() for model in models]))
        return 0
    print(
        f"{'model':<24} {'images':>10} {'a batch':>8} {'failed':>8} {'whole ms':>10} {'queue ms':>10} {'infer ms':>10}"
    )
    for model in models:
        means = (model.success.mean_ms, model.queue.mean_ms, model.compute_infer.mean_ms)
        print(
            f"{model.served_name:<24} {model.images:>10} {model.mean_batch_size:>8.2f} {model.failure.count:>8} "
            + " ".join(f"{mean_ms:>10.2f}" for mean_ms in means)
        )
    return 0


def _reported(error: InceptionError, settings: Settings | None = None) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if settings is not None and isinstance(error, ServerUnavailable):
        print(f"the address {settings.url} came from {settings.url_origin}", file=sys.stderr)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m client", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=verbatim
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", metavar="HOST:PORT", help="address of the server: gRPC, or http://HOST:PORT")
    common.add_argument("--token", help=f"opens what the server restricts; better in ${TOKEN_VARIABLE}")
    common.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="end each call after S seconds (30)")
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_classify(commands, common)
    models = commands.add_parser("models", parents=[common], help="list what is served")
    models.set_defaults(run=_models)
    health = commands.add_parser("health", parents=[common], help="try one real inference on every model")
    health.set_defaults(run=_health)
    statistics = commands.add_parser(
        "statistics", parents=[common], help="what each model has done, and how long it took"
    )
    statistics.set_defaults(run=_statistics)
    return parser


def _add_classify(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "classify",
        parents=[common],
        help="say what is in each image",
        epilog=_CLASSIFY_EPILOG + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "paths", nargs="+", metavar="PATH", help='a JPEG, PNG or WEBP file, a directory, or "-" for paths from stdin'
    )
    command.add_argument("--recursive", action="store_true", help="look into the directories within directories")
    command.add_argument("-0", "--null", action="store_true", help="paths from stdin end with NUL, not with a new line")
    command.add_argument("--model", metavar="NAME", help="InceptionV3, inception_v3 or inception_v3_fp16")
    command.add_argument("--precision", choices=("fp16", "fp32"), help="default: fp16 where served, else fp32")
    command.add_argument("--top-k", type=int, default=5, metavar="K", help="how many classes of each image (5)")
    command.add_argument(
        "--format",
        choices=("table", "jsonl", "csv", "parquet"),
        help="default: as FILE's name ends, else table; --json means jsonl",
    )
    command.add_argument("--output", metavar="FILE", help="write rows there, one for each image, instead of printing")
    command.add_argument("--resume", action="store_true", help="go on with FILE where a run before stopped")
    command.add_argument("--batch-size", type=int, metavar="N", help="images in one request (what the model takes)")
    command.add_argument(
        "--window", type=int, metavar="N", help="images under way at most (a batch for each core, and two more)"
    )
    command.set_defaults(run=classify)
