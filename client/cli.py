"""`python -m client classify | models | health`: argument parsing and printing, no logic."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from client.client import InceptionClient
from client.errors import DeadlineExceeded, InceptionError, InferenceFailed, InvalidImage, Overloaded, ServerUnavailable
from client.results import Classification
from client.settings import SERVING_FILE, TOKEN_VARIABLE, URL_VARIABLE, Settings, settings_from

_DESCRIPTION = "Classify images on a Triton server that serves PaddleClas's Inception series."
_EPILOG = f"""\
examples:
  python -m client classify cat.jpg                               where one model is served
  python -m client classify cat.jpg --model InceptionV3           fp16 where served, else fp32
  python -m client classify *.jpg --model xception65_fp32 --top-k 1
  python -m client classify cat.jpg --model GoogLeNet --json      one JSON object per image and line
  python -m client models --url grpc://gpu-host:8001
  python -m client health                                         one real inference on every model

The address is --url, else ${URL_VARIABLE}, else the one in {SERVING_FILE}, else localhost:8001. The token is
--token, else ${TOKEN_VARIABLE} (other users of the machine cannot see that), else the one in {SERVING_FILE}
for the server named there.

exit codes: 0 done, 1 the server or the network, 2 a bad image or a wrong option, 4 an answer that cannot be right.
With several images each bad one is named on stderr, the others are answered, and the highest code is returned."""

# Errors of one image; any other error would meet the next image too, so it ends the run.
_OF_ONE_IMAGE = (InvalidImage, InferenceFailed, Overloaded, DeadlineExceeded)
_BROKEN_PIPE = 1
_INTERRUPTED = 130  # as the shell counts SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an `InceptionError` becomes one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        settings = settings_from(options.url, options.token, os.environ, Path())
        with InceptionClient(settings.url, token=settings.token, timeout_s=options.timeout_s) as client:
            code: int = options.run(client, options, settings)
            sys.stdout.flush()
            return code
    except InceptionError as error:
        return _reported(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; without this Python would complain once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _classify(client: InceptionClient, options: argparse.Namespace, settings: Settings) -> int:
    worst = 0
    for position, image in enumerate(options.images):
        try:
            result = client.classify(image, options.model, options.precision, options.top_k)
        except _OF_ONE_IMAGE as error:
            worst = max(worst, _reported(error))
        except InceptionError as error:
            worst = max(worst, _reported(error, settings))
            untried = len(options.images) - position - 1
            if untried:
                print(f"images not tried: {untried}", file=sys.stderr)
            return worst
        else:
            _print_classification(image, result, as_json=options.json)
    return worst


def _print_classification(image: str, result: Classification, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": image} | result.to_dict(), ensure_ascii=False))
        return
    emulated = f", emulated: {result.emulated}" if result.emulated else ""
    print(f"{image}  {result.served_name}, release {result.release}{emulated}, {result.total_ms:.1f} ms")
    for prediction in result.predictions:
        print(f"  {prediction}")


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
    common.add_argument("--url", metavar="HOST:PORT", help="gRPC address of the server, also grpc://HOST:PORT")
    common.add_argument("--token", help=f"opens what the server restricts; better in ${TOKEN_VARIABLE}")
    common.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="end each call after S seconds (30)")
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    classify = commands.add_parser(
        "classify", parents=[common], help="say what is in each image", epilog=_EPILOG, formatter_class=verbatim
    )
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a JPEG, PNG or WEBP file")
    classify.add_argument("--model", metavar="NAME", help="InceptionV3, inception_v3 or inception_v3_fp16")
    classify.add_argument("--precision", choices=("fp16", "fp32"), help="default: fp16 where served, else fp32")
    classify.add_argument("--top-k", type=int, default=5, metavar="K", help="how many classes to print (5)")
    classify.set_defaults(run=_classify)

    models = commands.add_parser("models", parents=[common], help="list what is served")
    models.set_defaults(run=_models)
    health = commands.add_parser("health", parents=[common], help="try one real inference on every model")
    health.set_defaults(run=_health)
    return parser
