"""An image in any accepted form -> the uint8 RGB crop a model is sent, bit for bit as PaddleClas makes it.

    path, bytes, file object   -> decode --.
    PIL image                  -> convert -+-> RGB uint8 [H, W, 3] -> resize the short side -> central crop
    numpy array, torch tensor  -> check ---'

The rules, each as PaddleClas's `cv2.imdecode(data, 1)` has it, except where said:

- JPEG, PNG and WEBP, told by content; the first frame of an animation.
- The EXIF orientation is applied (for WEBP too, where OpenCV 4.11 ignores it); an unreadable EXIF block is ignored.
- Grey and palette pictures become RGB; alpha is dropped, so hidden colours show; 16-bit values keep their high byte.
- CMYK is converted by Pillow, which is within 1 of OpenCV. Colour profiles are not applied.
- A truncated file is refused. Damage within the compressed data of a whole JPEG cannot be seen.

Pillow decodes, because only there can formats be limited and sizes be checked from the header; its pixels equal
OpenCV's on JPEG (4:4:4, 4:2:2, 4:2:0, 4:1:1, grey, progressive), PNG and WEBP, which tests hold.
"""

from __future__ import annotations

import os
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from client.contract import Preprocessing
from client.errors import InvalidImage, UnreadableImage
from client.sources import (
    MAX_SHOWN_NAME,
    Encoded,
    encoded_from_bytes,
    encoded_from_file,
    encoded_from_path,
    reading_failed,
)

MAX_PIXELS = 25_000_000  # checked from the header before decoding: 75 MB of RGB
MAX_RESIZED_PIXELS = 25_000_000  # a 10 x 100000 strip would otherwise be enlarged to a gigapixel
MIN_SIDE = 8  # pixels; below that, what is classified is the interpolation

Rgb: TypeAlias = npt.NDArray[np.uint8]


class TensorLike(Protocol):
    """A torch tensor, as far as it is looked at: the client never imports torch."""

    @property
    def ndim(self) -> int: ...
    def detach(self) -> Any: ...
    def cpu(self) -> Any: ...


ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any] | TensorLike
)

_FORMATS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
)
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
_DIRECT_MODES = {"1", "L", "LA", "RGBA", "RGBX", "CMYK", "YCbCr"}
_PALETTE_MODES = {"P", "PA"}
_SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on bad input (found by fuzzing). `Warning` is there for programs that turn warnings into
# errors: Pillow warns of a damaged EXIF block.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Warning,
)
# What a caller's image raises besides, where its file was closed, or is read by another thread.
_LAZY_ERRORS = (AssertionError, AttributeError)


class _OneAtATime:
    """Lets one thread at a time into a caller's PIL image: it may be several threads', and loads itself when it is
    first looked at, which Pillow does not guard. A forked child begins with a lock of its own.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def rgb(self, image: Image.Image) -> Rgb:
        """The pixels of `image`."""
        with self._lock:
            return _rgb_from_pil(image, "the PIL image given")


_callers_images = _OneAtATime()


def rgb_from_image(image: ImageLike) -> Rgb:
    """The picture as uint8 RGB [height, width, 3], by the rules above; needs no server. Raises `InvalidImage`."""
    try:
        return _rgb_from_any(image)
    except MemoryError as error:
        name = str(image)[:MAX_SHOWN_NAME] if isinstance(image, str | Path) else f"the {type(image).__name__} given"
        raise UnreadableImage(f"{name}: not enough memory is left to read or decode it") from error


def _rgb_from_any(image: ImageLike) -> Rgb:
    if isinstance(image, np.ndarray):
        return _rgb_from_array(image)
    if _is_tensor(image):
        return _rgb_from_tensor(image)
    if isinstance(image, Image.Image):
        return _callers_images.rgb(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return _rgb_from_encoded(encoded_from_bytes(image))
    if isinstance(image, str | os.PathLike):
        return _rgb_from_encoded(encoded_from_path(image))
    if callable(getattr(image, "read", None)):
        return _rgb_from_encoded(encoded_from_file(cast(BinaryIO, image)))
    raise InvalidImage(
        f"an image cannot be a {type(image).__name__}; expected a path, the bytes of a JPEG, PNG or WEBP file, "
        "a binary file object, a PIL image, or a uint8 RGB array or torch tensor"
    )


def is_pixels(image: ImageLike) -> bool:
    """Whether an image needs no decoding."""
    return isinstance(image, np.ndarray) or _is_tensor(image)


def crop_from_rgb(rgb: Rgb, preprocessing: Preprocessing) -> Rgb:
    """The uint8 RGB crop that a model is sent, [crop, crop, 3]; see `crop_into`."""
    crop = np.empty((preprocessing.crop, preprocessing.crop, 3), dtype=np.uint8)
    crop_into(crop, rgb, preprocessing)
    return crop


def crop_into(out: Rgb, rgb: Rgb, preprocessing: Preprocessing) -> None:
    """Write into `out` the central crop x crop pixels of `rgb` after its short side was resized to `resize_short`.

    PaddleClas, deploy/python/preprocess.py: ResizeImage (bilinear, no antialiasing, sizes by
    Python's round) and CropImage (offsets rounded down). Raises `InvalidImage` for a picture too long to resize.
    """
    height, width = rgb.shape[:2]
    ratio = float(preprocessing.resize_short) / min(width, height)
    new_width, new_height = round(width * ratio), round(height * ratio)
    if new_width * new_height > MAX_RESIZED_PIXELS:
        raise InvalidImage(
            f"a picture of {width} x {height} would be resized to {new_width} x {new_height}, more than "
            f"{MAX_RESIZED_PIXELS / 1e6:g} Mpx: cut it to a less extreme shape"
        )
    resized = rgb
    if (new_width, new_height) != (width, height):
        resized = cast(Rgb, cv2.resize(rgb, (new_width, new_height), interpolation=cv2.INTER_LINEAR))
    size = preprocessing.crop
    top, left = (new_height - size) // 2, (new_width - size) // 2
    out[...] = resized[top : top + size, left : left + size]


def _is_tensor(image: object) -> bool:
    """Whether it is a torch tensor, told without importing torch."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(image).__mro__)


def _rgb_from_tensor(tensor: Any) -> Rgb:
    """Torch keeps the colour axis first; a tensor that has it last only is taken as it is."""
    if str(tensor.dtype) != "torch.uint8" or tensor.ndim != 3 or 3 not in (tensor.shape[0], tensor.shape[2]):
        raise InvalidImage(
            f"the tensor given is {tensor.dtype} of shape {tuple(tensor.shape)}; expected torch.uint8 RGB of shape "
            "(3, height, width), or (height, width, 3): scale to 0..255 and call .to(torch.uint8)"
        )
    try:
        array = tensor.detach().cpu().numpy()
    except MemoryError:
        raise
    except Exception as error:  # torch raises several kinds for tensors without plain pixels
        raise InvalidImage(
            f"the tensor given has no pixels to copy: {error}; expected a dense one in the memory of a device"
        ) from error
    return _rgb_from_array(array.transpose(1, 2, 0) if array.shape[0] == 3 else array)


def _rgb_from_array(array: npt.NDArray[Any]) -> Rgb:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InvalidImage(
            f"the array given is {array.dtype} of shape {array.shape}; expected uint8 RGB of shape (height, width, 3): "
            "scale to 0..255, add the colour axis or drop alpha, and call .astype('uint8')"
        )
    _check_size(array.shape[1], array.shape[0], "the array given")
    return np.ascontiguousarray(array)


def _rgb_from_encoded(encoded: Encoded) -> Rgb:
    opened = _opened(encoded)
    # Pillow reads a PNG that lacks its last chunk without a word; OpenCV and we do not.
    if isinstance(opened, PngImageFile) and _PNG_END not in encoded.data:
        raise InvalidImage(f"{encoded.described()} is truncated: its end is missing; send the whole file")
    return _rgb_from_pil(opened, encoded.described())


def _opened(encoded: Encoded) -> ImageFile:
    """The header, read by the one decoder its first bytes name.

    `Image.open` would also accept multi-picture files, and warns of large pictures through a process-wide setting.
    """
    data = encoded.data
    for magic, decoder in _FORMATS:
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            try:
                return decoder(BytesIO(data))
            except Image.DecompressionBombError as error:
                raise InvalidImage(f"{encoded.described()}: {_TOO_LARGE}") from error
            except _DECODER_ERRORS as error:
                raise InvalidImage(f"{encoded.described()} has a damaged header: {error}") from error
    raise InvalidImage(f"{encoded.described()} is not a JPEG, PNG or WEBP image, the three formats read here")


def _rgb_from_pil(image: Image.Image, source: str) -> Rgb:
    _check_size(image.width, image.height, source)
    try:
        image.load()
        oriented = _oriented(image)
        rgb = _converted(oriented, source)
    except _DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise reading_failed(f"{source} cannot be read", error) from error
        raise InvalidImage(f"{source} is damaged or truncated: {error}; send the whole file") from error
    except _LAZY_ERRORS as error:
        raise InvalidImage(f"{source} cannot be loaded: {error!r}; was its file closed before?") from error
    return rgb


def _oriented(image: Image.Image) -> Image.Image:
    """The picture as its EXIF block says it is to be seen. Only the EXIF block counts: OpenCV does not read XMP."""
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        return image
    exif = Image.Exif()
    try:
        exif.load(block)
    except (SyntaxError, ValueError, OSError, struct.error):
        return image  # as OpenCV: an EXIF block that cannot be read says nothing
    orientation = exif.get(ExifTags.Base.Orientation)
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _converted(image: Image.Image, source: str) -> Rgb:
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode in _DIRECT_MODES:
        return np.asarray(image.convert("RGB"))
    if image.mode in _PALETTE_MODES:
        # By way of RGBA: straight to RGB, Pillow warns where the palette has transparency.
        return np.asarray(image.convert("RGBA").convert("RGB"))
    if image.mode in _SIXTEEN_BIT_MODES:
        # `convert` would clip at 255. The high byte is what OpenCV keeps, and what Pillow keeps of 16-bit colour.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    raise InvalidImage(f"{source} has pixels of mode {image.mode!r}, whose range is unknown: convert it to RGB first")


_TOO_LARGE = f"more than {MAX_PIXELS / 1e6:g} Mpx; save it smaller, a model sees a few hundred pixels a side"


def _check_size(width: int, height: int, source: str) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImage(f"{source}: {width} x {height} is {width * height / 1e6:.4g} Mpx, {_TOO_LARGE}")
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(f"{source}: {width} x {height} pixels; each side must have at least {MIN_SIDE}")
