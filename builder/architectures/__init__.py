"""The five network families of the Inception series, in PyTorch, under PaddleClas's own parameter names."""

from builder.architectures.layers import Classifier, without_auxiliary_heads
from builder.architectures.table import module_from_spec

__all__ = ["Classifier", "module_from_spec", "without_auxiliary_heads"]
