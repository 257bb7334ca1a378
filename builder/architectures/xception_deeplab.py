"""Xception41_deeplab and Xception65_deeplab: the backbone of DeepLabv3+ (Chen et al. 2018, section 3.2), classifying.

Against plain Xception: the separable convolution is depthwise first, strides sit in the depthwise convolution instead
of a max pool, shortcuts are normalised, the last block is dilated, and batch normalisation has an epsilon of 0.001.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from builder.architectures.layers import Classifier, ConvNorm, DownscalingDropout, global_average_pool
from builder.catalog import ModelSpec

# PaddlePaddle's momentum of 0.99 weighs the old statistic: 0.01 in PyTorch's terms.
_EPS, _MOMENTUM = 1e-3, 0.01

_Conv = partial(ConvNorm, eps=_EPS, momentum=_MOMENTUM, names=("_conv", "_bn"))
_Norm = partial(nn.BatchNorm2d, eps=_EPS, momentum=_MOMENTUM)


class SeparableConv(nn.Module):
    """3 x 3 within each channel, then 1 x 1 across; a ReLU after each of the two where `is_activated`."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1, *, is_activated: bool = False
    ) -> None:
        super().__init__()
        self.is_activated = is_activated
        self._conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self._bn1 = _Norm(in_channels)
        self._conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self._bn2 = _Norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self._activate(self._bn1(self._conv1(x)))
        return self._activate(self._bn2(self._conv2(x)))

    def _activate(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.is_activated else x


class ResidualBlock(nn.Module):
    """Three separable convolutions, each after a ReLU, the last one strided; the shortcut projects where asked."""

    def __init__(
        self, in_channels: int, widths: tuple[int, int, int], stride: int = 1, *, is_projected: bool = False
    ) -> None:
        super().__init__()
        first, second, third = widths
        self._conv1 = SeparableConv(in_channels, first)
        self._conv2 = SeparableConv(first, second)
        self._conv3 = SeparableConv(second, third, stride)
        self._short = _Conv(in_channels, third, 1, stride, is_activated=False) if is_projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in (self._conv1, self._conv2, self._conv3):
            y = layer(F.relu(y))
        shortcut: Tensor = self._short(x)
        return shortcut + y


class DilatedBlock(nn.Module):
    """Three activated separable convolutions of dilation 2, with no shortcut."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = widths
        self._conv1 = SeparableConv(in_channels, first, dilation=2, is_activated=True)
        self._conv2 = SeparableConv(first, second, dilation=2, is_activated=True)
        self._conv3 = SeparableConv(second, third, dilation=2, is_activated=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class XceptionDeeplab(Classifier):
    """Entry, middle and exit flow; the shapes noted are those of a 299 x 299 image."""

    head = "_fc"

    def __init__(self, backbone: str, middle_depth: int, classes: int) -> None:
        super().__init__()
        blocks: dict[str, nn.Module] = {}
        channels = 64
        for index, width in enumerate((128, 256, 728), start=1):
            name = f"{backbone}/entry_flow/block{index}"  # 75, 38, 19 pixels a side
            blocks[name] = ResidualBlock(channels, (width, width, width), stride=2, is_projected=True)
            channels = width
        for index in range(1, middle_depth + 1):
            blocks[f"{backbone}/middle_flow/block{index}"] = ResidualBlock(728, (728, 728, 728))

        self._conv1 = _Conv(3, 32, 3, stride=2, padding=1)
        self._conv2 = _Conv(32, 64, 3, padding=1)
        for name, block in blocks.items():
            self.add_module(name, block)
        self._trunk = tuple(blocks)
        self._exit_flow_1 = ResidualBlock(728, (728, 1024, 1024), stride=2, is_projected=True)
        self._exit_flow_2 = DilatedBlock(1024, (1536, 1536, 2048))
        self._drop = DownscalingDropout(0.5)
        self._fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv2(self._conv1(x))  # N x 64 x 150 x 150
        for name in self._trunk:
            x = self.get_submodule(name)(x)  # at the end N x 728 x 19 x 19
        x = self._exit_flow_1(x)  # N x 1024 x 10 x 10
        x = self._exit_flow_2(x)  # N x 2048 x 10 x 10
        logits: Tensor = self._fc(global_average_pool(self._drop(x)))
        return logits


# Name of the backbone inside the weight file, and the middle flow's depth.
_VARIANTS = {"Xception41_deeplab": ("xception_41", 8), "Xception65_deeplab": ("xception_65", 16)}


def build(spec: ModelSpec) -> Classifier:
    """The Xception called `spec.name` with a head of `spec.classes`."""
    backbone, middle_depth = _VARIANTS[spec.name]
    return XceptionDeeplab(backbone, middle_depth, spec.classes)
