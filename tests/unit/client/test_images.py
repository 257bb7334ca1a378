"""Image in any form -> PaddleClas's crop, or a clear refusal."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from client import images
from client.contract import Preprocessing
from client.errors import InvalidImage
from client.images import crop_from_rgb, rgb_from_image

CROPS = [(photo, resize, crop) for photo in ("cat", "coffee", "rocket") for resize, crop in ((256, 224), (320, 299))]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opencv(data: bytes) -> np.ndarray:
    """PaddleClas's decoding: cv2.imdecode(data, 1), reversed to RGB."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    """A 1-bit grey PNG of that size, whatever its pixels really are."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def small_bomb() -> bytes:
    """9000 x 9000 white pixels in about 10 KB."""
    return png_of(9000, 9000, zlib.compress((b"\x00" + b"\xff" * 1125) * 9000, 9))


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.fixture(scope="module")
def cat(photos: Path) -> Image.Image:
    return Image.open(photos / "cat.jpg").convert("RGB")


# ---- the right pixels


@pytest.mark.parametrize(("photo", "resize_short", "crop"), CROPS)
def test_a_crop_equals_paddleclas_bit_for_bit(
    photos: Path, crops: dict[str, np.ndarray], photo: str, resize_short: int, crop: int
) -> None:
    """The stored crops were made by PaddleClas's own operators; not one value may differ."""
    rgb = rgb_from_image(photos / f"{photo}.jpg")
    found = crop_from_rgb(rgb, Preprocessing(resize_short, crop, ""))
    expected = crops[f"{photo}_{resize_short}_{crop}"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_every_form_of_one_picture_gives_the_same_pixels(photos: Path) -> None:
    """Path, text, bytes, bytearray, memoryview, file, PIL image and array are one picture."""
    path = photos / "coffee.jpg"
    data = path.read_bytes()
    expected = opencv(data)
    with path.open("rb") as file, Image.open(path) as picture:
        forms = [path, str(path), data, bytearray(data), memoryview(data), file, io.BytesIO(data), picture, expected]
        for form in forms:
            np.testing.assert_array_equal(rgb_from_image(form), expected, err_msg=type(form).__name__)


def jpeg_variants() -> list[tuple[str, dict[str, object], tuple[int, int], str]]:
    plain = [(sub, {"subsampling": sub}, (451, 300), "RGB") for sub in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")]
    odd = [(f"4:2:0 at {size}", {"subsampling": "4:2:0"}, size, "RGB") for size in ((333, 217), (17, 19), (101, 9))]
    progressive = [
        (f"progressive {sub}", {"progressive": True, "subsampling": sub}, (451, 300), "RGB") for sub in (0, 2)
    ]
    others = [("grey", {}, (451, 300), "L"), ("RGB without YCbCr", {"keep_rgb": True}, (451, 300), "RGB")]
    return [*plain, *odd, *progressive, *others, ("quality 30", {"quality": 30}, (451, 300), "RGB")]


@pytest.mark.parametrize(
    ("options", "size", "mode"), [row[1:] for row in jpeg_variants()], ids=[row[0] for row in jpeg_variants()]
)
def test_jpeg_pixels_equal_opencv(
    cat: Image.Image, options: dict[str, object], size: tuple[int, int], mode: str
) -> None:
    """PaddleClas decodes with OpenCV, we with Pillow: the pixels must be the same."""
    data = encoded(cat.resize(size).convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(rgb_from_image(data), opencv(data))


def lossless_variants(cat: Image.Image) -> dict[str, bytes]:
    rgba = cat.copy()
    rgba.putalpha(cat.convert("L"))
    grey16 = np.random.default_rng(1).integers(0, 65_536, (40, 50), dtype=np.uint16)
    colour16 = cv2.imencode(".png", np.repeat(grey16[:, :, None], 3, axis=2)[:, :, ::-1])[1].tobytes()
    palette = cat.quantize(64)
    return {
        "RGB": encoded(cat, "PNG"),
        "grey": encoded(cat.convert("L"), "PNG"),
        "one bit": encoded(cat.convert("1"), "PNG"),
        "palette": encoded(palette, "PNG"),
        "palette with transparency": encoded(palette, "PNG", transparency=bytes(range(64))),
        "RGBA": encoded(rgba, "PNG"),
        "grey with alpha": encoded(cat.convert("LA"), "PNG"),
        "16-bit grey": encoded(Image.fromarray(grey16), "PNG"),
        "16-bit colour": colour16,
        "WEBP": encoded(cat, "WEBP", quality=80),
        "lossless WEBP with alpha": encoded(rgba, "WEBP", lossless=True, exact=True),
    }


def test_png_and_webp_pixels_equal_opencv(cat: Image.Image) -> None:
    """Grey and palette become RGB, alpha is dropped, 16-bit values keep their high byte."""
    for name, data in lossless_variants(cat).items():
        np.testing.assert_array_equal(rgb_from_image(data), opencv(data), err_msg=name)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Half grey stays half grey: Pillow's own conversion would make it white."""
    data = encoded(Image.fromarray(np.full((20, 20), 32_768, dtype=np.uint16)), "PNG")
    assert np.unique(rgb_from_image(data)).tolist() == [128]


def test_cmyk_is_within_one_of_opencv(cat: Image.Image) -> None:
    """The one documented difference in pixels."""
    data = encoded(cat.convert("CMYK"), "JPEG", quality=90)
    difference = np.abs(rgb_from_image(data).astype(int) - opencv(data))
    assert difference.max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_all_eight_exif_orientations_of_one_picture_give_one_picture(cat: Image.Image, form: str) -> None:
    """A photograph is classified as it is seen, however the camera was held."""
    options = {"lossless": True} if form == "WEBP" else {"quality": 90} if form == "JPEG" else {}
    for orientation in range(1, 9):
        data = encoded(cat, form, exif=exif(orientation), **options)
        found = rgb_from_image(data)
        upright = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        # numpy's own words for the eight orientations, independent of Pillow's and of ours
        seen = {
            1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
            5: upright.swapaxes(0, 1), 6: np.rot90(upright, -1), 7: np.rot90(upright, 2).swapaxes(0, 1),
            8: np.rot90(upright, 1),
        }[orientation]  # fmt: skip
        np.testing.assert_array_equal(found, seen, err_msg=str(orientation))
        if form != "WEBP":  # OpenCV 4.11 does not look at WEBP's EXIF block
            np.testing.assert_array_equal(found, opencv(data), err_msg=str(orientation))


def test_an_orientation_that_only_xmp_names_is_ignored_as_opencv_does(cat: Image.Image) -> None:
    """The contract says EXIF; Pillow's own transpose would follow XMP too and differ from PaddleClas."""
    data = encoded(cat, "JPEG", quality=90, xmp=b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>')
    np.testing.assert_array_equal(rgb_from_image(data), opencv(data))


def test_an_unreadable_exif_block_is_ignored_as_opencv_does(cat: Image.Image) -> None:
    """What cannot be read says nothing about the pixels."""
    data = encoded(cat, "WEBP", lossless=True, exif=b"Exif\x00\x00not a TIFF header")
    np.testing.assert_array_equal(rgb_from_image(data), np.asarray(cat))


def test_a_multi_picture_jpeg_is_its_first_picture(cat: Image.Image) -> None:
    """Phones write MPO under the name of JPEG."""
    data = encoded(cat, "MPO", save_all=True, append_images=[cat.rotate(180)])
    np.testing.assert_array_equal(rgb_from_image(data), opencv(data))


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_an_animation_is_its_first_frame(cat: Image.Image, form: str) -> None:
    """Five frames, one answer: the documented rule."""
    frames = [cat.resize((64, 48)).rotate(90 * turn) for turn in range(4)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(rgb_from_image(data), np.asarray(frames[0]))


def test_a_strided_view_is_the_picture_it_shows(cat: Image.Image) -> None:
    """Negative strides and steps are ordinary numpy; BGR reversed to RGB is such a view."""
    array = np.asarray(cat)
    view = array[::-2, ::2, ::-1]
    rule = Preprocessing(320, 299, "")
    np.testing.assert_array_equal(
        crop_from_rgb(rgb_from_image(view), rule), crop_from_rgb(rgb_from_image(view.copy()), rule)
    )


def test_a_pil_image_of_the_caller_is_left_as_it_was(cat: Image.Image) -> None:
    """Reading an image changes nothing of it."""
    picture = Image.open(io.BytesIO(encoded(cat.quantize(64), "PNG", transparency=bytes(64), exif=exif(6))))
    size, keys = picture.size, set(picture.info)
    rgb = rgb_from_image(picture)
    assert rgb.shape == (451, 300, 3)
    assert (picture.size, set(picture.info)) == (size, keys)


@pytest.mark.parametrize("size", [(8, 8), (8, 400), (4000, 30), (321, 320), (320, 320), (299, 299), (1001, 777)])
def test_odd_sizes_give_the_crop_size(size: tuple[int, int]) -> None:
    """Whatever is accepted comes out as crop x crop."""
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert crop_from_rgb(rgb_from_image(array), Preprocessing(320, 299, "")).shape == (299, 299, 3)


# ---- hostile images: facts, section 10, cases 1 to 7; case 8 is in test_sources.py


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\x03random", "00 01 02 03"),
        (b"<!DOCTYPE html><html></html>", "<!DOCTYPE ht"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "<svg"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "RIFF"),
    ],
)
def test_what_is_no_image_is_refused_by_name_size_and_first_bytes(data: bytes, names: str) -> None:
    """Case 1: the message shows what arrived instead of a picture."""
    with pytest.raises(InvalidImage) as caught:
        rgb_from_image(data)
    assert names in str(caught.value)
    assert f"{len(data)} bytes" in str(caught.value)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "PPM", "ICO"])
def test_other_formats_are_refused(cat: Image.Image, form: str) -> None:
    """Case 6: three decoders are reachable, not Pillow's forty."""
    with pytest.raises(InvalidImage, match="not a JPEG, PNG or WEBP"):
        rgb_from_image(encoded(cat.resize((32, 32)), form))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_anywhere_is_refused(cat: Image.Image, form: str) -> None:
    """Case 2: a truncated file is never classified, not even when only its last byte is missing."""
    data = encoded(cat, form)
    for length in [*(len(data) * sixteenth // 16 for sixteenth in range(16)), *range(len(data) - 16, len(data))]:
        with pytest.raises(InvalidImage):
            rgb_from_image(data[:length])


def test_a_small_file_with_81_megapixels_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 3: before a pixel is decoded; a small picture then shows that decoding would have been seen."""
    bomb = small_bomb()
    assert len(bomb) < 50_000
    decoded: list[tuple[int, int]] = []
    load = PngImageFile.load

    def noted_load(image: PngImageFile) -> object:
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", noted_load)
    with pytest.raises(InvalidImage, match=r"9000 x 9000 is 81 Mpx, more than 25 Mpx"):
        rgb_from_image(bomb)
    assert decoded == []
    rgb_from_image(png_of(8, 8, zlib.compress(b"\x00\xff" * 8)))
    assert set(decoded) == {(8, 8)}


def huge_headers() -> dict[str, bytes]:
    jpeg = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    canvas = struct.pack("<I", 16_000 - 1)[:3]
    webp = bytearray(encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 4)), "WEBP", exif=exif(1)))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = canvas + canvas
    return {"PNG": png_of(20_000, 20_000, b""), "JPEG": bytes(jpeg), "WEBP": bytes(webp)}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_header_of_hundreds_of_megapixels_is_refused(form: str) -> None:
    """Case 3 for each decoder."""
    with pytest.raises(InvalidImage):
        rgb_from_image(huge_headers()[form])


def test_refusing_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Case 3: the peak of a process of its own grows by less than 20 MB."""
    paths = {"bomb": small_bomb(), **huge_headers()}
    for name, data in paths.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import resource, sys\n"
        "from client.errors import InvalidImage\n"
        "from client.images import rgb_from_image\n"
        "peak_kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak_kib()\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        rgb_from_image(path)\n"
        "    except InvalidImage:\n"
        "        continue\n"
        "    sys.exit(path + ' was accepted')\n"
        "print(peak_kib() - before)\n"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 20 * 1024


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (7, 100)])
def test_a_side_below_the_minimum_is_refused(size: tuple[int, int]) -> None:
    """Case 6: below that, the interpolation would be classified."""
    with pytest.raises(InvalidImage, match=f"at least {images.MIN_SIDE}"):
        rgb_from_image(encoded(Image.new("RGB", size), "PNG"))


def test_a_strip_that_would_be_enlarged_to_a_gigapixel_is_refused() -> None:
    """The pixel limit holds for the resized picture too."""
    strip = rgb_from_image(np.zeros((8, 100_000, 3), dtype=np.uint8))
    with pytest.raises(InvalidImage, match="4000000 x 320"):
        crop_from_rgb(strip, Preprocessing(320, 299, ""))


@pytest.mark.parametrize(
    "array",
    [
        np.full((30, 30, 3), np.nan, dtype=np.float32),
        np.full((30, 30, 3), np.inf),
        np.zeros((30, 30), dtype=np.uint8),
        np.zeros((30, 30, 4), dtype=np.uint8),
        np.zeros((3, 30, 30), dtype=np.uint8),
        np.zeros((1, 1, 30, 30, 3), dtype=np.uint8),
        np.zeros((30, 30, 3), dtype=np.int64),
        np.zeros((0, 30, 3), dtype=np.uint8),
        np.array("cat.jpg"),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_that_is_no_uint8_rgb_picture_is_refused(array: np.ndarray) -> None:
    """Case 7: nothing is guessed about ranges, axes or channels."""
    with pytest.raises(InvalidImage):
        rgb_from_image(array)


@pytest.mark.parametrize("thing", [None, 7, ["cat.jpg"], {"path": "cat.jpg"}])
def test_what_cannot_be_an_image_is_refused_with_what_can(thing: object) -> None:
    """The message lists the accepted forms."""
    with pytest.raises(InvalidImage, match="expected a path, the bytes"):
        rgb_from_image(thing)


def test_a_pil_image_with_an_unknown_range_is_refused() -> None:
    """Floating-point and 32-bit pixels say nothing about what is white."""
    for mode in ("F", "I"):
        with pytest.raises(InvalidImage, match="convert it to RGB"):
            rgb_from_image(Image.new(mode, (20, 20)))


def samples() -> list[bytes]:
    picture = Image.effect_noise((40, 30), 60).convert("RGB")
    return [encoded(picture, form, exif=exif(6)) for form in ("JPEG", "PNG", "WEBP")]


SAMPLES = samples()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(
    sample: bytes, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever the bytes, no other exception leaves this module."""
    damaged = bytearray(sample[: data.draw(st.integers(0, len(sample)))] if data.draw(st.booleans()) else sample)
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    try:
        rgb = rgb_from_image(bytes(damaged))
    except InvalidImage:
        return
    assert (rgb.dtype, rgb.ndim, rgb.shape[2]) == (np.uint8, 3, 3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\x00\x00\x00WEBP"])
)
def test_random_bytes_are_refused(tail: bytes, start: bytes) -> None:
    """Case 1, at random, with and without a promising start."""
    with pytest.raises(InvalidImage):
        rgb_from_image(start + tail)


# ---- images that the caller made


def test_one_lazily_opened_image_may_be_many_threads(cat: Image.Image) -> None:
    """Pillow loads an image when it is first looked at, and does not expect two to look: all get the same pixels."""
    data = encoded(cat, "PNG")
    expected = rgb_from_image(data)
    together = Barrier(8)

    def pixels(picture: Image.Image) -> np.ndarray:
        together.wait()
        return rgb_from_image(picture)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(100):
            picture = Image.open(io.BytesIO(data))
            for rgb in pool.map(pixels, [picture] * 8):
                assert np.array_equal(rgb, expected)


def test_a_process_forked_while_an_image_is_loaded_can_load_its_own() -> None:
    """The lock that its parent held is not its."""
    script = (
        "import os, threading\n"
        "from PIL import Image\n"
        "from client.images import rgb_from_image\n"
        "loading, go_on = threading.Event(), threading.Event()\n"
        "class Slow(Image.Image):\n"
        "    def load(self):\n"
        "        loading.set(); go_on.wait()\n"
        "        return super().load()\n"
        "slow = Slow(); slow.__dict__.update(Image.new('RGB', (20, 20)).__dict__)\n"
        "thread = threading.Thread(target=rgb_from_image, args=(slow,)); thread.start()\n"
        "loading.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    rgb_from_image(Image.new('RGB', (20, 20)))\n"
        "    os._exit(7)\n"
        "alarm = threading.Timer(20, os.kill, (child, 9)); alarm.start()\n"
        "status = os.waitpid(child, 0)[1]; alarm.cancel()\n"
        "go_on.set(); thread.join()\n"
        "print(os.waitstatus_to_exitcode(status))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "7\n", done.stderr


def test_a_pil_image_whose_file_was_closed_is_refused(cat: Image.Image, tmp_path: Path) -> None:
    """As by `with Image.open(...)`, left before the image was looked at."""
    (tmp_path / "cat.png").write_bytes(encoded(cat, "PNG"))
    with Image.open(tmp_path / "cat.png") as picture:
        pass
    with pytest.raises(InvalidImage):
        rgb_from_image(picture)


@pytest.mark.parametrize("error", [AssertionError(), AttributeError("'NoneType' object has no attribute 'read'")])
def test_what_a_pil_image_raises_when_it_loads_is_a_refusal(error: Exception) -> None:
    """Pillow asserts that nobody closed its file; the message asks for it."""

    class Closed(Image.Image):
        def load(self) -> None:
            raise error

    picture = Closed()
    picture.__dict__.update(Image.new("RGB", (20, 20)).__dict__)
    with pytest.raises(InvalidImage, match="was its file closed"):
        rgb_from_image(picture)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: the extra builder")
def test_a_tensor_without_plain_pixels_is_refused() -> None:
    """One on the meta device has none at all, and a sparse one only some. Torch stays out of this process."""
    script = (
        "import torch\n"
        "from client.errors import InvalidImage\n"
        "from client.images import rgb_from_image\n"
        "pixels = torch.zeros((3, 20, 20), dtype=torch.uint8)\n"
        "for tensor in (pixels, pixels.to('meta'), pixels.to_sparse()):\n"
        "    try:\n"
        "        print(rgb_from_image(tensor).shape)\n"
        "    except InvalidImage as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    dense, *others = done.stdout.splitlines()
    assert dense == "(20, 20, 3)"
    assert ["has no pixels to copy" in other for other in others] == [True, True]
