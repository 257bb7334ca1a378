"""The weights and inputs of the parity references, drawn again from numpy's frozen random streams.

`numpy.random.RandomState` (MT19937) never changes its streams: numpy's compatibility policy, NEP 19. The order of the
draws and the order of the arithmetic below are part of the data: change neither.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Shapes = Mapping[str, Sequence[int]]

# Image noise at three scales: (pixels a side before enlarging, strength).
_BLOBS = ((3, 0.7), (9, 0.5), (37, 0.4))


def input_sizes(name: str) -> list[tuple[int, int]]:
    """(height, width) of both batches; the second is not square, to catch ceil-mode and padding mistakes."""
    return [(224, 224), (208, 224)] if name == "GoogLeNet" else [(299, 299), (256, 320)]


def inputs(name: str) -> list[Float32]:
    """Two batches of two normalised images, N x 3 x H x W."""
    return [
        _images(_stream(f"{name}/x{index}"), 2, height, width)
        for index, (height, width) in enumerate(input_sizes(name))
    ]


def weights(name: str, shapes: Shapes, corrections: Mapping[str, NDArray[np.float16]]) -> dict[str, Float32]:
    """The full state dict under Paddle's names and in Paddle's layout.

    `corrections` is the model's reference file: running means whole ("m:key"), the input's channel mean to be taken out
    of a layer's filters ("mu:key"), and each filter's factor ("k:key").
    """
    tensors = {}
    for key in shapes:
        tensor = corrections[f"m:{key}"].astype("float32") if key.endswith("._mean") else _drawn(name, key, shapes)
        if f"mu:{key}" in corrections:
            tensor = _centred(tensor, corrections[f"mu:{key}"])
        if f"k:{key}" in corrections:
            tensor = _scaled(tensor, corrections[f"k:{key}"])
        tensors[key] = np.ascontiguousarray(tensor, dtype="float32")
    return tensors


def _stream(tag: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(tag.encode()))


def _drawn(name: str, key: str, shapes: Shapes) -> Float32:
    stream, shape = _stream(f"{name}/{key}"), shapes[key]
    is_norm = f"{key.rpartition('.')[0]}._mean" in shapes
    if key.endswith("._variance") or (is_norm and key.endswith(".weight")):
        return stream.uniform(0.5, 1.5, shape).astype("float32")
    if is_norm:
        return stream.normal(0.7, 0.3, shape).astype("float32")
    values = stream.standard_normal(shape)
    return (0.2 * values if key.endswith(".bias") else values).astype("float32")


def _centred(weight: Float32, channel_mean: NDArray[np.float16]) -> Float64:
    """The weight without its component along the input's channel mean; filters are O x I x h x w, linear is I x O."""
    exact, mean = weight.astype("float64"), channel_mean.astype("float64")
    if exact.ndim == 2:
        return exact - np.outer(mean, mean @ exact) / (mean @ mean)
    response = np.tensordot(exact.sum((2, 3)), mean, 1)
    area = exact.shape[2] * exact.shape[3]
    return exact - (response[:, None] * mean[None] / (mean @ mean * area))[:, :, None, None]


def _scaled(weight: Float32 | Float64, factor: NDArray[np.float16]) -> Float32:
    per_filter = factor.astype("float32")
    if per_filter.ndim and weight.ndim == 4:
        per_filter = per_filter[:, None, None, None]
    return weight.astype("float32") * per_filter


def _images(stream: np.random.RandomState, count: int, height: int, width: int) -> Float32:
    images = 0.25 * stream.standard_normal((count, 3, height, width)) + 0.6 * stream.standard_normal((count, 3, 1, 1))
    for side, strength in _BLOBS:
        images = images + strength * _enlarged(stream.standard_normal((count, 3, side, side)), height, width)
    return np.clip(images, -2.2, 2.6).astype("float32")


def _enlarged(values: Float64, height: int, width: int) -> Float64:
    """Bilinear, corners aligned, over the last two axes."""
    return np.swapaxes(_stretched(np.swapaxes(_stretched(values, width), -1, -2), height), -1, -2)


def _stretched(values: Float64, length: int) -> Float64:
    last = values.shape[-1] - 1
    position = np.linspace(0, last, length)
    left = np.floor(position).astype(int)
    right = np.minimum(left + 1, last)
    return values[..., left] * (1 - (position - left)) + values[..., right] * (position - left)
