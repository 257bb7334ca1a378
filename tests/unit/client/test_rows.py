"""One row for one image: whole or torn, and whose."""

from __future__ import annotations

import csv
import json
import os
from io import BytesIO, StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.errors import InvalidImage
from client.results import Classification, Prediction, Timings
from client.row_file import whole_rows
from client.rows import Csv, FlatJsonLines, JsonLines, RowFormat, columns

ANSWER = Classification(
    predictions=(Prediction(281, 'tabby, "tiger" cat', 0.1 + 0.2), Prediction(7, "cock", 1e-17)),
    model="InceptionV3",
    served_name="inception_v3_fp16",
    precision="fp16",
    version="3",
    release="0123456789abcdef",
    emulated=None,
    timings=Timings(1.0, 2.0, 3.5),
)
BAD = InvalidImage('a "page".jpg is\nno image')
FORMATS: list[RowFormat] = [JsonLines(), Csv(2), FlatJsonLines(2)]
NAMES = [
    "cat.jpg",
    "a,b.jpg",
    'quo"te.jpg',
    "two\nlines.jpg",
    "back\rslash.jpg",
    "é.jpg",
    os.fsdecode(b"caf\xe9.jpg"),
    " ",
]
each_format = pytest.mark.parametrize("row_format", FORMATS, ids=lambda each: each.name)


def test_a_row_of_json_is_the_whole_answer() -> None:
    """The path and every field of the `Classification`, or the error's type and message."""
    assert json.loads(JsonLines().row("cat.jpg", ANSWER)) == {"image": "cat.jpg"} | ANSWER.to_dict()
    error = {"type": "InvalidImage", "message": str(BAD)}
    assert json.loads(JsonLines().row("cat.jpg", BAD)) == {"image": "cat.jpg", "error": error}


def test_csv_can_be_read_by_any_reader() -> None:
    """A header, the ranks side by side, scores in full precision, empty cells for what is not there."""
    text = b"".join([Csv(2).header, Csv(2).row("cat.jpg", ANSWER), Csv(2).row("bad.jpg", BAD)]).decode()
    answered, bad = csv.DictReader(StringIO(text, newline=""))
    assert list(answered) == list(columns(2))
    assert answered["label_1"] == 'tabby, "tiger" cat'
    assert float(answered["score_1"]) == 0.1 + 0.2
    assert (answered["index_2"], answered["release"], answered["error"]) == ("7", "0123456789abcdef", "")
    assert bad["error"] == f"InvalidImage: {BAD}"
    assert {bad[name] for name in columns(2)[1:-1]} == {""}


@each_format
@pytest.mark.parametrize("outcome", [ANSWER, BAD], ids=["answer", "bad"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_whose_it_is(row_format: RowFormat, outcome: Classification | InvalidImage, name: str) -> None:
    """Whatever the path holds: separators, quotes, line breaks, bytes that are not Unicode."""
    row = row_format.row(name, outcome)
    assert row_format.image_of(row) == (row_format.stored_name(name), outcome is BAD)


@each_format
@given(names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=4))
def test_a_file_cut_anywhere_keeps_exactly_its_whole_rows(row_format: RowFormat, names: list[str]) -> None:
    """Of n bytes of a file, those rows are found that ended within them, and nothing else."""
    rows = [row_format.header] if row_format.header else []
    rows += [row_format.row(name, outcome) for name in names for outcome in (ANSWER, BAD)]
    data = b"".join(rows)
    ends = [sum(map(len, rows[: count + 1])) for count in range(len(rows))]
    for size in range(len(data) + 1):
        assert list(whole_rows(BytesIO(data[:size]), row_format)) == rows[: sum(end <= size for end in ends)]


@each_format
@pytest.mark.parametrize("row", [b"\n", b"hello\n", b"[1]\n", b'{"image": 3}\n', b"\0\0\0\n", b'a"b,c\n', b"\xff\n"])
def test_what_is_no_row_is_said_to_be_none(row_format: RowFormat, row: bytes) -> None:
    """A file that something else has written to must not be gone on with."""
    with pytest.raises(ValueError, match=r"."):
        row_format.image_of(row)


def test_parquets_texts_are_unicode() -> None:
    """A path that is not is written with its bytes as escapes."""
    row = FlatJsonLines(2).row(os.fsdecode(b"caf\xe9.jpg"), ANSWER)
    assert json.loads(row)["image"] == r"caf\xe9.jpg"


@given(names=st.lists(st.text(st.sampled_from("\\\\xf\udcff\udc80é"), max_size=8), min_size=2, max_size=2, unique=True))
@example(names=["\udcff\udcfe.jpg", r"\xff\xfe.jpg"])
@example(names=["\udcff", r"\\xff"])
def test_two_files_never_have_one_name_in_parquet(names: list[str]) -> None:
    """The text of an escape is a file's name too, and a row belongs to one file."""
    first, second = (FlatJsonLines(1).stored_name(name) for name in names)
    assert first != second
    assert [json.loads(FlatJsonLines(1).row(name, BAD))["image"] for name in names] == [first, second]


def test_an_ordinary_name_is_not_escaped_in_parquet() -> None:
    """Not even one with a backslash."""
    for name in ("é.jpg", r"a\b.jpg"):
        assert FlatJsonLines(1).stored_name(name) == name
