"""Label files: one label a class, or a clear refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.errors import LabelsRejected
from builder.labels import labels_for


def _file(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_default_is_imagenet_in_paddleclas_order() -> None:
    """1000 names without indices; the two cranes, a bird and a machine, keep their places."""
    labels = labels_for(1000)
    assert len(labels) == 1000
    assert labels[0] == "tench, Tinca tinca"
    assert labels[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert [index for index, label in enumerate(labels) if label == "crane"] == [134, 517]


def test_another_number_of_classes_needs_a_file() -> None:
    """ImageNet's names are never put on a head they do not belong to."""
    with pytest.raises(LabelsRejected, match=r"5 classes.*--labels"):
        labels_for(5)


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\nEule, große\n",
        "cat\ndog\nEule, große",
        "cat\r\ndog\r\nEule, große\r\n",
        "\ufeffcat\ndog\nEule, große\n",
    ],
)
def test_one_label_a_line_in_utf_8(tmp_path: Path, content: str) -> None:
    """With or without a last line end, with either line end, with or without a byte order mark."""
    assert labels_for(3, _file(tmp_path, content)) == ["cat", "dog", "Eule, große"]


def test_indices_on_every_line_are_taken_off(tmp_path: Path) -> None:
    """PaddleClas's own lists look like this."""
    assert labels_for(3, _file(tmp_path, "0 cat\n1 dog, hound\n2  2 owls\n")) == ["cat", "dog, hound", "2 owls"]


@pytest.mark.parametrize("content", ["0 cat\n2 dog\n", "1 cat\n2 dog\n", "0 cat\ndog\n", "00 cat\n01 dog\n", "0\n1\n"])
def test_numbers_that_are_no_indices_belong_to_the_labels(tmp_path: Path, content: str) -> None:
    """Only 0, 1, 2, ... on all lines is an index; nothing is guessed from part of a file."""
    assert labels_for(2, _file(tmp_path, content)) == content.split("\n")[:2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cat\ndog\n", "2 labels.*3 classes"),
        ("a\nb\nc\nd\n", "4 labels.*3 classes"),
        ("", "0 labels.*3 classes"),
        ("\n", "line 1 is blank"),
        ("cat\n\ndog\n", "line 2 is blank"),
        ("cat\ndog\nowl\n\n", "line 4 is blank"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"cat\ndog\x00\nowl\n", "line 2 has a control character"),
        ("cat\n" * 2_000_000, "more than"),
    ],
)
def test_a_file_that_does_not_fit_the_head_is_refused(tmp_path: Path, content: str | bytes, expected: str) -> None:
    """Wrong length (both numbers are told), blank lines, binary content, a file of another kind."""
    path = _file(tmp_path, content)
    with pytest.raises(LabelsRejected, match=expected) as caught:
        labels_for(3, path)
    assert str(path) in str(caught.value)


def test_a_path_without_a_regular_file_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, a pipe that would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        with pytest.raises(LabelsRejected, match="no such file"):
            labels_for(3, path)
