"""What more than one family uses: the classifier's outline, convolution with normalisation, dropout, global pooling."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

Size = int | tuple[int, int]  # one side, or (height, width)


class Classifier(nn.Module):
    """A network that maps normalised float32 N x 3 x H x W images to N x classes logits of its main head.

    Parameters carry PaddleClas's names, so that its weight files need no translation table. `head` is the path of the
    main head's `nn.Linear`; `auxiliary_heads` names the submodules that only training uses.
    """

    head: str
    auxiliary_heads: tuple[str, ...] = ()


def without_auxiliary_heads(module: Classifier) -> Classifier:
    """`module` with its training-only heads deleted, in place; a module that has none comes back as it is."""
    for name in module.auxiliary_heads:
        delattr(module, name)
    module.auxiliary_heads = ()
    return module


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and, unless told otherwise, ReLU.

    `names` are the two layers' names in the weight file, which differ from family to family. The defaults of `eps` and
    `momentum` are PaddlePaddle's (its momentum weighs the old statistic: 0.9 there is 0.1 here).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: int = 1,
        padding: Size = 0,
        *,
        groups: int = 1,
        is_activated: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        names: tuple[str, str] = ("_conv", "_batch_norm"),
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.add_module(names[0], conv)
        self.add_module(names[1], nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum))
        self.is_activated = is_activated

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return F.relu(x) if self.is_activated else x


class DownscalingDropout(nn.Module):
    """Dropout in PaddlePaddle's mode `downscale_in_infer`, which the Inception series was trained with.

    Training keeps the surviving activations as they are, inference multiplies all of them by 1 - p. PyTorch's dropout
    does neither: it divides by 1 - p in training and passes through in inference. Leaving the factor out keeps the
    top-1 answer on most models and makes every probability wrong.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        # One expression for both modes: in training the product undoes PyTorch's division.
        return F.dropout(x, self.p, self.training) * (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def global_average_pool(x: Tensor) -> Tensor:
    """N x C x H x W to N x C, at any H and W."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
