"""PaddleClas weights in, Triton model folders out."""

from builder.catalog import MODELS, ModelSpec
from builder.modules import module_from_weights

__all__ = ["MODELS", "ModelSpec", "module_from_weights"]
