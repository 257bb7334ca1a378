"""Inception-v4 (Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections").

Average pools leave their zero padding out of the mean; Inception-v3's count it.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from builder.architectures.layers import Classifier, ConvNorm, DownscalingDropout, global_average_pool
from builder.catalog import ModelSpec

_row7 = partial(ConvNorm, kernel_size=(1, 7), padding=(0, 3))
_column7 = partial(ConvNorm, kernel_size=(7, 1), padding=(3, 0))
_row3 = partial(ConvNorm, kernel_size=(1, 3), padding=(0, 1))
_column3 = partial(ConvNorm, kernel_size=(3, 1), padding=(1, 0))


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _reduce_by_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class InceptionStem(nn.Module):
    """The paper's figure 3: from the image to 384 x 35 x 35."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_1 = ConvNorm(3, 32, 3, stride=2)
        self._conv_2 = ConvNorm(32, 32, 3)
        self._conv_3 = ConvNorm(32, 64, 3, padding=1)
        self._conv2 = ConvNorm(64, 96, 3, stride=2)
        self._conv1_1 = ConvNorm(160, 64, 1)
        self._conv1_2 = ConvNorm(64, 96, 3)
        self._conv2_1 = ConvNorm(160, 64, 1)
        self._conv2_2 = _column7(64, 64)
        self._conv2_3 = _row7(64, 64)
        self._conv2_4 = ConvNorm(64, 96, 3)
        self._conv3 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv_3(self._conv_2(self._conv_1(x)))  # N x 64 x 147 x 147
        x = torch.cat([_reduce_by_pool(x), self._conv2(x)], 1)  # N x 160 x 73 x 73
        short = self._conv1_2(self._conv1_1(x))
        long = self._conv2_4(self._conv2_3(self._conv2_2(self._conv2_1(x))))
        x = torch.cat([short, long], 1)  # N x 192 x 71 x 71
        return torch.cat([self._conv3(x), _reduce_by_pool(x)], 1)  # N x 384 x 35 x 35


class InceptionA(nn.Module):
    """The paper's figure 4, 384 channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self._conv1 = ConvNorm(384, 96, 1)
        self._conv2 = ConvNorm(384, 96, 1)
        self._conv3_1 = ConvNorm(384, 64, 1)
        self._conv3_2 = ConvNorm(64, 96, 3, padding=1)
        self._conv4_1 = ConvNorm(384, 64, 1)
        self._conv4_2 = ConvNorm(64, 96, 3, padding=1)
        self._conv4_3 = ConvNorm(96, 96, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self._conv1(_average_pool(x)),
            self._conv2(x),
            self._conv3_2(self._conv3_1(x)),
            self._conv4_3(self._conv4_2(self._conv4_1(x))),
        ]
        return torch.cat(branches, 1)


class ReductionA(nn.Module):
    """The paper's figure 7: 384 x 35 x 35 to 1024 x 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self._conv2 = ConvNorm(384, 384, 3, stride=2)
        self._conv3_1 = ConvNorm(384, 192, 1)
        self._conv3_2 = ConvNorm(192, 224, 3, padding=1)
        self._conv3_3 = ConvNorm(224, 256, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [_reduce_by_pool(x), self._conv2(x), self._conv3_3(self._conv3_2(self._conv3_1(x)))]
        return torch.cat(branches, 1)


class InceptionB(nn.Module):
    """The paper's figure 5, 1024 channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self._conv1 = ConvNorm(1024, 128, 1)
        self._conv2 = ConvNorm(1024, 384, 1)
        self._conv3_1 = ConvNorm(1024, 192, 1)
        self._conv3_2 = _row7(192, 224)
        self._conv3_3 = _column7(224, 256)
        self._conv4_1 = ConvNorm(1024, 192, 1)
        self._conv4_2 = _row7(192, 192)
        self._conv4_3 = _column7(192, 224)
        self._conv4_4 = _row7(224, 224)
        self._conv4_5 = _column7(224, 256)

    def forward(self, x: Tensor) -> Tensor:
        double = self._conv4_3(self._conv4_2(self._conv4_1(x)))
        branches = [
            self._conv1(_average_pool(x)),
            self._conv2(x),
            self._conv3_3(self._conv3_2(self._conv3_1(x))),
            self._conv4_5(self._conv4_4(double)),
        ]
        return torch.cat(branches, 1)


class ReductionB(nn.Module):
    """The paper's figure 8: 1024 x 17 x 17 to 1536 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self._conv2_1 = ConvNorm(1024, 192, 1)
        self._conv2_2 = ConvNorm(192, 192, 3, stride=2)
        self._conv3_1 = ConvNorm(1024, 256, 1)
        self._conv3_2 = _row7(256, 256)
        self._conv3_3 = _column7(256, 320)
        self._conv3_4 = ConvNorm(320, 320, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            _reduce_by_pool(x),
            self._conv2_2(self._conv2_1(x)),
            self._conv3_4(self._conv3_3(self._conv3_2(self._conv3_1(x)))),
        ]
        return torch.cat(branches, 1)


class InceptionC(nn.Module):
    """The paper's figure 6, 1536 channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self._conv1 = ConvNorm(1536, 256, 1)
        self._conv2 = ConvNorm(1536, 256, 1)
        self._conv3_0 = ConvNorm(1536, 384, 1)
        self._conv3_1 = _row3(384, 256)
        self._conv3_2 = _column3(384, 256)
        self._conv4_0 = ConvNorm(1536, 384, 1)
        self._conv4_00 = _row3(384, 448)
        self._conv4_000 = _column3(448, 512)
        self._conv4_1 = _row3(512, 256)
        self._conv4_2 = _column3(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        single = self._conv3_0(x)
        double = self._conv4_000(self._conv4_00(self._conv4_0(x)))
        branches = [
            self._conv1(_average_pool(x)),
            self._conv2(x),
            self._conv3_1(single),
            self._conv3_2(single),
            self._conv4_1(double),
            self._conv4_2(double),
        ]
        return torch.cat(branches, 1)


class InceptionV4(Classifier):
    """Stem, 4 A, reduction, 7 B, reduction, 3 C; the shapes noted are those of a 299 x 299 image."""

    head = "out"

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks: dict[str, nn.Module] = {"_inception_stem": InceptionStem()}  # N x 384 x 35 x 35
        blocks |= {f"_inceptionA_{i}": InceptionA() for i in range(1, 5)}
        blocks["_reductionA"] = ReductionA()  # N x 1024 x 17 x 17
        blocks |= {f"_inceptionB_{i}": InceptionB() for i in range(1, 8)}
        blocks["_reductionB"] = ReductionB()  # N x 1536 x 8 x 8
        blocks |= {f"_inceptionC_{i}": InceptionC() for i in range(1, 4)}
        for name, block in blocks.items():
            self.add_module(name, block)
        self._trunk = tuple(blocks)
        self._drop = DownscalingDropout(0.2)
        self.out = nn.Linear(1536, classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in self._trunk:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.out(self._drop(global_average_pool(x)))
        return logits


def build(spec: ModelSpec) -> Classifier:
    """Inception-v4 with a head of `spec.classes`."""
    return InceptionV4(spec.classes)
