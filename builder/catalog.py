"""The eight models of PaddleClas's Inception series, one row each. Standard library only: listing imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from builder.errors import UnknownModel, UsageError

_WEIGHTS_HOST = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
WEIGHTS_ORIGIN = "PaddleClas, trained on ImageNet-1k"
WEIGHTS_LICENCE = "Apache-2.0 (of the PaddleClas repository; the weight files carry no statement of their own)"

# PaddleClas evaluates the 299 models on a 320 short side; every other size keeps the classic 224/256 ratio.
_RESIZE_SHORT = {224: 256, 299: 320}
_CROP_RATIO = 0.875
_MIN_INPUT_SIZE, _MAX_INPUT_SIZE = 96, 1024


@dataclass(frozen=True)
class Published:
    """PaddleClas's own figures, quoted: they follow its two counting rules, not the true counts.

    `params_m`, `flops_g` are the Inception page's, by the rule of `paddle.fluid.contrib.model_stat`
    (`counting.model_stat_counts`); `paddle_params_m`, `paddle_flops_g` the model list's, by that of `paddle.flops`
    (`counting.paddle_flops_counts`).
    """

    top1: float
    top5: float
    params_m: float
    flops_g: float
    paddle_params_m: float
    paddle_flops_g: float


@dataclass(frozen=True)
class ModelSpec:
    """One architecture at one input size.

    `slug` is the served name without its precision. `learnable_params` counts the main path's trainable scalars with
    the catalog's 1000 classes (auxiliary heads excluded: they are dropped before export), `macs` one image's
    multiply-accumulates of convolutions and linear layers at the catalog's size; both are tested against the modules.
    """

    name: str
    slug: str
    family: str
    weights_url: str
    learnable_params: int
    macs: int
    published: Published
    input_size: int = 299
    resize_short: int = 320
    classes: int = 1000

    def at_input_size(self, size: int) -> ModelSpec:
        """The same architecture served at another input size, which becomes part of the slug.

        Raises `UsageError` for a size outside 96..1024 pixels.
        """
        if size == self.input_size:
            return self
        if not _MIN_INPUT_SIZE <= size <= _MAX_INPUT_SIZE:
            raise UsageError(
                f"--input-size {size} is outside {_MIN_INPUT_SIZE}..{_MAX_INPUT_SIZE} pixels; "
                f"{self.name} was trained at {self.input_size}"
            )
        resize_short = _RESIZE_SHORT.get(size, math.ceil(size / _CROP_RATIO))
        return dataclasses.replace(self, slug=f"{self.slug}_{size}", input_size=size, resize_short=resize_short)

    def with_classes(self, classes: int) -> ModelSpec:
        """The same architecture with a head of `classes` outputs."""
        return dataclasses.replace(self, classes=classes)

    def served_name(self, precision: str) -> str:
        """The name Triton serves: slug, underscore, precision."""
        return f"{self.slug}_{precision}"


def _url(name: str, folder: str = "") -> str:
    return f"{_WEIGHTS_HOST}/{folder}{name}_pretrained.pdparams"


_ROWS = (
    ModelSpec(
        "GoogLeNet", "googlenet", "googlenet", _url("GoogLeNet"), 6_991_272, 1_431_556_352,
        Published(0.707, 0.897, 8.46, 2.88, 11.54, 1.44), input_size=224, resize_short=256,
    ),
    ModelSpec(
        "InceptionV3", "inception_v3", "inception_v3", _url("InceptionV3", "legendary_models/"),
        23_834_568, 5_713_216_096,
        Published(0.791, 0.946, 23.83, 11.46, 23.87, 5.73),
    ),
    ModelSpec(
        "InceptionV4", "inception_v4", "inception_v4", _url("InceptionV4"), 42_679_816, 12_253_974_624,
        Published(0.808, 0.953, 42.68, 24.57, 42.74, 12.29),
    ),
    ModelSpec(
        "Xception41", "xception41", "xception", _url("Xception41"), 22_919_600, 8_498_210_072,
        Published(0.793, 0.945, 22.69, 16.74, 23.02, 8.57),
    ),
    ModelSpec(
        "Xception41_deeplab", "xception41_deeplab", "xception_deeplab", _url("Xception41_deeplab"),
        26_969_560, 9_204_134_312,
        Published(0.796, 0.944, 26.73, 18.16, 27.08, 9.28),
    ),
    ModelSpec(
        "Xception65", "xception65", "xception", _url("Xception65"), 35_866_352, 13_146_757_976,
        Published(0.810, 0.955, 35.48, 25.95, 36.04, 13.25),
    ),
    ModelSpec(
        "Xception65_deeplab", "xception65_deeplab", "xception_deeplab", _url("Xception65_deeplab"),
        39_916_312, 13_852_682_216,
        Published(0.803, 0.945, 39.52, 27.37, 40.10, 13.96),
    ),
    ModelSpec(
        "Xception71", "xception71", "xception", _url("Xception71"), 37_678_496, 16_084_271_704,
        Published(0.811, 0.955, 37.28, 31.77, 37.86, 16.21),
    ),
)  # fmt: skip

MODELS: dict[str, ModelSpec] = {row.name: row for row in _ROWS}


def spec_from_name(name: str) -> ModelSpec:
    """The row called `name`, in PaddleClas's spelling or as a slug, in any case; `UnknownModel` lists what there is."""
    wanted = name.lower()
    for spec in _ROWS:
        if wanted in (spec.name.lower(), spec.slug):
            return spec
    raise UnknownModel(f"no model is called {name!r}; the catalog has {', '.join(MODELS)}")
