"""PaddleClas's evaluation preprocessing: the part a client does, as the served contract, and the part in the graph."""

from __future__ import annotations

from builder.catalog import ModelSpec
from builder.hashing import canonical_json

# In the graph: (x * 1/255 - mean) / std in float32, on RGB. PaddleClas, ppcls/configs/ImageNet, NormalizeImage.
PIXEL_SCALE = 1.0 / 255.0
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

RULE = "paddleclas-imagenet-eval-v1"


def preprocess_json(spec: ModelSpec) -> str:
    """What a client does before it sends pixels, as canonical JSON: the text whose hash the contract carries."""
    contract = {
        "rule": RULE,
        "decode": "exif-transposed, 8-bit RGB",
        "resize_short": spec.resize_short,
        "interpolation": "opencv-bilinear",
        "crop": spec.input_size,
        "channel_order": "RGB",
        "layout": "HWC",
    }
    return canonical_json(contract)
