"""GoogLeNet (Szegedy et al. 2014, "Going Deeper with Convolutions") as PaddleClas trained it.

It differs from the paper: convolutions have neither bias nor activation, the only ReLU of the main path is the one
after each Inception block's concatenation, there is no local response normalisation, and the pools between stages do
not pad (55, 27, 13, 6 pixels a side instead of 56, 28, 14, 7).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from builder.architectures.layers import Classifier, DownscalingDropout, global_average_pool
from builder.catalog import ModelSpec


class Convolution(nn.Module):
    """A bare convolution that keeps the map's size at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self._conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv(x)
        return y


class Inception(nn.Module):
    """Four branches side by side; `widths` are a row of the paper's table 1, from "#1x1" to "pool proj"."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        c1x1, c3x3_reduce, c3x3, c5x5_reduce, c5x5, pool_proj = widths
        self._conv1 = Convolution(in_channels, c1x1, 1)
        self._conv3r = Convolution(in_channels, c3x3_reduce, 1)
        self._conv3 = Convolution(c3x3_reduce, c3x3, 3)
        self._conv5r = Convolution(in_channels, c5x5_reduce, 1)
        self._conv5 = Convolution(c5x5_reduce, c5x5, 5)
        self._convprj = Convolution(in_channels, pool_proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self._conv1(x),
            self._conv3(self._conv3r(x)),
            self._conv5(self._conv5r(x)),
            self._convprj(F.max_pool2d(x, 3, stride=1, padding=1)),
        ]
        return F.relu(torch.cat(branches, 1))


class GoogLeNet(Classifier):
    """22 layers; the shapes noted in `_features` are those of a 224 x 224 image."""

    head = "_fc_out"
    auxiliary_heads = ("_conv_o1", "_fc_o1", "_out1", "_conv_o2", "_fc_o2", "_out2")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv = Convolution(3, 64, 7, stride=2)
        self._conv_1 = Convolution(64, 64, 1)
        self._conv_2 = Convolution(64, 192, 3)

        self._ince3a = Inception(192, (64, 96, 128, 16, 32, 32))
        self._ince3b = Inception(256, (128, 128, 192, 32, 96, 64))

        self._ince4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self._ince4b = Inception(512, (160, 112, 224, 24, 64, 64))
        self._ince4c = Inception(512, (128, 128, 256, 24, 64, 64))
        self._ince4d = Inception(512, (112, 144, 288, 32, 64, 64))
        self._ince4e = Inception(528, (256, 160, 320, 32, 128, 128))

        self._ince5a = Inception(832, (256, 160, 320, 32, 128, 128))
        self._ince5b = Inception(832, (384, 192, 384, 48, 128, 128))

        self._drop = DownscalingDropout(0.4)
        self._fc_out = nn.Linear(1024, classes)

        self._conv_o1 = Convolution(512, 128, 1)
        self._fc_o1 = nn.Linear(1152, 1024)
        self._out1 = nn.Linear(1024, classes)
        self._conv_o2 = Convolution(528, 128, 1)
        self._fc_o2 = nn.Linear(1152, 1024)
        self._out2 = nn.Linear(1024, classes)
        self._drop_aux = DownscalingDropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        features, _, _ = self._features(x)
        return self._classify(features)

    def forward_with_auxiliaries(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the main head and of both auxiliary heads, each N x classes.

        The auxiliary heads fix the image's size: about 192..232 pixels a side.
        """
        features, map_4a, map_4d = self._features(x)
        # PaddleClas has an activation in the first auxiliary head only, and its weights were trained that way.
        hidden_1 = F.relu(self._fc_o1(self._squeeze(self._conv_o1, map_4a)))
        hidden_2 = self._fc_o2(self._squeeze(self._conv_o2, map_4d))
        aux_1: Tensor = self._out1(self._drop_aux(hidden_1))
        aux_2: Tensor = self._out2(self._drop_aux(hidden_2))
        return self._classify(features), aux_1, aux_2

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last map, and the two maps that the auxiliary heads read."""
        x = F.max_pool2d(self._conv(x), 3, stride=2)  # N x 64 x 55 x 55
        x = F.max_pool2d(self._conv_2(self._conv_1(x)), 3, stride=2)  # N x 192 x 27 x 27
        x = self._ince3b(self._ince3a(x))  # N x 480 x 27 x 27
        map_4a = self._ince4a(F.max_pool2d(x, 3, stride=2))  # N x 512 x 13 x 13
        map_4d = self._ince4d(self._ince4c(self._ince4b(map_4a)))  # N x 528 x 13 x 13
        x = self._ince4e(map_4d)  # N x 832 x 13 x 13
        x = F.max_pool2d(x, 3, stride=2)  # N x 832 x 6 x 6
        x = self._ince5b(self._ince5a(x))  # N x 1024 x 6 x 6
        return x, map_4a, map_4d

    def _classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self._fc_out(self._drop(global_average_pool(features)))
        return logits

    @staticmethod
    def _squeeze(conv: nn.Module, features: Tensor) -> Tensor:
        x: Tensor = conv(F.avg_pool2d(features, 5, stride=3))  # N x 128 x 3 x 3
        return x.flatten(1)


def build(spec: ModelSpec) -> Classifier:
    """GoogLeNet with both auxiliary heads, `spec.classes` wide each."""
    return GoogLeNet(spec.classes)
