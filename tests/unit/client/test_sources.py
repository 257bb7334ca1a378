"""Bounded reading of paths, bytes and file objects."""

from __future__ import annotations

import errno
import gzip
import io
import os
import resource
import socket
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client import sources
from client.errors import InvalidImage, UnreadableImage
from client.images import rgb_from_image


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """Case 8."""
    with pytest.raises(InvalidImage, match="is a directory"):
        rgb_from_image(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Case 8."""
    with pytest.raises(InvalidImage, match=r"missing\.jpg cannot be opened: No such file"):
        rgb_from_image(tmp_path / "missing.jpg")


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Case 8: opening one would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe")
    refused: list[str] = []

    def read() -> None:
        with pytest.raises(InvalidImage) as caught:
            rgb_from_image(tmp_path / "pipe")
        refused.append(str(caught.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert refused
    assert "is a named pipe" in refused[0]


def test_a_socket_and_a_device_are_refused(tmp_path: Path) -> None:
    """Case 8: /dev/zero never ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        for path in (tmp_path / "s", "/dev/zero"):
            with pytest.raises(InvalidImage):
                rgb_from_image(path)


def test_a_file_of_a_gigabyte_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 8: by its size, without reading it; a small file then shows that reading would have been seen."""
    opened_for_reading: list[int] = []
    fdopen = os.fdopen

    def noted_fdopen(descriptor: int, *args: object, **options: object) -> object:
        opened_for_reading.append(descriptor)
        return fdopen(descriptor, *args, **options)

    monkeypatch.setattr(os, "fdopen", noted_fdopen)
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InvalidImage, match="1,073,741,824 bytes or more, at most 33,554,432"):
        rgb_from_image(tmp_path / "large.jpg")
    assert opened_for_reading == []
    (tmp_path / "small.jpg").write_bytes(b"no picture")
    with pytest.raises(InvalidImage, match="not a JPEG, PNG or WEBP"):
        rgb_from_image(tmp_path / "small.jpg")
    assert len(opened_for_reading) == 1


def test_an_endless_file_object_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file object has no size to ask for."""
    monkeypatch.setattr(sources, "MAX_ENCODED_BYTES", 4096)

    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0
            self.taken += size
            return b"\xff" * size

    endless = Endless()
    with pytest.raises(InvalidImage, match="at most 4,096"):
        rgb_from_image(endless)
    assert endless.taken == 4097


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limit for bytes in memory."""
    monkeypatch.setattr(sources, "MAX_ENCODED_BYTES", 4096)
    with pytest.raises(InvalidImage, match="4,097 bytes or more"):
        rgb_from_image(b"\xff" * 4097)


def test_a_text_file_and_a_closed_file_are_refused(photos: Path) -> None:
    """Both are mistakes that deserve their own words."""
    with pytest.raises(InvalidImage, match="binary mode"):
        rgb_from_image(io.StringIO("text"))
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(InvalidImage, match="cannot be read"):
        rgb_from_image(closed)


def test_a_url_is_refused_and_not_fetched() -> None:
    """A client that fetches URLs can be sent to addresses only it can reach."""
    with pytest.raises(InvalidImage, match="is a URL"):
        rgb_from_image("http://127.0.0.1:9/cat.jpg")


def test_image_data_passed_as_text_is_not_echoed() -> None:
    """Base64 for a path is a common slip; the message stays readable."""
    with pytest.raises(InvalidImage) as caught:
        rgb_from_image("iVBORw0KGgo" * 10_000)
    assert len(str(caught.value)) < 400


def test_no_descriptor_is_left_open_by_a_refusal(tmp_path: Path) -> None:
    """A service that is sent a thousand wrong paths must not run out of descriptors."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        with pytest.raises(InvalidImage):
            rgb_from_image(tmp_path)
    assert len(list(descriptors.iterdir())) == before


def test_what_this_machine_cannot_read_now_is_told_from_what_is_no_image(tmp_path: Path) -> None:
    """A missing file, a failing disk, no descriptors left: nothing is said of the image."""
    (tmp_path / "cat.png").write_bytes(b"whatever it is")
    for path in (tmp_path / "missing.png", "/proc/self/mem"):  # a read of the latter is an I/O error
        with pytest.raises(UnreadableImage):
            rgb_from_image(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(UnreadableImage, match="Too many open files"):
            rgb_from_image(tmp_path / "cat.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_name_that_cannot_be_an_images_is_no_matter_of_the_moment(tmp_path: Path) -> None:
    """A directory, a file taken for one, a loop of links, a name that is too long or has a NUL."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in (".", "file/cat.jpg", "loop", "x" * 300, "a\0b"):
        with pytest.raises(InvalidImage) as caught:
            rgb_from_image(f"{tmp_path}/{name}")
        assert type(caught.value) is InvalidImage


def test_no_memory_left_is_no_damage(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    """While reading as while decoding; the message names the file."""

    def exhausted(*_: object) -> None:
        raise MemoryError

    class Large(io.BytesIO):
        read = exhausted

    with pytest.raises(UnreadableImage, match="Large given: not enough memory"):
        rgb_from_image(Large())
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", exhausted)
    with pytest.raises(UnreadableImage, match=r"cat\.jpg: not enough memory"):
        rgb_from_image(photos / "cat.jpg")


def test_whatever_a_file_object_raises_is_a_refusal(photos: Path) -> None:
    """Archives have exceptions of their own; a member that is damaged is a bad image, not the end of a run."""
    data = (photos / "cat.jpg").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cat.jpg", data)
    damaged = bytearray(packed.getvalue())
    damaged[len(damaged) // 2] ^= 1
    zipped = gzip.compress(data)
    with (
        zipfile.ZipFile(io.BytesIO(bytes(damaged))) as archive,
        archive.open("cat.jpg") as member,
        gzip.open(io.BytesIO(zipped[:-20])) as cut,
        gzip.open(io.BytesIO(data)) as not_zipped,
    ):
        for file in (member, cut, not_zipped):
            with pytest.raises(InvalidImage) as caught:
                rgb_from_image(file)
            assert type(caught.value) is InvalidImage
            assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (zlib.error("bad"), InvalidImage),
        (RuntimeError(), InvalidImage),
        (OSError(errno.EIO, "Input/output error"), UnreadableImage),
        (TimeoutError("timed out"), UnreadableImage),
        (io.UnsupportedOperation("not readable"), InvalidImage),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda each: getattr(each, "__name__", None) or repr(each),
)
def test_the_reason_of_a_file_object_decides(raised: BaseException, expected: type[BaseException]) -> None:
    """The machine's is told from the data's; Ctrl-C is neither."""

    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise raised

    with pytest.raises(expected) as caught:
        rgb_from_image(Failing())
    assert type(caught.value) is expected


def test_a_path_that_does_not_say_its_name_is_refused() -> None:
    """`__fspath__` may be anybody's."""

    class Broken(os.PathLike[str]):
        def __fspath__(self) -> str:
            raise LookupError("no such record")

    with pytest.raises(InvalidImage, match=r"Broken given does not say its path.*no such record"):
        rgb_from_image(Broken())


def test_a_pipe_that_gives_a_part_at_a_time_is_read_to_its_end() -> None:
    """An unbuffered read returns what is there: a picture larger than the pipe comes in several."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 64 * 1024
    reader, writer = os.pipe()

    def fill() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(buffer.getvalue())

    thread = threading.Thread(target=fill)
    thread.start()
    with os.fdopen(reader, "rb", buffering=0) as file:
        np.testing.assert_array_equal(rgb_from_image(file), picture)
    thread.join()


def test_a_pipe_with_nothing_in_it_yet_is_named_as_such() -> None:
    """Where it does not wait: that is no text file."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with (
        os.fdopen(reader, "rb", buffering=0) as file,
        os.fdopen(writer, "wb"),
        pytest.raises(UnreadableImage, match="nothing to read at this moment"),
    ):
        rgb_from_image(file)


def test_a_file_object_at_its_end_says_how_to_go_back(photos: Path) -> None:
    """Whoever has just written a picture into a buffer forgets it."""
    buffer = io.BytesIO((photos / "cat.jpg").read_bytes())
    rgb_from_image(buffer)
    with pytest.raises(InvalidImage, match=r"seek\(0\)"):
        rgb_from_image(buffer)
