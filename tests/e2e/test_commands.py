"""The commands of the README, as a user types them, against the real tritonserver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def run(*arguments, cwd, environment=None, timeout=300):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(  # noqa: PLW1510 - the tests look at the code
        command, cwd=cwd, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture
def offline():
    """An environment without a way out, whatever this machine has: downloads go through a proxy that is not there."""
    return {"HTTPS_PROXY": NOWHERE, "https_proxy": NOWHERE, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def test_build_serve_classify_and_stop(tmp_path, photos):
    """Four commands from nothing to labels, and nothing left behind."""
    built = run(
        "-m", "builder", "build", "--gpu", "cpu", "--weights", "seeded", "--model", "GoogLeNet", "--json", cwd=tmp_path
    )
    assert built.returncode == 0, built.stderr
    (model,) = json.loads(built.stdout)
    assert (model["served_name"], model["status"], model["version"]) == ("googlenet_fp32", "published", 1)

    up = subprocess.Popen(
        [sys.executable, "-m", "serving", "up", "--ports", "auto", "--exit-timeout-s", "5", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ready = json.loads(up.stdout.readline())
        assert list(ready["first_inference_s"]) == ["googlenet_fp32"]
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"<html>not an image</html>")
        answered = run("-m", "client", "classify", photos[0], bad, photos[1], "--top-k", "3", cwd=tmp_path)
        assert answered.returncode != 0
        assert "bad.jpg" in answered.stderr
        assert "Traceback" not in answered.stderr
        for photo in photos[:2]:
            assert photo.name in answered.stdout
        listed = run("-m", "client", "models", cwd=tmp_path)
        assert "googlenet_fp32" in listed.stdout
        assert run("-m", "client", "health", cwd=tmp_path).returncode == 0
        assert run("-m", "serving", "health", cwd=tmp_path).returncode == 0
        verified = run("-m", "builder", "verify", cwd=tmp_path)
        assert verified.returncode == 0, verified.stdout  # serving has written nothing that does not belong
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
        up.stdout.close()
    assert not (tmp_path / "run" / "serving.json").exists()


def test_the_demo_without_network_says_that_its_labels_mean_nothing(tmp_path, offline):
    """And still shows everything else: build, server, three photographs by two models, times."""
    shown = run(ROOT / "examples" / "demo.py", cwd=tmp_path, environment=offline)
    assert shown.returncode == 0, shown.stderr
    assert "THESE MODELS ARE NOT TRAINED" in shown.stdout
    for photo in ("cat.jpg", "coffee.jpg", "rocket.jpg"):
        for name in ("googlenet_fp32", "inception_v3_fp32"):
            assert f"{photo}  {name}" in shown.stdout
    predictions = [line for line in shown.stdout.splitlines() if line.startswith("  ") and line.split()[0][0] == "0"]
    assert len(predictions) == 3 * 2 * 5
    assert "server stopped" in shown.stdout
    assert not list(tmp_path.glob("**/*.plan"))


def test_build_never_falls_back_to_seeded_weights(tmp_path, offline):
    """Only the demo does."""
    built = run("-m", "builder", "build", "--gpu", "cpu", "--model", "GoogLeNet", cwd=tmp_path, environment=offline)
    assert built.returncode == 1
    assert "--weights seeded" in built.stderr
    assert "Traceback" not in built.stderr
    assert list((tmp_path / "model_repository").iterdir()) == []


def test_the_benchmark_measures_and_writes_its_figures(repository, tmp_path):
    """A short run of the real thing; how fast it was is not asserted."""
    measured = run(
        "-m", "loadtest", "bench", "--parts", "start,latency,throughput", "--alternations", "2",
        "--repository", repository, "--model", "googlenet_fp32", "--json", tmp_path / "bench.json", cwd=ROOT,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"]["cores"] >= 1
    kinds = [figure["kind"] for figure in written["figures"]]
    assert kinds == ["StartCost", "StartCost", "IdleLatency", "IdleLatency", "Throughput"]
    ratio = written["figures"][-1]["ratio"]
    assert ratio["samples"] == 2
    assert ratio["low"] <= ratio["median"] <= ratio["high"]


def test_the_runtimes_are_compared_in_one_run(repository, tmp_path):
    """The command behind docs/cpu-runtime.md."""
    compared = run(
        "-m", "loadtest", "runtimes", "--rounds", "2", "--repository", repository, "--model", "googlenet_fp32",
        "--json", tmp_path / "runtimes.json", cwd=ROOT,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    figures = json.loads((tmp_path / "runtimes.json").read_text())["figures"]
    assert [(figure["served_name"], figure["batch_size"]) for figure in figures] == [
        ("googlenet_fp32", 1),
        ("googlenet_fp32", 8),
    ]
