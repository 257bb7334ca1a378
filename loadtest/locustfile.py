"""Users who classify photographs through `InceptionClient`, for locust.

    locust -f loadtest/locustfile.py --host grpc://127.0.0.1:8001 --headless -u 4 -r 4 -t 30s
    locust -f loadtest/locustfile.py --host grpc://127.0.0.1:8001 --model inception_v3=3 --model googlenet=1
    locust -f loadtest/locustfile.py --host grpc://127.0.0.1:8001 --processes 2

A closed loop: each user has its own client and connection and sends its next photograph when the last is answered, so
the rate falls when the server slows down. A response time is the whole `classify` call, from the JPEG's bytes to
labels, decoding and resizing included; a user's first call to a model also reads its contract.

Beside locust's options (its --help knows no others): --model NAME[=WEIGHT], --photographs DIR, --seed TEXT,
--timeout-s S, --token TOKEN, see `add_options`.

Without --host the address is that of `python -m client`: $INCEPTION_URL, run/serving.json, localhost:8001. A worker on
another machine is told the address by its master and takes the token from its own $INCEPTION_TOKEN.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
import psutil
from grpc.experimental.gevent import init_gevent
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

from client import DeadlineExceeded, InceptionClient, InceptionError, InferenceFailed, Overloaded, ServerUnavailable
from client.retries import NO_RETRIES
from client.settings import Settings, settings_from
from loadtest.errors import LoadtestError, MeasurementFailed, UsageError
from loadtest.workload import (
    EXAMPLE_PHOTOGRAPHS,
    FirstAnswers,
    Photograph,
    WeightedModel,
    photographs_in,
    requests,
    wanted_model,
    weighted_models,
)

REQUEST_TYPES = {"http": "HTTP", "https": "HTTP"}  # by scheme; everything else is gRPC
LISTING = "(list of models)"
CHECK_TIMEOUT_S = 5.0
WORKER_GRACE_S = 3.0
PAUSE_AFTER_LASTING_ERROR_S = 1.0
THREADS_BESIDE_USERS = 10  # gevent's own pool size: name look-ups, and the thread in which gRPC waits for callbacks
_HOOKS: Any = events  # without types in locust
_LOGGER = logging.getLogger("locust.inception")
_CURED_BY_WAITING = (ServerUnavailable, DeadlineExceeded, Overloaded)
# The next request may fare better; after any other error it would meet the same one, at once.
_OF_ONE_REQUEST = (MeasurementFailed, InferenceFailed, DeadlineExceeded, Overloaded)


def add_options(parser: Any, **_: Any) -> None:
    """Our options, beside locust's. They are not on the web page: that would show the token to whoever opens it."""
    options: dict[str, dict[str, Any]] = {
        "--model": {
            "action": "append",
            "type": _checked_model,
            "metavar": "NAME[=WEIGHT]",
            "help": "ask for this model, so often relative to the others; repeatable (default: all served, equally)",
        },
        "--photographs": {"default": str(EXAMPLE_PHOTOGRAPHS), "metavar": "DIR", "help": "JPEGs (default: examples)"},
        "--seed": {"default": "0", "metavar": "TEXT", "help": "of the order of models and photographs (default: 0)"},
        "--token": {"help": "opens what the server restricts; better in $INCEPTION_TOKEN, which others cannot see"},
        "--timeout-s": {"type": float, "default": 30.0, "metavar": "S", "help": "end each call after S seconds (30)"},
    }
    for name, described in options.items():
        parser.add_argument(name, include_in_web_ui=False, **described)


def _checked_model(text: str) -> str:
    """The text itself: locust sends the options to its workers and cannot send objects of ours."""
    try:
        wanted_model(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


class Session:
    """What the users of one process share during one test: address, models, photographs and first answers."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._models: tuple[WeightedModel, ...] = ()
        self._photographs: tuple[Photograph, ...] = ()
        self._user_numbers = itertools.count()
        self.first_answers = FirstAnswers()

    def settings(self) -> Settings:
        """Address and token; `InvalidRequest` where the address is none."""
        host, token = self._environment.host, self._options().token
        return settings_from(host or None, token, os.environ, Path())

    def client(self, timeout_s: float | None = None) -> InceptionClient:
        """A new client, with its own connection. It tries nothing again: every failure is one in the figures."""
        settings, options = self.settings(), self._options()
        return InceptionClient(
            settings.url, token=settings.token, timeout_s=timeout_s or options.timeout_s, retries=NO_RETRIES
        )

    def photographs(self) -> tuple[Photograph, ...]:
        """The photographs to send, read once; `UsageError` as `photographs_in`."""
        with self._lock:
            self._photographs = self._photographs or photographs_in(Path(self._options().photographs))
            return self._photographs

    def models(self, client: InceptionClient) -> tuple[WeightedModel, ...]:
        """The models to ask for, read once: one user asks the server, the others wait for its answer."""
        with self._lock:
            if not self._models:
                self._models = self.chosen(client)
                for each in self._models:
                    _LOGGER.info(each.described())
            return self._models

    def chosen(self, client: InceptionClient) -> tuple[WeightedModel, ...]:
        """The models to ask for, as the server has them now; raises `UsageError` as `weighted_models`."""
        return weighted_models(client.models(), [wanted_model(text) for text in self._options().model or ()])

    def requests(self, client: InceptionClient) -> Iterator[tuple[WeightedModel, Photograph]]:
        """The requests of one more user, in an order of its own that the seed, the worker and its number give."""
        worker = getattr(self._environment.runner, "worker_index", 0)
        seed = f"{self._options().seed}/{worker}/{next(self._user_numbers)}"
        return requests(self.models(client), self.photographs(), seed)

    def _options(self) -> Any:
        return self._environment.parsed_options


class InceptionUser(User):
    """Classifies one photograph after the other, without a pause."""

    session: ClassVar[Session]

    def on_start(self) -> None:
        """Make room for one more user who waits for an answer."""
        self._client: InceptionClient | None = None
        self._requests: Iterator[tuple[WeightedModel, Photograph]] | None = None
        if self.environment.runner is not None:
            _allow_calls(self.environment.runner.user_count)

    def on_stop(self) -> None:
        """Close the connection, which ends a call under way."""
        if self._client is not None:
            self._client.close()

    @task
    def classify(self) -> None:
        """Send the next photograph, or find out first what there is to ask."""
        started_s = time.perf_counter()
        try:
            if self._client is None:
                self._client = self.session.client()
            if self._requests is None:
                self._requests = self.session.requests(self._client)
        except (InceptionError, LoadtestError) as error:
            self._report(LISTING, (time.perf_counter() - started_s) * 1e3, 0, error)
            return
        model, photograph = next(self._requests)
        self._send(self._client, model, photograph)

    def _send(self, client: InceptionClient, model: WeightedModel, photograph: Photograph) -> None:
        name = model.contract.served_name
        started_s = time.perf_counter()
        try:
            answer = client.classify(photograph.jpeg, name, top_k=1)
        except InceptionError as error:
            self._report(name, (time.perf_counter() - started_s) * 1e3, 0, error)
            return
        response_time_ms = (time.perf_counter() - started_s) * 1e3
        try:
            self.session.first_answers.check(photograph, answer)
        except MeasurementFailed as error:
            self._report(name, response_time_ms, model.reply_bytes, error)
        else:
            self._report(name, response_time_ms, model.reply_bytes, None)

    def _report(self, name: str, response_time_ms: float, response_bytes: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type=REQUEST_TYPES.get(str(self.environment.host).partition("://")[0], "gRPC"),
            name=name,
            response_time=response_time_ms,
            response_length=response_bytes,
            exception=error,
            context={},
        )
        if error is not None and not isinstance(error, _OF_ONE_REQUEST):
            gevent.sleep(PAUSE_AFTER_LASTING_ERROR_S)


def begin(environment: Environment, **_: Any) -> None:
    """A new test may have another address, and its first answers are its own."""
    InceptionUser.session = Session(environment)


def prepare(environment: Environment, runner: Runner, **_: Any) -> None:
    """Refuse what cannot work before any user starts; a server that is not there yet is waited for by the users."""
    if isinstance(runner, MasterRunner):
        _HOOKS.quit.add_listener(_wait_for_workers)
    else:
        # Plain gRPC waits in native code, where no other user runs: 4 users of a model that takes 50 ms and batches
        # got 18 answers/s, and a run of 5 s ended after 8; with this, 39 answers/s and 5 s. Before the first channel,
        # and after --processes has forked. The master makes no calls but the check below.
        init_gevent()
        _HOOKS.quit.add_listener(_leave_at_exit)
    if isinstance(runner, WorkerRunner):
        return
    try:
        _check(Session(environment), environment)
    except (InceptionError, LoadtestError) as error:
        sys.stderr.write(f"locust: {error}\n")
        if isinstance(runner, MasterRunner):
            _end_workers()
        else:
            _leave_at_exit(error.exit_code)
        sys.exit(error.exit_code)


def _check(session: Session, environment: Environment) -> None:
    session.photographs()
    url = session.settings().url
    environment.host = url if "://" in url else f"grpc://{url}"  # workers and the web page are told it
    try:
        with session.client(CHECK_TIMEOUT_S) as client:
            session.chosen(client)
    except _CURED_BY_WAITING as error:
        _LOGGER.warning("%s; the users go on asking", error)


def refuse_silence(environment: Environment, **_: Any) -> None:
    """A headless run in which no request ended measured nothing, and does not exit with 0: the server hung."""
    runner, options = environment.runner, environment.parsed_options
    if runner is None or options is None or not options.headless or isinstance(runner, WorkerRunner):
        return
    if runner.stats.total.num_requests == 0 and environment.process_exit_code is None:
        _LOGGER.error("no request was answered, and none failed: the run was shorter than one call, or never began")
        environment.process_exit_code = 1


def _allow_calls(count: int) -> None:
    """Let `count` answers be waited for at once.

    Under gevent each wait holds a native thread and gevent allows 10: later users would not notice their answers.
    """
    pool = gevent.get_hub().threadpool
    pool.maxsize = max(pool.maxsize, count + THREADS_BESIDE_USERS)


def _leave_at_exit(exit_code: int, **_: Any) -> None:
    """End this process, whatever gRPC's native threads do.

    After `init_gevent` one channel left open keeps a thread waiting for ever and the process with it, deaf to SIGTERM
    (seen with tritonclient; users close theirs, and runs then ended by themselves too). The handler registered last
    runs first, and after locust has closed its files.
    """
    atexit.register(_leave, exit_code)


def _leave(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(exit_code)


def _wait_for_workers(**_: Any) -> None:
    """Let the workers of --processes end first: locust 2.47 looks at each once and forgets those that still run."""
    if not _have_ended(WORKER_GRACE_S):
        _end_workers()


def _end_workers() -> None:
    """End them by signal; without a master they would look for one for minutes."""
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for worker in _running_workers():
            send(worker)
        if _have_ended(WORKER_GRACE_S):
            return


def _have_ended(timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while _running_workers():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _running_workers() -> list[psutil.Process]:
    # Ended ones stay to be collected by locust, which complains for seconds about those it cannot find.
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


_HOOKS.init_command_line_parser.add_listener(add_options)
_HOOKS.test_start.add_listener(begin)
_HOOKS.init.add_listener(prepare)
_HOOKS.quitting.add_listener(refuse_silence)
