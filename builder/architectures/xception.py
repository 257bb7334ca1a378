"""Xception41, 65 and 71 (Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions").

PaddleClas's separable convolution is the paper's "extreme Inception": pointwise first, depthwise after, each followed
by its own normalisation. Strides sit in the max pools, never in a depthwise convolution. There is no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from builder.architectures.layers import Classifier, ConvNorm, global_average_pool
from builder.catalog import ModelSpec

_LinearConv = partial(ConvNorm, is_activated=False)


class SeparableConv(nn.Module):
    """1 x 1 across channels, then 3 x 3 within each; no activation inside or after."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self._pointwise_conv = _LinearConv(in_channels, out_channels, 1)
        self._depthwise_conv = _LinearConv(out_channels, out_channels, 3, padding=1, groups=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._depthwise_conv(self._pointwise_conv(x))
        return y


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """The residual path of a block that changes the shape: a bare 1 x 1 convolution, not normalised."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class EntryBlock(nn.Module):
    """Two separable convolutions and a max pool, added to a projection of the block's raw input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, is_relu_first: bool) -> None:
        super().__init__()
        self.is_relu_first, self.stride = is_relu_first, stride
        self._short = _shortcut(in_channels, out_channels, stride)
        self._conv1 = SeparableConv(in_channels, out_channels)
        self._conv2 = SeparableConv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self._conv1(F.relu(x) if self.is_relu_first else x)
        y = self._conv2(F.relu(y))
        shortcut: Tensor = self._short(x)
        return shortcut + F.max_pool2d(y, 3, self.stride, padding=1)


class EntryFlow(nn.Module):
    """Two convolutions and a variant's blocks, given as (channels, stride)."""

    def __init__(self, blocks: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self._conv1 = ConvNorm(3, 32, 3, stride=2, padding=1)
        self._conv2 = ConvNorm(32, 64, 3, padding=1)
        channels = 64
        for index, (out_channels, stride) in enumerate(blocks):
            # The first block's input comes out of a ReLU already.
            self.add_module(f"_conv_{index}", EntryBlock(channels, out_channels, stride, is_relu_first=index > 0))
            channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class MiddleBlock(nn.Module):
    """Three separable convolutions, each after a ReLU, around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._conv_0 = SeparableConv(channels, channels)
        self._conv_1 = SeparableConv(channels, channels)
        self._conv_2 = SeparableConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in (self._conv_0, self._conv_1, self._conv_2):
            y = layer(F.relu(y))
        return x + y


class MiddleFlow(nn.Module):
    """`depth` equal blocks of 728 channels."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        for index in range(depth):
            self.add_module(f"_conv_{index}", MiddleBlock(728))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x


class ExitBlock(nn.Module):
    """The last reduction, 728 to 1024 channels."""

    def __init__(self) -> None:
        super().__init__()
        self._short = _shortcut(728, 1024, stride=2)
        self._conv_1 = SeparableConv(728, 728)
        self._conv_2 = SeparableConv(728, 1024)

    def forward(self, x: Tensor) -> Tensor:
        y = self._conv_1(F.relu(x))
        y = self._conv_2(F.relu(y))
        shortcut: Tensor = self._short(x)
        return shortcut + F.max_pool2d(y, 3, stride=2, padding=1)


class ExitFlow(nn.Module):
    """The last reduction, two wide separable convolutions and the head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_0 = ExitBlock()
        self._conv_1 = SeparableConv(1024, 1536)
        self._conv_2 = SeparableConv(1536, 2048)
        self._out = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv_0(x)  # N x 1024 x 10 x 10
        x = F.relu(self._conv_1(x))  # N x 1536 x 10 x 10
        x = F.relu(self._conv_2(x))  # N x 2048 x 10 x 10
        logits: Tensor = self._out(global_average_pool(x))
        return logits


class Xception(Classifier):
    """Entry, middle and exit flow; the shapes noted are those of a 299 x 299 image."""

    head = "_exit_flow._out"

    def __init__(self, entry_blocks: tuple[tuple[int, int], ...], middle_depth: int, classes: int) -> None:
        super().__init__()
        self._entry_flow = EntryFlow(entry_blocks)
        self._middle_flow = MiddleFlow(middle_depth)
        self._exit_flow = ExitFlow(classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._entry_flow(x)  # N x 728 x 19 x 19
        x = self._middle_flow(x)
        logits: Tensor = self._exit_flow(x)
        return logits


@dataclass(frozen=True)
class Variant:
    """What distinguishes the members: the entry blocks as (channels, stride), and the middle flow's depth."""

    entry_blocks: tuple[tuple[int, int], ...]
    middle_depth: int


_VARIANTS = {
    "Xception41": Variant(((128, 2), (256, 2), (728, 2)), middle_depth=8),
    "Xception65": Variant(((128, 2), (256, 2), (728, 2)), middle_depth=16),
    "Xception71": Variant(((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), middle_depth=16),
}


def build(spec: ModelSpec) -> Classifier:
    """The Xception called `spec.name` with a head of `spec.classes`."""
    variant = _VARIANTS[spec.name]
    return Xception(variant.entry_blocks, variant.middle_depth, spec.classes)
