"""PATH arguments -> the paths of images."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest

from client.errors import InvalidRequest
from client.image_paths import MAX_PATH_BYTES, ImagePaths

JPEG_START = b"\xff\xd8\xff\xe0 and so on"


def found(*arguments: str, is_recursive: bool = False, stdin: bytes = b"", separator: bytes = b"\n") -> list[str]:
    return list(ImagePaths(arguments, is_recursive=is_recursive, stdin=BytesIO(stdin), separator=separator))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images and other things at two levels."""
    for name in ("b.JPG", "a.png", "c.heic", "notes.txt", ".hidden.jpg", "sub/d.webp", "sub/deep/e.jpeg", "z/f.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "photos" / "without_ending").write_bytes(JPEG_START)
    (tmp_path / "photos" / "README").write_bytes(b"not an image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_a_directory_means_its_own_images_sorted(folder: Path) -> None:
    """By the ending, whatever its case, or by the first bytes where there is none; the rest is counted."""
    paths = ImagePaths(["photos"], is_recursive=False, stdin=None)
    assert list(paths) == ["photos/a.png", "photos/b.JPG", "photos/c.heic", "photos/without_ending"]
    assert paths.other_files == 3
    assert paths.other_directories == 2


def test_recursive_goes_down_in_a_fixed_order(folder: Path) -> None:
    """A directory's files come before its subdirectories', so that two runs see the same order."""
    paths = ImagePaths(["photos/"], is_recursive=True, stdin=None)
    names = list(paths)
    assert names[:4] == ["photos/a.png", "photos/b.JPG", "photos/c.heic", "photos/without_ending"]
    assert names[4:] == ["photos/sub/d.webp", "photos/sub/deep/e.jpeg", "photos/z/f.jpg"]
    assert paths.other_directories == 0


def test_a_loop_of_links_ends_and_repeats_nothing(folder: Path) -> None:
    """Each directory once, whatever leads to it."""
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "z" / "again").symlink_to(folder / "sub")
    names = found("photos", "photos", is_recursive=True)
    assert len(names) == 7
    assert len({Path(name).resolve() for name in names}) == 7


def test_a_tree_deeper_than_pythons_stack_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may have two thousand parts."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        Path("d").mkdir()
        os.chdir("d")
    Path("a.jpg").write_bytes(b"x")
    os.chdir(tmp_path)
    try:
        assert found("d", is_recursive=True) == ["d/" * 1200 + "a.jpg"]
    finally:  # what removes the directories of tests cannot go that deep
        Path("d/" * 1200 + "a.jpg").unlink()
        for depth in range(1200, 0, -1):
            Path("d/" * depth).rmdir()


def test_a_named_file_is_always_tried(folder: Path) -> None:
    """Even one that is hidden, no image by its name, or not there: its error says so."""
    names = ["photos/notes.txt", "photos/.hidden.jpg", "missing.jpg", "http://host/a.jpg"]
    assert found(*names) == names


def test_a_dash_reads_paths(folder: Path) -> None:
    """One a line, or ended by NUL; empty ones do not count, the last needs no end; directories are looked into."""
    assert found("x.jpg", "-", stdin=b"a b.jpg\n\nc.jpg") == ["x.jpg", "a b.jpg", "c.jpg"]
    assert found("-", stdin=b"a\nb.jpg\0\0c.jpg\0", separator=b"\0") == ["a\nb.jpg", "c.jpg"]
    assert found("-", stdin=b"photos/z\n") == ["photos/z/f.jpg"]
    assert found("-", stdin=b"") == []


def test_a_path_keeps_its_bytes(folder: Path) -> None:
    """Names need not be UTF-8."""
    assert found("-", stdin=b"caf\xe9.jpg\n") == [os.fsdecode(b"caf\xe9.jpg")]


def test_an_image_on_standard_input_is_told_from_paths() -> None:
    """`cat photo.jpg | ... classify -` says what was expected instead of filling the memory."""
    with pytest.raises(InvalidRequest, match="one a line"):
        found("-", stdin=b"\xff\xd8\xff" * MAX_PATH_BYTES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_directory_that_may_not_be_read_is_an_error_of_its_own(folder: Path) -> None:
    """The others' images are found."""
    (folder / "sub").chmod(0)
    try:
        paths = ImagePaths(["photos"], is_recursive=True, stdin=None)
        assert "photos/z/f.jpg" in list(paths)
    finally:
        (folder / "sub").chmod(0o755)
    assert [str(error) for error in paths.unreadable] == ["photos/sub cannot be read: Permission denied"]


def test_a_pipe_in_a_directory_is_not_waited_for(folder: Path) -> None:
    """Nothing is opened to look at its first bytes but a regular file."""
    os.mkfifo(folder / "pipe")
    assert "photos/pipe" not in found("photos")


def test_a_list_with_windows_ends_of_line_is_read(folder: Path) -> None:
    """Unless a file's name does end in a carriage return; a list that NULs end is taken as it is."""
    assert found("-", stdin=b"photos/a.png\r\n\r\nmissing.jpg\r\nlast.jpg\r") == [
        "photos/a.png",
        "missing.jpg",
        "last.jpg",
    ]
    (folder / "odd\r").touch()
    assert found("-", stdin=b"photos/odd\r\n") == ["photos/odd\r"]
    assert found("-", stdin=b"a.jpg\r\0", separator=b"\0") == ["a.jpg\r"]
