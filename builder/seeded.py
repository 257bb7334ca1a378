"""Weights without training, good enough to prove a pipeline with.

With a framework's default initialisation the activations die away, every probability is 1/classes and any graph passes
any comparison. Here each convolution keeps the scale of its input, batch normalisation has the statistics of real
photographs, and different photographs get different, confident answers. The labels mean nothing.
"""

from __future__ import annotations

import zlib
from typing import cast

import torch
from torch import Tensor, nn

from builder.architectures import Classifier, module_from_spec
from builder.catalog import ModelSpec
from builder.golden import golden_images
from builder.onnx_export import Normalise

# Trained ImageNet classifiers have logits of about this spread: the worst probability is then far from float32's
# smallest, the best is far from 1.
LOGIT_STD = 2.0
_GAMMA_RANGE = (0.5, 1.5)
# Shifted so that most units pass ReLU: around zero, rounding noise grows with every layer of an untrained network and
# InceptionV4 misses the parity bound.
_BETA_MEAN, _BETA_STD = 0.7, 0.3


def seeded_module(spec: ModelSpec, seed: int = 0) -> Classifier:
    """The architecture of `spec`, in eval mode, its weights drawn from `seed` and calibrated on the golden photographs.

    Convolutions and linear layers are He-normal; one pass scales each convolution to unit output, records the batch
    normalisation statistics, and scales the head so that logits have a standard deviation of 2 and no direction that
    all photographs share.
    """
    module = module_from_spec(spec)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.name}/{seed}".encode()))
    with torch.no_grad():
        for layer in module.modules():
            _draw(layer, generator)
        _calibrate(module, Normalise()(torch.from_numpy(golden_images(spec.input_size))))
    module.eval().requires_grad_(False)
    return module


def _draw(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            layer.bias.normal_(0.0, 0.2, generator=generator)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.weight.uniform_(*_GAMMA_RANGE, generator=generator)
        layer.bias.normal_(_BETA_MEAN, _BETA_STD, generator=generator)


def _calibrate(module: Classifier, images: Tensor) -> None:
    head = module.get_submodule(module.head)
    features: list[Tensor] = []

    def scale_to_unit(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factor = 1.0 / output.std().clamp_min(1e-6)
        cast(Tensor, layer.weight).mul_(factor)
        return output * factor

    handles = [layer.register_forward_hook(scale_to_unit) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    handles.append(head.register_forward_pre_hook(lambda _layer, inputs: features.append(inputs[0])))
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # a cumulative average: the one pass is the statistic
        norm.reset_running_stats()
    module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    for handle in handles:
        handle.remove()
    features.clear()
    handle = head.register_forward_pre_hook(lambda _layer, inputs: features.append(inputs[0]))
    module(images)  # again, with the statistics just recorded: what the head will see when served
    handle.remove()
    _spread_logits(head, features[0])


def _spread_logits(head: nn.Module, features: Tensor) -> None:
    """Take the photographs' common direction out of the head, then scale its weights to the wanted spread."""
    if not isinstance(head, nn.Linear):
        raise TypeError(f"the head of a network is a Linear layer, this one is {type(head).__name__}")
    mean = features.mean(0)
    head.weight.sub_(torch.outer(head.weight @ mean, mean) / (mean @ mean))
    logits = features @ head.weight.T
    head.weight.mul_(LOGIT_STD / logits.std())
