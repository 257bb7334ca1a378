"""`python -m client` against the small real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.cli import main


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


def test_json_is_one_object_a_line(triton: Any, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ready for jq, with every field of the result."""
    triton.serve("googlenet_fp16")
    images = [str(photos / f"{name}.jpg") for name in ("cat", "coffee")]
    code = main(["classify", *images, "--url", f"grpc://{triton.address}", "--model", "GoogLeNet", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["image"] for row in rows] == images
    assert {row["served_name"] for row in rows} == {"googlenet_fp16"}
    assert [len(row["predictions"]) for row in rows] == [5, 5]


def test_one_bad_image_among_good_ones_is_named_and_the_others_are_answered(
    triton: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 9: the good ones on stdout, the bad one on stderr, exit code 2."""
    triton.serve("inception_v3_fp32")
    (tmp_path / "page.jpg").write_text("<html></html>")
    images = [str(photos / "cat.jpg"), "page.jpg", "missing.jpg", str(photos / "rocket.jpg")]
    code = main(["classify", *images, "--url", triton.address, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert [json.loads(line)["image"] for line in out.splitlines()] == [images[0], images[3]]
    assert len(err.splitlines()) == 2
    assert "InvalidImage: page.jpg (13 bytes" in err
    assert "InvalidImage: missing.jpg cannot be opened" in err


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
    assert "images not tried: 2" in err


def test_one_failed_inference_does_not_end_the_run(
    triton: Any, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model may fail on one image only."""

    def fail_once(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(server.images) == 1:
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    triton.serve("inception_v3_fp32", misbehave=fail_once)
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


@pytest.mark.parametrize("arguments", [["--url", "http://localhost:8000"], ["--timeout-s", "0"], ["--token", "a\nb"]])
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
