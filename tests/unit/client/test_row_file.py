"""The file of a run that may be killed at any moment."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import InceptionError, InvalidImage, InvalidRequest
from client.row_file import Identity, RowFile
from client.rows import Csv, JsonLines, RowFormat

IDENTITY: Identity = {
    "format": "csv",
    "top_k": 1,
    "served_name": "inception_v3_fp32",
    "release": "abc",
    "emulated": None,
}
BAD = InvalidImage("no image")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.csv"


def opened(path: Path, *, is_resumed: bool = True, row_format: RowFormat | None = None, **changes: str) -> RowFile:
    return RowFile(path, row_format or Csv(1), IDENTITY | changes, is_resumed=is_resumed)


def write(path: Path, *images: str, is_resumed: bool = True) -> None:
    with opened(path, is_resumed=is_resumed) as file:
        for image in images:
            if file.claim(image):
                file.write(image, BAD)


def images_in(path: Path) -> list[str]:
    return [Csv(1).image_of(line)[0] for line in path.read_bytes().splitlines(keepends=True)[1:]]


def test_an_image_gets_one_row_however_often_it_is_named(path: Path) -> None:
    """Within one run and over several."""
    write(path, "a", "b", "a", is_resumed=False)
    write(path, "b", "c", "a")
    assert images_in(path) == ["a", "b", "c"]


def test_what_was_there_before_is_counted(path: Path) -> None:
    """All rows, and those of bad images."""
    write(path, "a", "b")
    with opened(path) as file:
        assert (file.rows_before, file.bad_before) == (2, 2)


def test_a_file_cut_at_any_byte_is_made_whole_by_the_next_run(path: Path) -> None:
    """A kill or a full disk leaves any part of the last row; not even the header need be there."""
    names = ["a", 'b"\n"', "c,"]
    write(path, *names)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        write(path, *names)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("is_begun", [False, True], ids=["empty", "with rows"])
def test_an_existing_file_is_refused_without_resume(path: Path, *, is_begun: bool) -> None:
    """Nothing in it is touched, and the message says what to do."""
    if is_begun:
        write(path, "a")
    else:
        path.touch()
    before = path.read_bytes()
    with pytest.raises(InvalidRequest, match=r"--resume .* another --output"):
        opened(path, is_resumed=False)
    assert path.read_bytes() == before


def test_resuming_what_is_not_there_begins_it(path: Path) -> None:
    """So the same command may be given the first time and every other."""
    write(path, "a")
    assert images_in(path) == ["a"]


def test_a_file_of_somebody_elses_is_refused_and_nothing_put_beside_it(path: Path) -> None:
    """Without the state there is no telling what its rows are."""
    path.write_text("name,age\n")
    with pytest.raises(InvalidRequest, match="was not begun by this command"):
        opened(path)
    assert [each.name for each in path.parent.iterdir()] == ["answers.csv"]


@pytest.mark.parametrize(
    "changes", [{"release": "xyz"}, {"served_name": "inception_v3_fp16"}, {"top_k": "2"}, {"emulated": "fp16 on a CPU"}]
)
def test_a_run_with_what_makes_other_rows_is_refused(path: Path, changes: dict[str, str]) -> None:
    """The message names what differs, both ways; the file stays as it was."""
    write(path, "a")
    before = path.read_bytes()
    (name,) = changes
    with pytest.raises(
        InvalidRequest, match=f"begun with {name} {IDENTITY[name]}, and this run has {name} {changes[name]}"
    ):
        opened(path, **changes)
    assert path.read_bytes() == before


def test_a_damaged_state_beside_rows_is_refused(path: Path) -> None:
    """It is written before the first row is, so a kill does not make one."""
    write(path, "a")
    path.with_name("answers.csv.state.json").write_text('{"format": "cs')
    with pytest.raises(InvalidRequest, match="does not say how"):
        opened(path)


def test_a_torn_state_beside_no_rows_is_written_anew(path: Path) -> None:
    """That is what a kill at the very beginning leaves."""
    path.touch()
    path.with_name("answers.csv.state.json").write_text('{"format": "cs')
    write(path, "a")
    assert json.loads(path.with_name("answers.csv.state.json").read_text()) == IDENTITY


def test_a_row_in_the_middle_that_is_none_is_refused_with_its_place(path: Path) -> None:
    """Only a torn end is cut off of itself; anything else is the user's to decide."""
    write(path, "a", "b")
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first + b"hello\n" + second)
    with pytest.raises(InvalidRequest, match=f"at byte {len(header + first)} is no row"):
        opened(path)


def test_two_runs_do_not_write_one_file(path: Path) -> None:
    """The second is refused while the first is at it, and not after."""
    with opened(path), pytest.raises(InvalidRequest, match="another run is writing"):
        opened(path)
    opened(path).close()


def test_a_killed_runs_lock_dies_with_it(path: Path) -> None:
    """SIGKILL leaves nothing that must be tidied by hand."""
    script = (
        "import sys, time; from pathlib import Path; from client.row_file import RowFile; from client.rows import Csv;"
        f"file = RowFile(Path(sys.argv[1]), Csv(1), {dict(IDENTITY)!r}, is_resumed=True); print('open', flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            with pytest.raises(InvalidRequest, match="another run is writing"):
                opened(path)
        finally:
            process.send_signal(signal.SIGKILL)
    write(path, "a")
    assert images_in(path) == ["a"]


def test_a_full_disk_keeps_the_rows_before(path: Path) -> None:
    """The error says how to go on; the torn row is cut off then. A limit on file sizes stands for the disk."""
    name = "x" * 100
    write(path, "a")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with opened(path) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
            with pytest.raises(InceptionError, match=r"cannot be written: File too large.*--resume"):
                file.write(name, BAD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    write(path, name)
    assert images_in(path) == ["a", name]


@pytest.mark.parametrize("name", ["missing/answers.csv", ".", "pipe"])
def test_what_cannot_be_written_is_a_usage_error(tmp_path: Path, name: str) -> None:
    """A missing directory, a directory, and what is no regular file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="another --output"):
        opened(tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_json_lines_resume_alike(tmp_path: Path) -> None:
    """Without a header."""
    path = tmp_path / "answers.jsonl"
    for images in (["a", "b"], ["b", "c"]):
        with opened(path, row_format=JsonLines()) as file:
            for image in filter(file.claim, images):
                file.write(image, BAD)
        with path.open("ab") as torn:
            torn.write(b'{"image": "z"')
    assert [json.loads(line)["image"] for line in path.read_text().splitlines()[:-1]] == ["a", "b", "c"]
