"""Three real photographs as raw pixels: what every check of a build runs on.

numpy only, because the plan stage runs in images that have neither Pillow nor OpenCV. The pixels are the middle
320 x 320 of three CC0 photographs: data/README.md says which and how they were made.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

GOLDEN_NAMES = ("cat", "coffee", "rocket")
PROOF_IMAGES = 8  # the largest batch that is served


@cache
def _stored_pixels() -> NDArray[np.uint8]:
    with (files("builder") / "data" / "golden.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        pixels: NDArray[np.uint8] = np.stack([stored[name] for name in GOLDEN_NAMES])
        return pixels


def golden_images(size: int) -> NDArray[np.uint8]:
    """The photographs as uint8 RGB, 3 x `size` x `size` x 3: the middle crop, repeated to nearest pixels beyond 320."""
    pixels = _stored_pixels()
    stored_size = pixels.shape[1]
    if size > stored_size:
        nearest = np.arange(size) * stored_size // size
        return np.ascontiguousarray(pixels[:, nearest][:, :, nearest])
    offset = (stored_size - size) // 2
    return np.ascontiguousarray(pixels[:, offset : offset + size, offset : offset + size])


def proof_images(size: int) -> NDArray[np.uint8]:
    """The inputs a plan is proved on, 8 x `size` x `size` x 3: the photographs, mirrored, and two upside down."""
    photographs = golden_images(size)
    upside_down = photographs[: PROOF_IMAGES - 2 * len(photographs), ::-1]
    return np.ascontiguousarray(np.concatenate([photographs, photographs[:, :, ::-1], upside_down]))
