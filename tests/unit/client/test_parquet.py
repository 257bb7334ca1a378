"""Parquet: made whole at the end of a run, and gone on with by way of its rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from client import parquet
from client.errors import InvalidImage, InvalidRequest
from client.results import Classification, Prediction, Timings
from client.row_file import Identity, RowFile
from client.rows import FlatJsonLines

IDENTITY: Identity = {"format": "parquet", "top_k": 1, "release": "abc"}
ANSWER = Classification(
    predictions=(Prediction(281, "cat", 0.1 + 0.2),),
    model="InceptionV3",
    served_name="inception_v3_fp16",
    precision="fp16",
    version="3",
    release="abc",
    emulated=None,
    timings=Timings(1.0, 2.0, 3.5),
)
BAD = InvalidImage("no image")


@pytest.fixture
def reader() -> Any:
    """pyarrow's own reader."""
    return pytest.importorskip(
        "pyarrow.parquet", reason="pyarrow is not installed: the extra parquet", exc_type=ImportError
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.parquet"


def write(path: Path, *images: str, is_finished: bool = True) -> None:
    with RowFile(path, FlatJsonLines(1), IDENTITY, is_resumed=True) as file:
        for image in filter(file.claim, images):
            file.write(image, BAD if image == "bad" else ANSWER)
        if is_finished:
            file.finish()


def images_in(path: Path, reader: Any) -> list[str]:
    names: list[str] = reader.read_table(path).column("image").to_pylist()
    return names


def test_columns_have_their_types(path: Path, reader: Any) -> None:
    """Texts, a 32-bit index, a score in full precision; null where there is none."""
    write(path, "cat", "bad")
    table = reader.read_table(path)
    assert {name: str(table.schema.field(name).type) for name in ("image", "index_1", "score_1", "error")} == {
        "image": "string",
        "index_1": "int32",
        "score_1": "double",
        "error": "string",
    }
    answered, bad = table.to_pylist()
    assert (answered["score_1"], answered["emulated"]) == (0.1 + 0.2, None)
    assert (bad["index_1"], bad["error"]) == (None, "InvalidImage: no image")


def test_rows_are_written_in_groups(path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of any length takes little memory."""
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 10)
    write(path, *map(str, range(25)))
    with reader.ParquetFile(path) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [10, 10, 5]


def test_a_run_ended_early_leaves_rows_and_no_half_file(path: Path, reader: Any) -> None:
    """And the next one makes the file of them and its own."""
    write(path, "a", is_finished=False)
    assert not path.exists()
    assert path.with_name("answers.parquet.rows").exists()
    write(path, "a", "b")
    assert images_in(path, reader) == ["a", "b"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["answers.parquet", "answers.parquet.state.json"]


def test_a_finished_file_is_gone_on_with(path: Path, reader: Any) -> None:
    """Its rows are read back; while the run lasts the old file stays."""
    write(path, "a", os.fsdecode(b"caf\xe9"), "bad")
    write(path, os.fsdecode(b"caf\xe9"), "b", is_finished=False)
    assert images_in(path, reader) == ["a", r"caf\xe9", "bad"]
    write(path, "c")
    assert images_in(path, reader) == ["a", r"caf\xe9", "bad", "b", "c"]


def test_a_kill_at_any_step_of_the_end_loses_and_repeats_nothing(
    path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file is made, after it was renamed, while its rows are read back."""

    class Killed(BaseException):
        """Stands for SIGKILL: nothing is tidied after it."""

    def killed(*_: object) -> None:
        raise Killed

    for step in ("replace", "unlink"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, step, killed)
            with pytest.raises(Killed):
                write(path, "a", "b")
        write(path, "a", "b", "c")
        assert images_in(path, reader) == ["a", "b", "c"]
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", killed)
            with pytest.raises(Killed):
                write(path, "d")
        write(path, "a", "b", "c")
        assert images_in(path, reader) == ["a", "b", "c"]
        path.unlink()


def test_a_file_that_is_no_parquet_is_refused(path: Path, reader: Any) -> None:
    """And stays as it is."""
    write(path, "a")
    path.write_text("mine")
    with pytest.raises(InvalidRequest, match="not a Parquet file"):
        write(path, "a")
    assert path.read_text() == "mine"


def test_without_pyarrow_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in an extra, for few need it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'inception-triton\[parquet\]'"):
        parquet.check_installed()


def test_two_files_whose_escapes_look_alike_have_two_rows(path: Path, reader: Any) -> None:
    """However often the run is gone on with."""
    names = [os.fsdecode(b"\xff\xfe.jpg"), r"\xff\xfe.jpg", r"\\xff\xfe.jpg"]
    for _ in range(3):
        write(path, *names)
    assert images_in(path, reader) == [r"\xff\xfe.jpg", r"\\xff\\xfe.jpg", r"\\\\xff\\xfe.jpg"]


def test_files_of_the_users_beside_it_are_left_alone(path: Path, reader: Any) -> None:
    """Nothing that lies there is written over, and nothing is left there; the umask decides who may read the rows."""
    users = [path.with_name(name) for name in ("answers.parquet.tmp", "answers.parquet.rows.tmp")]
    for each in users:
        each.write_text("mine")
    write(path, "a")
    write(path, "b")
    assert images_in(path, reader) == ["a", "b"]
    assert [each.read_text() for each in users] == ["mine", "mine"]
    made = {"answers.parquet", "answers.parquet.state.json"}
    assert {each.name for each in path.parent.iterdir()} == made | {each.name for each in users}
    assert path.stat().st_mode == users[0].stat().st_mode


def test_a_failed_end_leaves_no_temporary_file(path: Path, reader: Any) -> None:
    """A directory where the file is to be cannot be replaced by it."""
    path.mkdir()
    with pytest.raises(IsADirectoryError), parquet._appearing_whole(path) as file:
        file.write(b"rows")
    assert [each.name for each in path.parent.iterdir()] == ["answers.parquet"]
