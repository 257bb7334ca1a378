"""Bounded reading of paths, bytes and file objects."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path

import pytest

from client import sources
from client.errors import InvalidImage
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
