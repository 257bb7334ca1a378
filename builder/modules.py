"""From a catalog row and a weight file to a PyTorch module. Torch is imported when called, not before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.architectures import Classifier


def module_from_weights(name: str, path: str | Path) -> Classifier:
    """The model `name` with the weights in `path`, in eval mode.

    Input: normalised float32 NCHW; output: float32 logits of the main head, N x classes. The number of classes is the
    head's. Raises `UnknownModel`, and `WeightsRejected` for a file that is not this model's weights.
    """
    from builder.catalog import spec_from_name
    from builder.weights import load_weights, tensors_from_file

    spec = spec_from_name(name)
    tensors = tensors_from_file(Path(path))
    return load_weights(spec, tensors, source=str(path))
