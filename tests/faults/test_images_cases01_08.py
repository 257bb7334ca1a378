"""Cases 1 to 8 through the front door: what is no picture costs no connection, what is one gets its answer.

`tests/unit/client/test_images.py` holds the rules picture by picture; here a user calls `classify`.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import InvalidImage, UnreadableImage

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
AT_ONCE_S = 2.0


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Its right upper part is bright, in whatever mode it is kept; turned, another part is."""
    pixels = np.full((320, 320, 3), 60, np.uint8)
    pixels[::2, :, :] = 50
    pixels[40:120, 200:280] = 250
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A 1-bit PNG of that size, without its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def no_pictures(picture: Image.Image, folder: Path) -> Iterator[tuple[str, Any]]:
    """Cases 1, 2, 3, 6, 7 and 8, each with its name."""
    yield from {
        "nothing": b"",
        "random": bytes(range(256)) * 4,
        "html": b"<!doctype html><p>404</p>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "bomb": png_header(9_000, 9_000),
        "larger bomb": png_header(20_000, 20_000),
        "gif": encoded(picture, "GIF"),
        "tiff": encoded(picture, "TIFF"),
        "1 x 1": encoded(picture.resize((1, 1)), "PNG"),
        "1 x 20000": encoded(picture.resize((1, 20_000)), "PNG"),
        "floats": np.full((64, 64, 3), 0.5),
        "not a number": np.full((64, 64, 3), np.nan, np.float32),
        "five axes": np.zeros((1, 1, 64, 64, 3), np.uint8),
        "planes first": np.zeros((3, 64, 64), np.uint8),
        "a number": 7,
        "a directory": folder,
        "missing": folder / "missing.jpg",
    }.items()
    for form in ("JPEG", "PNG"):
        whole = encoded(picture, form)
        for sixteenth in range(1, 16):
            yield f"{form} cut at {sixteenth}/16", whole[: len(whole) * sixteenth // 16]
    fifo, huge = folder / "fifo.jpg", folder / "huge.jpg"
    os.mkfifo(fifo)
    with huge.open("wb") as file:
        file.write(encoded(picture, "JPEG"))
        file.truncate(1 << 30)  # sparse: it takes no room
    yield "a FIFO that nobody writes", fifo
    yield "a file of 1 GB", huge


def test_what_is_no_picture_is_refused_at_once_and_opens_no_connection(
    connect: Any, address: Callable[..., Any], picture: Image.Image, tmp_path: Path
) -> None:
    """Cases 1 to 3 and 6 to 8: each an `InvalidImage`, in no time, and nobody has called at the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        caller = connect(address(host, f"http://{host}", "token"), timeout_s=5.0)
        for name, image in no_pictures(picture, tmp_path):
            started_s = time.monotonic()
            error = caller.start("classify", image, MODEL).exception(30)
            assert type(error) is (UnreadableImage if name == "missing" else InvalidImage), f"{name}: {error!r}"
            assert time.monotonic() - started_s < AT_ONCE_S, name
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_fifo_that_somebody_writes_is_refused_too(connect: Any, obedient: Any, tmp_path: Path) -> None:
    """Case 8: the read is bounded by what the path is, not by who writes to it."""
    fifo = tmp_path / "fifo.jpg"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        caller = connect(obedient)
        with pytest.raises(InvalidImage):
            caller.classify(fifo, MODEL)
    finally:
        os.close(descriptor)


def test_a_strip_is_refused_when_the_model_has_said_its_size(connect: Any, obedient: Any) -> None:
    """Case 6: 8 x 100000 would be resized to a gigapixel; which size that is, only the model's contract says."""
    with pytest.raises(InvalidImage, match="less extreme shape"):
        connect(obedient).classify(np.zeros((8, 100_000, 3), np.uint8), MODEL)


def test_every_mode_of_one_picture_gets_the_same_answer(connect: Any, obedient: Any, picture: Image.Image) -> None:
    """Case 4: 16-bit grey, CMYK, RGBA, palette, grey with alpha and 1-bit are the picture that its RGB PNG is."""
    sixteen_bit = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    forms = {
        "RGB": encoded(picture, "PNG"),
        "16-bit grey": encoded(sixteen_bit, "PNG"),
        "CMYK": encoded(picture.convert("CMYK"), "JPEG", quality=95),
        "RGBA": encoded(picture.convert("RGBA"), "PNG"),
        "palette": encoded(picture.convert("P"), "PNG"),
        "grey and alpha": encoded(picture.convert("LA"), "PNG"),
        "1-bit": encoded(picture.convert("1", dither=Image.Dither.NONE), "PNG"),
        "WEBP": encoded(picture, "WEBP", lossless=True),
    }
    caller = connect(obedient)
    answers = {name: caller.classify(data, MODEL).best.index for name, data in forms.items()}
    assert set(answers.values()) == {answers["RGB"]}, answers
    assert answers["RGB"] > 256


def test_every_orientation_of_one_picture_gets_the_same_answer(
    connect: Any, obedient: Any, picture: Image.Image
) -> None:
    """Case 5: EXIF 1 to 8; the answer of the model depends on where the bright part is."""
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    caller, answers = connect(obedient), set()
    for orientation, method in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = picture if method is None else picture.transpose(method)
        answers.add(caller.classify(encoded(stored, "PNG", exif=exif.tobytes()), MODEL).best.index)
    assert answers == {caller.classify(picture, MODEL).best.index}
    assert answers != {caller.classify(picture.transpose(Image.Transpose.ROTATE_90), MODEL).best.index}


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_gets_the_answer_of_its_first_frame(
    connect: Any, obedient: Any, picture: Image.Image, form: str
) -> None:
    """Case 6: the documented rule."""
    others = [picture.rotate(90 * quarter) for quarter in (1, 2, 3)]
    moving = encoded(picture, form, save_all=True, append_images=others, lossless=True)
    caller = connect(obedient)
    assert caller.classify(moving, MODEL).best.index == caller.classify(picture, MODEL).best.index


def test_a_strided_view_gets_the_answer_of_what_it_shows(connect: Any, obedient: Any, picture: Image.Image) -> None:
    """Case 7: negative steps are ordinary numpy."""
    mirrored = np.asarray(picture)[:, ::-1, ::-1][:, ::-1, ::-1]
    caller = connect(obedient)
    assert not mirrored.flags.owndata
    assert caller.classify(mirrored[::-1], MODEL).best.index != caller.classify(picture, MODEL).best.index
    assert caller.classify(mirrored, MODEL).best.index == caller.classify(picture, MODEL).best.index


def test_threads_that_refuse_pictures_hold_up_nobody(connect: Any, obedient: Any) -> None:
    """Bad pictures from many threads at once; a good one among them is answered."""
    caller = connect(obedient)
    bad = [caller.start("classify", b"no picture", MODEL) for _ in range(50)]
    good = caller.start("classify", np.full((64, 64, 3), 33, np.uint8), MODEL)
    assert {type(call.exception(20)) for call in bad} == {InvalidImage}
    assert good.result(20).best.index == 33
    assert threading.active_count() < 100
