"""Inception-v3 (Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision").

As PaddleClas trained it: without the auxiliary head. Average pools count their zero padding; Inception-v4's do not.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from builder.architectures.layers import Classifier, ConvNorm, DownscalingDropout, global_average_pool
from builder.catalog import ModelSpec

_Conv = partial(ConvNorm, names=("conv", "bn"))


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)


def _reduce_by_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class InceptionStem(nn.Module):
    """From the image to 192 x 35 x 35."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.conv_2a_3x3 = _Conv(32, 32, 3)
        self.conv_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.conv_3b_1x1 = _Conv(64, 80, 1)
        self.conv_4a_3x3 = _Conv(80, 192, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_2a_3x3(self.conv_1a_3x3(x))  # N x 32 x 147 x 147
        x = _reduce_by_pool(self.conv_2b_3x3(x))  # N x 64 x 73 x 73
        x = self.conv_4a_3x3(self.conv_3b_1x1(x))  # N x 192 x 71 x 71
        return _reduce_by_pool(x)  # N x 192 x 35 x 35


class InceptionA(nn.Module):
    """The paper's figure 5: 5 x 5 replaced by two 3 x 3."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(in_channels, 64, 1)
        self.branch5x5_1 = _Conv(in_channels, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool_conv = _Conv(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool_conv(_average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionB(nn.Module):
    """Grid reduction, 35 to 17 pixels a side (figure 10)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            _reduce_by_pool(x),
        ]
        return torch.cat(branches, 1)


class InceptionC(nn.Module):
    """The paper's figure 6: 7 x 7 factorised into 1 x 7 and 7 x 1, `width` channels inside."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        row = partial(_Conv, kernel_size=(1, 7), padding=(0, 3))
        column = partial(_Conv, kernel_size=(7, 1), padding=(3, 0))
        self.branch1x1 = _Conv(in_channels, 192, 1)
        self.branch7x7_1 = _Conv(in_channels, width, 1)
        self.branch7x7_2 = row(width, width)
        self.branch7x7_3 = column(width, 192)
        self.branch7x7dbl_1 = _Conv(in_channels, width, 1)
        self.branch7x7dbl_2 = column(width, width)
        self.branch7x7dbl_3 = row(width, width)
        self.branch7x7dbl_4 = column(width, width)
        self.branch7x7dbl_5 = row(width, 192)
        self.branch_pool_conv = _Conv(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool_conv(_average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionD(nn.Module):
    """Grid reduction, 17 to 8 pixels a side."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(in_channels, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(in_channels, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))),
            _reduce_by_pool(x),
        ]
        return torch.cat(branches, 1)


class InceptionE(nn.Module):
    """The paper's figure 7: filter banks that fan out into 1 x 3 and 3 x 1."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(in_channels, 320, 1)
        self.branch3x3_1 = _Conv(in_channels, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(in_channels, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool_conv = _Conv(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool_conv(_average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionV3(Classifier):
    """48 layers; the shapes noted are those of a 299 x 299 image."""

    head = "fc"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inception_stem = InceptionStem()
        self.inception_block_list = nn.ModuleList(
            [
                InceptionA(192, pool_features=32),  # N x 256 x 35 x 35
                InceptionA(256, pool_features=64),  # N x 288 x 35 x 35
                InceptionA(288, pool_features=64),
                InceptionB(288),  # N x 768 x 17 x 17
                InceptionC(768, width=128),
                InceptionC(768, width=160),
                InceptionC(768, width=160),
                InceptionC(768, width=192),
                InceptionD(768),  # N x 1280 x 8 x 8
                InceptionE(1280),  # N x 2048 x 8 x 8
                InceptionE(2048),
            ]
        )
        self.dropout = DownscalingDropout(0.2)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inception_stem(x)
        for block in self.inception_block_list:
            x = block(x)
        logits: Tensor = self.fc(self.dropout(global_average_pool(x)))
        return logits


def build(spec: ModelSpec) -> Classifier:
    """Inception-v3 with a head of `spec.classes`."""
    return InceptionV3(spec.classes)
