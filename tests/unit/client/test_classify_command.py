"""`python -m client classify` over many images: rows, resuming, stopping. Against the small real server."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from client.cli import main

COUNT = 120
BAD_EVERY = 40
LONGEST_S = 60


@pytest.fixture
def answer(certain_of: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Each image's class is the mean of its pixels."""
    return lambda batch: np.concatenate([certain_of(round(float(image.mean()))) for image in batch])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `photos`: grey squares, each of its own grey, and a few that are no images."""
    monkeypatch.delenv("INCEPTION_URL", raising=False)
    monkeypatch.delenv("INCEPTION_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(COUNT):
        path = tmp_path / "photos" / f"{index:03}.png"
        if index % BAD_EVERY == BAD_EVERY - 1:
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (16, 16), (index, index, index)).save(path)
    return tmp_path


def command(*arguments: str, address: str, paths: Sequence[str] = ("photos",)) -> list[str]:
    return [sys.executable, "-m", "client", "classify", *paths, "--url", address, "--top-k", "2", *arguments]


@contextmanager
def running(*arguments: str, **where: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, which does not outlive the block."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(*arguments, **where), stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def in_a_process(*arguments: str, **where: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, **where), capture_output=True, text=True, check=False, timeout=LONGEST_S)


def images_in(path: Path) -> list[str]:
    """The image of each row of a file of either format."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["image"] for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def every_image() -> list[str]:
    return [f"photos/{index:03}.png" for index in range(COUNT)]


def test_every_image_has_its_row_in_order(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The class is the image's own; bad ones have the error; the summary counts both; the highest code is returned."""
    triton.serve("inception_v3_fp32", answer=answer)
    assert main(["classify", "photos", "--url", triton.address, "--top-k", "2", "--output", "answers.csv"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    with Path("answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == every_image()
    for index, row in enumerate(rows):
        if index % BAD_EVERY == BAD_EVERY - 1:
            assert row["error"].startswith("InvalidImage: photos/")
        else:
            assert (row["index_1"], row["model"], row["release"]) == (str(index), "InceptionV3", "0123456789abcdef")
    *errors, summary = err.splitlines()
    assert len(errors) == COUNT // BAD_EVERY
    assert summary.startswith("answers.csv: 117 answered, 3 bad; ")


def test_rows_go_to_stdout_as_csv(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With one header."""
    triton.serve("inception_v3_fp32", answer=answer)
    images = ["photos/001.png", "photos/002.png"]
    assert main(["classify", *images, "--url", triton.address, "--top-k", "1", "--format", "csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "image,label_1,index_1,score_1,model,precision,release,emulated,error"
    assert [row.split(",")[:3] for row in rows] == [
        [image, f"class {n + 1}", f"{n + 1}"] for n, image in enumerate(images)
    ]


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_a_run_killed_again_and_again_ends_with_the_same_rows(triton: Any, answer: Any, name: str) -> None:
    """SIGKILL at random bytes of the file: afterwards each image has exactly one row, the same as without any kill."""
    triton.serve("inception_v3_fp32", answer=answer)
    whole, path = Path(f"whole-{name}"), Path(name)
    assert in_a_process("--output", str(whole), address=triton.address).returncode == 2
    chosen = random.Random(20261124)
    kills = 0
    for _ in range(6):
        size = path.stat().st_size if path.exists() else 0
        stop_at = chosen.randrange(size, size + (whole.stat().st_size - size) // 3)
        arguments = ("--output", name, "--resume", "--batch-size", "2", "--window", "4")
        with running(*arguments, address=triton.address) as process:
            while process.poll() is None:
                if path.exists() and path.stat().st_size > stop_at:
                    process.kill()
                    break
            kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    last = in_a_process("--output", name, "--resume", address=triton.address)
    assert last.returncode == 2  # the bad images have their rows, and are not forgotten
    assert "done before" in last.stderr
    assert sorted(images_in(path)) == every_image()
    if name.endswith("csv"):
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())


def test_a_finished_run_resumed_does_nothing(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command may be given again and again; it asks for no image a second time."""
    triton.serve("inception_v3_fp32", answer=answer)
    arguments = ["classify", "photos", "--url", triton.address, "--output", "answers.jsonl", "--resume"]
    assert main(arguments) == 2
    before, asked = Path("answers.jsonl").read_bytes(), sum(map(len, triton.images))
    assert main(arguments) == 2
    assert Path("answers.jsonl").read_bytes() == before
    assert sum(map(len, triton.images)) == asked + 1  # the grey square that tells the release
    assert "0 answered, 120 done before" in capsys.readouterr().err


def test_without_resume_a_file_is_kept(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the message says both ways out."""
    triton.serve("inception_v3_fp32", answer=answer)
    Path("answers.csv").write_text("mine")
    assert main(["classify", "photos", "--url", triton.address, "--output", "answers.csv"]) == 2
    assert Path("answers.csv").read_text() == "mine"
    (line,) = capsys.readouterr().err.splitlines()
    assert "--resume" in line
    assert "another --output" in line


def test_another_release_does_not_go_on_with_the_rows(
    triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor do other options: rows of two kinds would not belong together."""
    triton.serve("inception_v3_fp32", answer=answer)
    arguments = ["classify", "photos", "--url", triton.address, "--output", "answers.csv", "--resume"]
    assert main(arguments) == 2
    before = Path("answers.csv").read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--top-k", "3"]) == 2
    assert "begun with top_k 5, and this run has top_k 3" in capsys.readouterr().err
    triton.serve("inception_v3_fp32", answer=answer, told={"release": "fedcba9876543210"})
    assert main(arguments) == 2
    assert "release 0123456789abcdef" in capsys.readouterr().err
    assert Path("answers.csv").read_bytes() == before


def test_a_model_replaced_during_a_run_ends_it(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of the first release stay, and none of the second is put among them."""

    def replaced(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(server.images) == 4:
            server.serve("inception_v3_fp32", answer=answer, version="2", told={"release": "fedcba9876543210"})

    triton.serve("inception_v3_fp32", answer=answer, misbehave=replaced)
    arguments = ["--output", "answers.csv", "--window", "8"]
    assert main(["classify", "photos", "--url", triton.address, *arguments]) == 1
    assert "the server now answers with inception_v3_fp32 release fedcba9876543210" in capsys.readouterr().err
    with Path("answers.csv").open(newline="") as file:
        assert {row["release"] for row in csv.DictReader(file)} == {"0123456789abcdef"}


def test_a_server_that_dies_ends_the_run_and_a_resumed_one_does_the_rest(
    small_triton: Any, start_server: Any, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, whatever else went wrong; what was not answered has no row, and gets it later."""
    servicer = small_triton()
    server = start_server(servicer)

    def die(servicer: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(servicer.images) == 8:
            server.stop(grace=None)

    servicer.serve("inception_v3_fp32", answer=answer, misbehave=die)
    arguments = ["classify", "photos", "--output", "answers.csv", "--resume", "--url"]
    assert main([*arguments, servicer.address]) == 1
    err = capsys.readouterr().err
    assert "ServerUnavailable" in err
    assert "the same command with --resume" in err
    server.stop(grace=None).wait()
    done = images_in(Path("answers.csv"))
    assert 0 < len(done) < COUNT
    again = small_triton()
    server = start_server(again)
    try:
        again.serve("inception_v3_fp32", answer=answer)
        assert main([*arguments, again.address]) == 2
    finally:
        server.stop(grace=None).wait()
    assert sorted(images_in(Path("answers.csv"))) == every_image()
    assert images_in(Path("answers.csv"))[: len(done)] == done


def test_a_server_that_answers_nobody_is_not_asked_for_a_million(
    triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """After three batches in a row without an answer the run ends."""

    def gone(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(server.images) > 3:
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    triton.serve("inception_v3_fp32", answer=answer, misbehave=gone)
    arguments = ["--output", "answers.csv", "--batch-size", "2", "--window", "4"]
    assert main(["classify", "photos", "--url", triton.address, *arguments]) == 1
    assert "ended early, 4 answered, 6 not answered; " in capsys.readouterr().err
    assert images_in(Path("answers.csv")) == every_image()[:4]


def test_no_file_is_begun_where_no_server_answers(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The next try is not met by "is there already"."""
    arguments = ["--url", "127.0.0.1:9", "--model", "InceptionV3", "--output", "answers.csv"]
    assert main(["classify", "photos", *arguments]) == 1
    assert [each.name for each in folder.iterdir()] == ["photos"]
    assert "--url or INCEPTION_URL" in capsys.readouterr().err


def test_ctrl_c_waits_for_what_is_under_way(triton: Any, answer: Any) -> None:
    """What was asked is answered and written; exit code 130; the message says how to go on, and that works."""
    held, free = threading.Event(), threading.Event()

    def hold(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(server.images) > 2:
            held.set()
            free.wait(LONGEST_S)

    triton.serve("inception_v3_fp32", answer=answer, misbehave=hold)
    arguments = ("--output", "answers.csv", "--window", "4")
    with running(*arguments, address=triton.address) as process:
        assert held.wait(LONGEST_S)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "Ctrl-C again" not in process.stderr.readline():
            assert process.poll() is None
        free.set()
        _, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130
    assert "ended early" in err
    assert "the same command with --resume" in err
    done = images_in(Path("answers.csv"))
    assert done == every_image()[:8]
    assert in_a_process(*arguments, "--resume", address=triton.address).returncode == 2
    assert images_in(Path("answers.csv")) == every_image()


def test_a_second_ctrl_c_does_not_wait(triton: Any, answer: Any) -> None:
    """Even where the server never answers; the rows so far are whole."""
    held = threading.Event()

    def hang(server: Any, request: Any, context: grpc.ServicerContext) -> None:
        if len(server.images) > 2:
            held.set()
            server.finish.wait(LONGEST_S)

    triton.serve("inception_v3_fp32", answer=answer, misbehave=hang)
    arguments = ("--output", "answers.csv", "--window", "4", "--timeout-s", "600")
    with running(*arguments, address=triton.address) as process:
        assert held.wait(LONGEST_S)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "Ctrl-C again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(images_in(Path("answers.csv"))) == 4


def test_ctrl_c_ends_a_wait_for_paths(triton: Any, answer: Any) -> None:
    """A list that never ends and never goes on; the images named before are answered."""
    triton.serve("inception_v3_fp32", answer=answer)
    arguments = ("--output", "answers.csv", "--batch-size", "1")
    Path("photos/000.png").rename("last.png")
    with running(*arguments, address=triton.address, paths=("photos", "-")) as process:
        assert process.stdin is not None
        process.stdin.write("last.png\n")
        process.stdin.flush()
        while triton.answered < 1 + COUNT - COUNT // BAD_EVERY:  # the grey square, and every good image
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.wait(LONGEST_S)
    assert process.returncode == 130
    assert images_in(Path("answers.csv")) == [*every_image()[1:], "last.png"]


def test_images_with_any_name_get_their_rows(triton: Any, answer: Any, folder: Path) -> None:
    """Line breaks, quotes, bytes that are not UTF-8: on stdout, in a file, and when resumed."""
    triton.serve("inception_v3_fp32", answer=answer)
    names = [b"two\nlines.png", b'quo"te,.png', b"caf\xe9.png"]
    (folder / "odd").mkdir()
    for name in names:
        os.link(folder / "photos" / "001.png", os.fsencode(folder / "odd") + b"/" + name)
    for output in ("answers.csv", "answers.jsonl"):
        for _ in range(2):
            done = in_a_process("--output", output, "--resume", address=triton.address, paths=["odd"])
            assert done.returncode == 0, done.stderr
        assert "3 done before" in done.stderr
    assert len(Path("answers.jsonl").read_text().splitlines()) == 3
    shown = subprocess.run(
        command(address=triton.address, paths=["odd"]), capture_output=True, check=False, timeout=LONGEST_S
    )
    assert all(name in shown.stdout for name in names)


def test_errors_beyond_a_few_are_counted(triton: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of a million wrong files is no million lines."""
    triton.serve("inception_v3_fp32", answer=answer)
    missing = [f"missing-{index}.jpg" for index in range(50)]
    assert main(["classify", *missing, "--url", triton.address]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[20] == "and 30 more such errors"


def test_an_empty_directory_is_said_to_be_empty(
    triton: Any, answer: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what lies in it that was not taken."""
    triton.serve("inception_v3_fp32", answer=answer)
    (folder / "empty" / "below").mkdir(parents=True)
    (folder / "empty" / "notes.txt").touch()
    assert main(["classify", "empty", "--url", triton.address]) == 2
    err = capsys.readouterr().err
    assert "no images: nothing to classify in empty" in err
    assert "0 answered, 1 other files left out, 1 directories not looked into (--recursive does)" in err


def test_an_empty_list_is_said_to_be_empty(triton: Any, answer: Any) -> None:
    """A `find` that finds nothing is seldom what was wanted: exit code 2."""
    triton.serve("inception_v3_fp32", answer=answer)
    for arguments in ((), ("--output", "answers.csv")):
        with running(*arguments, address=triton.address, paths=["-"]) as process:
            _, err = process.communicate("\n", timeout=LONGEST_S)
        assert process.returncode == 2
        assert "no images: nothing to classify in -" in err


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_what_could_not_be_read_gets_no_row_and_is_tried_again(
    triton: Any, answer: Any, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """It is named, the exit code is 2, and the same command with --resume does it once it can be read."""
    triton.serve("inception_v3_fp32", answer=answer)
    arguments = ["classify", "photos/001.png", "late.png", "--url", triton.address, "--output", name, "--resume"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "UnreadableImage: late.png cannot be opened: No such file" in err
    assert "1 answered, 1 not readable; " in err
    assert "the same command with --resume" in err
    assert images_in(Path(name)) == ["photos/001.png"]
    os.link("photos/002.png", "late.png")
    assert main(arguments) == 0
    assert images_in(Path(name)) == ["photos/001.png", "late.png"]
