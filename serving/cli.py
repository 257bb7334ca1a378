"""The command line: argument parsing and printing, no logic."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from serving import probe as probing
from serving.access import TOKEN_VARIABLE, read_access
from serving.down import stop_server
from serving.errors import ServingError, Unhealthy, UsageError
from serving.ports import FREE_PORTS, Ports
from serving.process import ServeOptions, Server
from serving.supervise import WatchPolicy, supervise

_EPILOG = """\
examples:
  python -m serving up                                  everything in model_repository/, ports 8000 8001 8002
  python -m serving up --model inception_v3_fp32 --ports auto
  python -m serving health                              one real inference per model
  python -m serving down

exit codes: 0 done, 1 our fault or the environment's, 2 usage, 3 a step needs another machine, 4 a check failed.
"""
_UP_EPILOG = """\
The server listens on this machine only, unless --host says otherwise. Health, metadata, configuration and inference
are open; everything that changes or reveals more is behind a token, which is in RUN_DIR/serving.json (mode 0600) with
the addresses, for the clients on this machine. A token of your own comes from --token or, better, from the variable
INCEPTION_TOKEN.

The tritonserver of the nvidia-pytriton wheel is old (24.10) and has known CVEs, see SECURITY.md: with it, a --host that
other machines can reach implies --restrict-inference and a warning is printed. Do not expose it.

`up` stays in the foreground. Ctrl-C or SIGTERM stops the server; requests in flight are answered first. While it
runs, every model is asked for one inference every --watch-s seconds, and the server is restarted when one is dead.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except ServingError as error:
        print(f"serving: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("serving: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve a model repository with a tritonserver: the one on PATH, or the nvidia-pytriton wheel's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run_dir = argparse.ArgumentParser(add_help=False)
    run_dir.add_argument("--run-dir", type=Path, default=Path("run"), help="serving.json and the log (default: run)")
    _add_up(commands, run_dir)
    _add_health(commands, run_dir)
    down = commands.add_parser("down", parents=[run_dir], help="stop the server of a run directory")
    down.set_defaults(command=_down)
    return parser


def _add_up(commands: argparse._SubParsersAction[argparse.ArgumentParser], run_dir: argparse.ArgumentParser) -> None:
    up = commands.add_parser(
        "up",
        parents=[run_dir],
        help="start a server, wait until every model has answered, keep it serving",
        epilog=_UP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    up.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: model_repository")
    up.add_argument("--model", action="append", metavar="NAME", help="load only this one; may be repeated")
    up.add_argument("--device", choices=["cpu", "gpu"], help="default: gpu if there is one that the server can use")
    up.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only; see below)"
    )
    up.add_argument("--http-port", type=int, metavar="PORT", help="default: 8000; 0: a free one")
    up.add_argument("--grpc-port", type=int, metavar="PORT", help="default: 8001; 0: a free one")
    up.add_argument("--metrics-port", type=int, metavar="PORT", help="default: 8002; 0: a free one")
    up.add_argument("--ports", choices=["auto"], help="three free ports")
    up.add_argument("--token", help=f"default: the variable {TOKEN_VARIABLE}, else a random one")
    up.add_argument("--restrict-inference", action="store_true", help="put inference behind the token too")
    up.add_argument("--log", type=Path, metavar="FILE", help="the server's log (default: RUN_DIR/tritonserver.log)")
    up.add_argument("--ready-timeout-s", type=float, default=120.0, metavar="S", help="default: 120")
    up.add_argument("--exit-timeout-s", type=int, default=10, metavar="S", help="for requests in flight (default: 10)")
    up.add_argument(
        "--watch-s", type=float, default=15.0, metavar="S", help="0: do not ask, for measurements (default: 15)"
    )
    up.add_argument("--max-restarts", type=int, default=3, metavar="N", help="within ten minutes (default: 3)")
    up.add_argument("--json", action="store_true", help="print the ready message as one JSON line")
    up.set_defaults(command=_up)


def _add_health(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], run_dir: argparse.ArgumentParser
) -> None:
    health = commands.add_parser("health", parents=[run_dir], help="one real inference per model of a running server")
    health.add_argument("--url", help="the server's HTTP address (default: that of RUN_DIR/serving.json)")
    health.add_argument("--model", action="append", metavar="NAME", help="ask only this one; may be repeated")
    health.add_argument("--token", help=f"default: the variable {TOKEN_VARIABLE}, else that of RUN_DIR/serving.json")
    health.add_argument("--timeout-s", type=float, default=5.0, metavar="S", help="for each answer (default: 5)")
    health.add_argument("--json", action="store_true", help="print one JSON line")
    health.set_defaults(command=_health)


def _up(options: argparse.Namespace) -> int:
    with _signals_as_interrupt():
        server = Server(_serve_options(options))
        try:
            server.start()
            _print_ready(server, as_json=options.json)
            supervise(server, WatchPolicy(options.watch_s, options.max_restarts), _tell)
            _tell("stopped on request")
        except KeyboardInterrupt:
            _tell("stopping")
        finally:
            server.stop()
    return 0


def _health(options: argparse.Namespace) -> int:
    access = None if options.url else read_access(options.run_dir)
    url = options.url or (access.http_url if access else probing.DEFAULT_URL)
    token = options.token or os.environ.get(TOKEN_VARIABLE) or (access.token if access else None)
    answers: dict[str, dict[str, object]] = {}
    try:
        probe = probing.Probe(url, token, options.timeout_s)
        models = options.model or probe.served_models()
    except probing.ProbeFailed as error:
        raise Unhealthy(f"{error}") from error
    if not models:
        raise Unhealthy(f"The server at {url} serves no model.")
    for model in models:
        try:
            elapsed_s = probing.infer_until(probe, model, time.monotonic() + options.timeout_s)
            answers[model] = {"is_well": True, "inference_ms": round(1000 * elapsed_s, 3)}
        except probing.ProbeFailed as error:
            answers[model] = {"is_well": False, "reason": str(error)}
    failed = [model for model, answer in answers.items() if not answer["is_well"]]
    if options.json:
        print(json.dumps({"url": url, "is_well": not failed, "models": answers}))
    else:
        for model, answer in answers.items():
            print(f"  {model:<28} " + (f"{answer['inference_ms']} ms" if answer["is_well"] else f"{answer['reason']}"))
    if failed:
        raise Unhealthy(f"{len(failed)} of {len(answers)} models do not answer: {', '.join(failed)}.")
    return 0


def _down(options: argparse.Namespace) -> int:
    pid = stop_server(options.run_dir)
    print(f"stopped tritonserver {pid}")
    return 0


def _serve_options(options: argparse.Namespace) -> ServeOptions:
    given = {name: getattr(options, f"{name}_port") for name in ("http", "grpc", "metrics")}
    given = {name: port for name, port in given.items() if port is not None}
    if options.ports and given:
        raise UsageError("--ports auto chooses all three ports: leave out --http-port, --grpc-port and --metrics-port.")
    return ServeOptions(
        repository=options.repository,
        models=options.model,
        host=options.host,
        ports=FREE_PORTS if options.ports else Ports(**given),
        device=options.device,
        token=options.token,
        is_inference_restricted=options.restrict_inference,
        run_dir=options.run_dir,
        log_path=options.log,
        ready_timeout_s=options.ready_timeout_s,
        exit_timeout_s=options.exit_timeout_s,
    )


def _print_ready(server: Server, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "grpc_url": server.grpc_url,
            "http_url": server.http_url,
            "metrics_url": server.metrics_url,
            "pid": server.pid,
            "device": server.device,
            "ready_s": round(server.ready_s, 3),
            "first_inference_s": {model: round(seconds, 4) for model, seconds in server.first_inference_s.items()},
            "access_file": str(server.access_path),
            "log": str(server.log_path),
        }
        print(json.dumps(facts), flush=True)
        return
    for model, seconds in server.first_inference_s.items():
        print(f"  {model:<28} ready, first inference {1000 * seconds:.0f} ms")
    print(
        f"{len(server.models)} models on the {server.device} after {server.ready_s:.1f} s (tritonserver {server.pid})"
    )
    print(f"  gRPC     {server.grpc_url}\n  HTTP     {server.http_url}\n  metrics  {server.metrics_url}")
    print(f"  access   {server.access_path} (token)\n  log      {server.log_path}\nCtrl-C stops it.", flush=True)


def _tell(message: str) -> None:
    print(f"serving: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end `up` the way Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGINT too: shells ignore it for background jobs
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
