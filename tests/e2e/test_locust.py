"""`locust -f loadtest/locustfile.py` as a user types it, against the real tritonserver and models without a network."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serving import Server, serve

LOCUSTFILE = Path(__file__).parent.parent.parent / "loadtest" / "locustfile.py"
END_WITHIN_S = 60.0  # of a run of seconds: whatever takes longer hangs
SIDE = 32
LABELS = [f"class {index}" for index in range(10)]
TOGETHER = 16  # above the 10 native threads that gevent has by itself
GATHERING_S = 4
# One class is certain: the mean pixel's last digit, or, for `fickle`, the number of the request.
MODEL = """\
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.is_fickle, self.count = args["model_name"].startswith("xception41"), 0

    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.answer(request)]) for request in requests]

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        self.count += 1
        scores = numpy.zeros((len(images), 10), numpy.float32)
        for row, image in zip(scores, images):
            row[(self.count if self.is_fickle else int(image.mean())) % 10] = 1
        return pb_utils.Tensor("probabilities", scores)
"""


def write_model(repository: Path, name: str, architecture: str, more: str = "") -> None:
    rule = json.dumps({
        "rule": "paddleclas-imagenet-eval-v1", "decode": "exif-transposed, 8-bit RGB", "channel_order": "RGB",
        "interpolation": "opencv-bilinear", "layout": "HWC", "resize_short": SIDE, "crop": SIDE,
    })  # fmt: skip
    labels = json.dumps(LABELS)
    parameters = {
        "architecture": architecture, "precision": "fp32", "release": "0123456789abcdef", "classes": str(len(LABELS)),
        "preprocess": rule, "preprocess_sha256": hashlib.sha256(rule.encode()).hexdigest(),
        "labels": labels, "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
    }  # fmt: skip
    lines = [
        f'name: "{name}" max_batch_size: {TOGETHER}',
        f'input [{{ name: "image" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}, 3] }}]',
        f'output [{{ name: "probabilities" data_type: TYPE_FP32 dims: [{len(LABELS)}] }}]',
        *(
            f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
            for key, value in parameters.items()
        ),
        more,
    ]
    for path, backend, kind in (("config.pbtxt", "tensorrt", "KIND_GPU"), ("configs/cpu.pbtxt", "python", "KIND_CPU")):
        file = repository / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*lines, f'backend: "{backend}" instance_group [{{ kind: {kind} count: 1 }}]\n']))
    (repository / name / "1").mkdir()
    (repository / name / "1" / "model.py").write_text(MODEL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves two well-behaved models; `run/serving.json` lies below `server_directory`."""
    directory = tmp_path_factory.mktemp("served")
    write_model(directory / "repository", "googlenet_fp32", "GoogLeNet")
    write_model(directory / "repository", "inception_v3_fp32", "InceptionV3")
    with serve(directory / "repository", ports="auto", run_dir=directory / "run", exit_timeout_s=5) as running:
        yield running


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves a model that changes its mind, and one that answers when 16 requests are there or 4 s have passed."""
    directory = tmp_path_factory.mktemp("odd")
    write_model(directory / "repository", "googlenet_fp32", "GoogLeNet")
    write_model(directory / "repository", "xception41_fp32", "Xception41")
    gathering = (
        f"dynamic_batching {{ preferred_batch_size: [{TOGETHER}] max_queue_delay_microseconds: {GATHERING_S}000000 }}"
    )
    write_model(directory / "repository", "xception65_fp32", "Xception65", gathering)
    with serve(directory / "repository", ports="auto", run_dir=directory / "run", exit_timeout_s=5) as running:
        yield running


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where no server listens, and none can come to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@dataclass(frozen=True)
class Run:
    """How a run of locust ended; `rows` are its statistics by served name, "Aggregated" among them."""

    code: int
    output: str
    errors: str
    rows: dict[str, dict[str, str]]
    failures: str

    def count(self, column: str, name: str = "Aggregated") -> int:
        return int(self.rows[name][column])


def started(arguments: tuple[str, ...], directory: Path, token: str | None) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LOCUST_", "INCEPTION_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments],
        cwd=directory,
        env=environment | ({} if token is None else {"INCEPTION_TOKEN": token}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], within_s: float = END_WITHIN_S) -> tuple[str, str]:
    """What it wrote. It and its workers hold the two pipes: they are read to their end when all have gone."""
    began_s = time.monotonic()
    try:
        output, errors = process.communicate(timeout=within_s)
    finally:
        left = of_session(process.pid)
        for each in left:
            each.kill()
        process.wait()
    print(f"ended with {process.returncode} after {time.monotonic() - began_s:.1f} s")  # noqa: T201 - shown where a test fails
    assert left == []
    return output, errors


def of_session(session: int) -> list[psutil.Process]:
    """Processes that have not ended, of a session that a test has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def locust(tmp_path: Path) -> Callable[..., Run]:
    """`locust(arguments, token=...)` runs it headless to its end, 4 users for 2 s unless told otherwise."""

    def run(*arguments: str, token: str | None = None, directory: Path = tmp_path, users: int = 4) -> Run:
        load = ("--headless", "--only-summary", "-u", str(users), "-r", str(users), "-t", "2s")
        prefix = tmp_path / "run"
        process = started((*load, "--csv", str(prefix), *arguments), directory, token)
        output, errors = ended(process)
        table = prefix.with_name("run_stats.csv")
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
        failures = prefix.with_name("run_failures.csv")
        return Run(
            process.returncode,
            output,
            errors,
            {row["Name"]: row for row in rows},
            failures.read_text() if failures.exists() else "",
        )

    return run


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one process", "two workers"])
def test_a_headless_run_ends_by_itself_without_a_failure(locust, server, more):
    """Every served model is asked for unless some are named; nothing is left running."""
    run = locust("--host", f"grpc://{server.grpc_url}", *more, token=server.token)
    assert run.code == 0, run.errors
    assert run.rows.keys() == {"googlenet_fp32", "inception_v3_fp32", "Aggregated"}
    for name in run.rows:
        assert run.count("Request Count", name) > 0
        assert run.count("Failure Count", name) == 0
    assert "Traceback" not in run.errors


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one process", "two workers"])
def test_a_run_over_http_ends_by_itself_without_a_failure(locust, server, more):
    """The same users, by the address's scheme; the figures say which protocol it was."""
    run = locust("--host", server.http_url, *more, token=server.token)
    assert run.code == 0, run.errors
    assert run.rows.keys() == {"googlenet_fp32", "inception_v3_fp32", "Aggregated"}
    for name in ("googlenet_fp32", "inception_v3_fp32"):
        assert run.rows[name]["Type"] == "HTTP"
        assert run.count("Request Count", name) > 0
        assert run.count("Failure Count", name) == 0
    assert "Traceback" not in run.errors


def test_times_are_not_rounded_to_milliseconds_and_the_replys_size_is_told(locust, server):
    """Rounded times of a fast model would all be 1 or 2; a reply holds a float32 a class."""
    run = locust("--host", server.grpc_url, "--model", "GoogLeNet", token=server.token)
    assert run.code == 0, run.errors
    assert run.rows.keys() == {"googlenet_fp32", "Aggregated"}
    row = run.rows["googlenet_fp32"]
    assert not float(row["Min Response Time"]).is_integer()
    assert float(row["Average Content Size"]) == 4 * len(LABELS)


def test_address_and_token_come_from_serving_json_where_none_is_given(locust, server):
    """As for `python -m client`."""
    run = locust(directory=server.log_path.parent.parent)
    assert run.code == 0, run.errors
    assert run.count("Request Count") > 0


def test_every_user_notices_its_answer_while_all_others_wait(locust, odd_server):
    """The gathering model answers when all 16 users have come to it, the last ones by way of the instant model.

    With gevent's 10 native threads, nine who wait there would keep the others' answers from being seen.
    """
    run = locust(
        "--host", odd_server.grpc_url, "--model", "xception65", "--model", "googlenet", "-t", "5s",
        "--timeout-s", str(GATHERING_S - 1), token=odd_server.token, users=TOGETHER,
    )  # fmt: skip
    assert run.code == 0, run.errors + run.failures
    assert run.count("Request Count", "xception65_fp32") >= TOGETHER
    assert run.count("Failure Count") == 0


def test_an_answer_that_contradicts_the_first_one_is_a_failure(locust, odd_server):
    """Same photograph, model and release, another class: the server mixes something up under load."""
    run = locust("--host", odd_server.grpc_url, "--model", "xception41_fp32", token=odd_server.token)
    assert run.code == 1
    assert 0 < run.count("Failure Count") <= run.count("Request Count")
    assert "xception41_fp32 release 0123456789abcdef answered cat.jpg with another class" in run.failures


def test_a_run_in_which_nothing_was_answered_is_no_success(locust, odd_server):
    """One user waits 4 s for others who never come, longer than the run."""
    run = locust("--host", odd_server.grpc_url, "--model", "xception65", "-t", "1s", token=odd_server.token, users=1)
    assert run.code == 1
    assert "no request was answered" in run.errors
    assert "Traceback" not in run.errors


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one process", "two workers"])
def test_where_no_server_answers_every_request_fails(locust, nobody, more):
    """And the run ends in time, with code 1."""
    run = locust("--host", nobody, *more)
    assert run.code == 1
    assert run.count("Failure Count") == run.count("Request Count") > 0
    assert f"no server answers at {nobody}" in run.failures
    assert "Traceback" not in run.errors


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one process", "two workers"])
@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (("--host", "ftp://127.0.0.1:8000"), "'ftp://127.0.0.1:8000' is not understood; expected host:port or grpc:"),
        (("--model", "Xception71=2"), "'Xception71' is not served; served are: googlenet_fp32, inception_v3_fp32"),
        (("--model", "googlenet=0"), "'googlenet=0' is not a model and its weight; expected NAME or NAME=WEIGHT"),
        (("--photographs", "nowhere"), "nowhere cannot be read (No such file or directory); expected a directory"),
    ],
)
def test_a_mistake_is_refused_in_one_line_before_a_user_starts(locust, server, more, mistake, told):
    """With what was expected, exit code 2, and no worker left to look for its master."""
    run = locust("--host", server.grpc_url, *mistake, *more, token=server.token)
    assert (run.code, run.output) == (2, "")
    (line,) = [line for line in run.errors.splitlines() if not line.startswith("[")]  # beside locust's log
    assert told in line


def answer(url: str, form: dict[str, str] | None = None) -> dict[str, object] | None:
    """The JSON of locust's web page, or None where it does not answer yet."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=10) as reply:  # noqa: S310 - http, on loopback
            return json.load(reply)
    except (urllib.error.URLError, ConnectionError):
        return None


def wait_for(look: Callable[[], object], within_s: float = END_WITHIN_S) -> object:
    """The first true result of `look`, or its last false one."""
    deadline_s = time.monotonic() + within_s
    while not (seen := look()) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # a pause between two looks
    return seen


def test_the_web_page_starts_and_shows_a_run_and_sigterm_ends_it(server, tmp_path):
    """What the `loadtest` service of docker-compose.yml does. The token is not on the page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    arguments = ("--host", f"grpc://{server.grpc_url}", "--web-host", "127.0.0.1", "--web-port", str(port))
    process = started(arguments, tmp_path, server.token)
    try:
        form = {"user_count": "4", "spawn_rate": "4", "host": f"grpc://{server.grpc_url}"}
        assert wait_for(lambda: (answer(f"{page}/swarm", form) or {}).get("success"))
        statistics = wait_for(
            lambda: [
                row for row in (answer(f"{page}/stats/requests") or {}).get("stats", []) if row["num_requests"] > 10
            ]
        )
        assert {row["name"] for row in statistics} <= {"googlenet_fp32", "inception_v3_fp32", "Aggregated"}
        assert [row["num_failures"] for row in statistics] == [0] * len(statistics)
        with urllib.request.urlopen(page, timeout=10) as reply:
            assert server.token not in reply.read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = ended(process)
    assert process.returncode == 0, errors
