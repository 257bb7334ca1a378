"""From a catalog row to its module: one literal table, family to `build`."""

from __future__ import annotations

from collections.abc import Callable

from builder.architectures import googlenet, inception_v3, inception_v4, xception, xception_deeplab
from builder.architectures.layers import Classifier
from builder.catalog import ModelSpec

FAMILIES: dict[str, Callable[[ModelSpec], Classifier]] = {
    "googlenet": googlenet.build,
    "inception_v3": inception_v3.build,
    "inception_v4": inception_v4.build,
    "xception": xception.build,
    "xception_deeplab": xception_deeplab.build,
}


def module_from_spec(spec: ModelSpec) -> Classifier:
    """The architecture of `spec` in eval mode, with `spec.classes` outputs and PyTorch's default initial weights.

    Input: normalised float32 N x 3 x H x W; output: float32 logits of the main head, N x classes. GoogLeNet comes with
    its auxiliary heads, so that official weights load with nothing left over; `without_auxiliary_heads` drops them.
    """
    return FAMILIES[spec.family](spec).eval()
