"""`python -m client` against the small real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from client import InceptionClient
from client.cli import main
from client.testing import FakeModel, FakeServer


@pytest.fixture
def answer(certain_of: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A model for batches: each image's class is the rounded mean of its pixels."""
    return lambda batch: np.concatenate([certain_of(round(float(image.mean()))) for image in batch])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address or token of this machine reaches a test."""
    monkeypatch.delenv("INCEPTION_URL", raising=False)
    monkeypatch.delenv("INCEPTION_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)


def test_an_image_is_classified(triton: Any, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what answered, then one line for each class."""
    triton.serve("inception_v3_fp32")
    code = main(["classify", str(photos / "cat.jpg"), "--url", triton.address, "--top-k", "2"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{photos / 'cat.jpg'}  inception_v3_fp32, release 0123456789abcdef, ")
    assert len(lines) == 3
    assert lines[1].split()[0] == "0.9000"


def test_json_is_one_object_a_line(triton: Any, answer: Any, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ready for jq, with every field of the result."""
    triton.serve("googlenet_fp16", answer=answer)
    images = [str(photos / f"{name}.jpg") for name in ("cat", "coffee")]
    code = main(["classify", *images, "--url", f"grpc://{triton.address}", "--model", "GoogLeNet", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["image"] for row in rows] == images
    assert {row["served_name"] for row in rows} == {"googlenet_fp16"}
    assert [len(row["predictions"]) for row in rows] == [5, 5]


def test_one_bad_image_among_good_ones_is_named_and_the_others_are_answered(
    triton: Any, answer: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 9: exit code 2; a row for each but the one that could not be read, which another run may find."""
    triton.serve("inception_v3_fp32", answer=answer)
    (tmp_path / "page.jpg").write_text("<html></html>")
    images = [str(photos / "cat.jpg"), "page.jpg", "missing.jpg", str(photos / "rocket.jpg")]
    code = main(["classify", *images, "--url", triton.address, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [image for image in images if image != "missing.jpg"]
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["error"]["type"] == "InvalidImage"
    first, second, summary = err.splitlines()
    assert first.startswith("InvalidImage: page.jpg (13 bytes")
    assert second.startswith("UnreadableImage: missing.jpg cannot be opened")
    assert summary.startswith("2 answered, 1 bad, 1 not readable; ")


def test_a_dead_server_is_reported_once_and_not_for_every_image(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next image would meet the same; the message says where the address came from."""
    images = [str(photos / f"{name}.jpg") for name in ("cat", "coffee", "rocket")]
    code = main(["classify", *images, "--url", "127.0.0.1:9", "--model", "InceptionV3"])
    err = capsys.readouterr().err
    assert code == 1
    assert err.count("ServerUnavailable") == 1
    assert "--url or INCEPTION_URL" in err
    assert len(err.splitlines()) == 2


def test_one_failed_inference_does_not_end_the_run(
    triton: Any, answer: Any, photos: Path, crops: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model may fail on one image only: those that shared its batch are answered, and it alone is named."""

    def fail_for_the_cat(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if any(np.array_equal(image, crops["cat_320_299"]) for image in server.images[-1]):
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    triton.serve("inception_v3_fp32", misbehave=fail_for_the_cat, answer=answer)
    images = [str(photos / f"{name}.jpg") for name in ("cat", "coffee")]
    code = main(["classify", *images, "--url", triton.address, "--json"])
    out, err = capsys.readouterr()
    assert code == 1
    assert json.loads(out)["image"] == images[1]
    assert "InferenceFailed" in err


def test_an_unknown_model_is_a_usage_error_that_lists_what_is_served(
    triton: Any, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line, no stack trace."""
    triton.serve("inception_v3_fp32")
    code = main(["classify", str(photos / "cat.jpg"), "--url", triton.address, "--model", "ResNet50"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.splitlines() == ["UnknownModel: no model is called 'ResNet50'; served are: inception_v3_fp32"]


def test_address_and_token_come_from_the_running_servers_file(
    triton: Any, token: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serving up` in the same directory is all that is needed."""
    triton.restricted = {"ModelInfer", "RepositoryIndex"}
    triton.serve("inception_v3_fp32")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "serving.json").write_text(json.dumps({"grpc_url": triton.address, "token": token}))
    assert main(["classify", str(photos / "cat.jpg")]) == 0
    assert main(["health"]) == 0
    assert "inception_v3_fp32" in capsys.readouterr().out


def test_models_lists_what_is_served(triton: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp16", told={"emulated": "fp16 on a CPU"})
    assert main(["models", "--url", triton.address]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["googlenet_fp16", "GoogLeNet", "fp16", "224x224"]
    assert first.endswith("emulated: fp16 on a CPU")
    assert second.split()[:4] == ["inception_v3_fp32", "InceptionV3", "fp32", "299x299"]
    assert main(["models", "--url", triton.address, "--json"]) == 0
    assert [row["input_size"] for row in json.loads(capsys.readouterr().out)] == [224, 299]


def test_health_fails_when_one_model_does(triton: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The well one on stdout, the sick one on stderr."""
    triton.serve("inception_v3_fp32")
    triton.serve("googlenet_fp16", answer=lambda batch: batch[:, :, :, 0].astype("float32"))
    assert main(["health", "--url", triton.address]) == 4
    out, err = capsys.readouterr()
    assert out.startswith("inception_v3_fp32")
    assert err.startswith("googlenet_fp16")
    assert "BadResponse" not in out


def test_a_server_that_serves_nothing_is_not_healthy(triton: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No model means no answer to give."""
    assert main(["health", "--url", triton.address]) == 1
    assert "no model of this project" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--url", "ftp://localhost:8000"], ["--timeout-s", "0"], ["--token", "a\nb"]])
def test_a_wrong_option_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No stack trace for a user's mistake."""
    assert main(["models", *arguments]) == 2
    assert capsys.readouterr().err.startswith("InvalidRequest: ")


@pytest.mark.parametrize("command", [[], ["classify"]], ids=["client", "classify"])
def test_help_teaches_by_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Examples, the order of address and token, and the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    for part in ("python -m client classify cat.jpg", "INCEPTION_URL", "INCEPTION_TOKEN", "serving.json", "exit codes"):
        assert part in out


def test_a_reader_that_goes_away_is_no_stack_trace(triton: Any, photos: Path) -> None:
    """`python -m client classify ... | head -1`, in a process of its own."""
    triton.serve("inception_v3_fp32")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "client", "classify", str(photos / "cat.jpg"), "--url", triton.address]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_statistics_show_where_the_time_went(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each model, or JSON with every figure."""
    fake = FakeServer(FakeModel("InceptionV3"), FakeModel("GoogLeNet", input_size=224, resize_short=256))
    monkeypatch.setattr("client.cli.InceptionClient", lambda *_, **__: InceptionClient.over(fake))
    assert main(["statistics"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["model", "images"]
    assert [line.split()[0] for line in lines] == ["inception_v3_fp32", "googlenet_fp32"]
    assert main(["statistics", "--json"]) == 1  # the fake was closed by the first command
    fake = FakeServer(FakeModel("InceptionV3"))
    assert main(["statistics", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["queue"] == {"count": 0, "sum_ms": 0.0, "mean_ms": 0.0}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--resume"], "--output"),
        (["--output", "a.txt"], "--format"),
        (["--format", "table", "--output", "a.csv"], "jsonl, csv or parquet"),
        (["--format", "parquet"], "--output FILE"),
        (["--json", "--format", "csv"], "--json means"),
        (["--batch-size", "0"], "batch_size"),
        (["--window", "0"], "window"),
        (["--top-k", "0"], "--top-k"),
    ],
)
def test_options_that_contradict_each_other_are_named(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, before any server is asked and any file made."""
    assert main(["classify", "cat.jpg", "--url", "127.0.0.1:9", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("InvalidRequest: ")
    assert told in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["classify", "cat.jpg"], ["models"]], ids=lambda command: command[0])
def test_a_full_disk_under_stdout_is_one_line(triton: Any, photos: Path, command: list[str]) -> None:
    """Exit code 1, and no complaint of Python's own as it ends."""
    triton.serve("inception_v3_fp32")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "client", *command, "--url", triton.address],
            cwd=photos,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_stack_trace(triton: Any, photos: Path, closed: str) -> None:
    """The exit code is the same, and what was for one stream does not appear on the other."""
    triton.serve("inception_v3_fp32")
    for image, code in ((photos / "cat.jpg", 0), (Path("missing.jpg"), 2)):
        command = [sys.executable, "-m", "client", "classify", str(image), "--url", triton.address]
        script = f'"$@" {closed}'
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert "UnreadableImage" not in done.stdout
