"""`python -m loadtest arrivals` and `capacity` as a user types them, against a real tritonserver of known speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.instant_repository import instant_repository
from serving import Server, serve

NAME = "googlenet_fp32"
SERVICE_MS = 20.0  # what the model sleeps for each request: a capacity of at most 50 requests a second
END_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def one_by_one(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that takes 20 ms for a request, and one request at a time: without the dynamic batcher."""
    with instant_repository(repository, NAME, sleep_ms=SERVICE_MS) as models:
        config = models / NAME / "configs" / "cpu.pbtxt"
        text = config.read_text()
        assert "dynamic_batching {\n}\n" in text
        config.write_text(text.replace("dynamic_batching {\n}\n", ""))
        run_dir = tmp_path_factory.mktemp("served") / "run"
        with serve(models, ports="auto", models=[NAME], run_dir=run_dir, exit_timeout_s=5) as server:
            yield server


def started(server: Server, directory: Path, *arguments: object, url: str | None = None) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INCEPTION_")}
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", *map(str, arguments), "--url", url or server.grpc_url],
        cwd=directory,
        env=environment | {"INCEPTION_TOKEN": server.token, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server: Server, directory: Path, *arguments: object, url: str | None = None) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with started(server, directory, *arguments, url=url) as process:
        output, errors = process.communicate(timeout=END_WITHIN_S)
    assert "Traceback" not in errors
    return process.returncode, output, errors


def told(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def latency(content: dict, level: float) -> dict:
    return next(each for each in content["figures"]["latency_ms"] if each["level"] == level)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_within_capacity_the_latency_is_the_service_time_and_a_little(one_by_one, tmp_path, protocol):
    """20 a second, evenly: none waits for another; the sleep and the path are all there is."""
    url = one_by_one.grpc_url if protocol == "grpc" else one_by_one.http_url
    arguments = "arrivals", "--rate", 20, "--duration", 4, "--constant", "--slo-ms", 500, "--json", "run.json"
    code, output, errors = run(one_by_one, tmp_path, *arguments, url=url)
    assert code in (0, 4), errors  # 4 where this machine was so busy that the generator was late
    content = told(tmp_path)
    assert content["valid"] == (code == 0)
    assert content["figures"]["outcomes"] == {"ok": 80}
    median = latency(content, 50.0)
    assert SERVICE_MS <= median["low"] <= median["value"] < 5 * SERVICE_MS
    assert "needs 662" in output
    assert content["emulated"] is None


def test_beyond_capacity_latencies_count_from_the_moment_due(one_by_one, tmp_path):
    """At twice the capacity the median is many service times, as every user's would be; a closed loop, which waits for
    its answers, is served as fast as ever and would not know.
    """
    code, _, errors = run(
        one_by_one, tmp_path, "arrivals", "--rate", 100, "--duration", 3, "--constant", "--json", "run.json"
    )
    assert code in (0, 4), errors
    content = told(tmp_path)
    assert content["figures"]["outcomes"] == {"ok": 300}
    assert latency(content, 50.0)["value"] > 10 * SERVICE_MS
    assert content["figures"]["answered_per_s"] <= 1000 / SERVICE_MS
    # It grows all along: each slice's median is above that of two slices before it.
    medians = [each["median_ms"] for each in content["figures"]["over_time"]]
    assert all(after > before for before, after in zip(medians, medians[2:], strict=False))
    samples = content["samples"]
    assert [sample[0] for sample in samples] == [round(number * 1e7) for number in range(300)]


def test_the_capacity_found_is_below_the_one_that_is_known(one_by_one, tmp_path):
    """One server of 20 ms and Poisson arrivals: none can hold 50 a second, and 5 are no trouble."""
    code, output, errors = run(
        one_by_one, tmp_path, "capacity", "--slo-ms", 200, "--percentile", 90, "--low", 5, "--high", 160,
        "--duration", 3, "--tolerance", 0.5, "--json", "run.json",
    )  # fmt: skip
    content = told(tmp_path)
    probes = [(probe["rate_per_s"], probe["verdict"]) for probe in content["probes"]]
    assert probes[0] == (5.0, "holds"), errors
    assert all(verdict != "holds" for rate, verdict in probes if rate >= 80)
    if content["valid"]:
        assert code == 0
        assert 5 <= content["holds_per_s"] < 80
        assert content["misses_per_s"] <= 1.5 * content["holds_per_s"]
        assert "p90 <= 200 ms holds at" in output
    else:
        assert code == 4
        assert "INVALID" in output


def test_an_interrupted_run_tells_and_keeps_what_it_has(one_by_one, tmp_path):
    """Ctrl-C: exit code 130, the tables, and the file with the samples so far."""
    arguments = "arrivals", "--rate", 20, "--duration", 60, "--json", "run.json"
    with started(one_by_one, tmp_path, *arguments) as process:
        while "arrivals in 60 s" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert "interrupted after" in errors
    assert "Traceback" not in errors
    content = told(tmp_path)
    assert 1 <= len(content["samples"]) < content["figures"]["planned"]
    assert "p50" in output


def test_a_server_that_dies_meanwhile_is_told_by_name_and_the_run_ends(repository, tmp_path):
    """The samples before are kept; those after it are failures."""
    with instant_repository(repository, NAME) as models:
        server = serve(models, ports="auto", models=[NAME], exit_timeout_s=1)
        with (
            server,
            started(
                server, tmp_path, "arrivals", "--rate", 50, "--duration", 6, "--timeout-s", 3, "--json", "run.json"
            ) as process,
        ):
            while "arrivals in 6 s" not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(2)
            server.stop()
            began_s = time.monotonic()
            _, errors = process.communicate(timeout=30)
            assert time.monotonic() - began_s < 20
    assert process.returncode in (0, 4), errors
    assert "Traceback" not in errors
    outcomes = told(tmp_path)["figures"]["outcomes"]
    assert outcomes["ok"] >= 10
    assert set(outcomes) & {"ServerUnavailable", "DeadlineExceeded"}


def test_no_server_is_one_line(one_by_one, tmp_path):
    """Exit code 1, before anything is measured."""
    code, output, errors = run(one_by_one, tmp_path, "arrivals", "--rate", 5, "--duration", 1, url="127.0.0.1:9")
    assert (code, output) == (1, "")
    assert "no server answers at 127.0.0.1:9" in errors
