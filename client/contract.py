"""What the server says of a model: preprocessing, labels, release. The client takes these from here and never guesses.

The builder writes them into `parameters` of the model's config.pbtxt; nothing else is shared with it. Standard library
only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.errors import BadResponse, PreprocessMismatch
from client.names import SLUGS, base_slug, slug_and_precision

# The one preprocessing that `images` implements. A model that says anything else is refused.
IMPLEMENTED = {
    "rule": "paddleclas-imagenet-eval-v1",
    "decode": "exif-transposed, 8-bit RGB",
    "interpolation": "opencv-bilinear",
    "channel_order": "RGB",
    "layout": "HWC",
}
_SIZES = ("resize_short", "crop")
# A server is not trusted with our memory: 2048 x 2048 x 3 is 12 MB.
MAX_INPUT_SIZE = 2048
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class ServedTensor:
    """One input or output as the model's config declares it: `data_type` is Triton's, e.g. "TYPE_UINT8"."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class ServedConfig:
    """The part of a model's config that the client reads, free of any library's types."""

    name: str
    version: str
    max_batch_size: int
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `resize_short` pixels, then cut the central `crop` x `crop`: the rule `IMPLEMENTED`."""

    resize_short: int
    crop: int
    sha256: str


@dataclass(frozen=True)
class ModelContract:
    """One served model: `served_name` is Triton's name for it, `architecture` PaddleClas's.

    `version` is the version directory it was read from, `release` the builder's id of its content. `emulated` says what
    this server only imitates (an FP16 model on a CPU), or is None.
    """

    served_name: str
    version: str
    architecture: str
    precision: str
    release: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    emulated: str | None
    input_name: str
    output_name: str
    max_batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """The contract without its label texts, ready for JSON."""
        return {
            "served_name": self.served_name,
            "version": self.version,
            "architecture": self.architecture,
            "precision": self.precision,
            "release": self.release,
            "input_size": self.preprocessing.crop,
            "resize_short": self.preprocessing.resize_short,
            "classes": len(self.labels),
            "emulated": self.emulated,
            "max_batch_size": self.max_batch_size,
        }


def contract_from_config(config: ServedConfig) -> ModelContract:
    """The contract of a served model.

    Raises `PreprocessMismatch` when its preprocessing is not the one implemented here or its hash does not match, and
    `BadResponse` when any other part is missing or contradicts another.
    """
    parameters = _Parameters(config)
    preprocessing = _preprocessing(config.name, parameters)
    labels = _labels(config.name, parameters)
    architecture, precision = parameters["architecture"], parameters["precision"]
    _check_names(config.name, architecture, precision)
    crop = preprocessing.crop
    image = _only_tensor(config.name, "input", config.inputs, ServedTensor("image", "TYPE_UINT8", (crop, crop, 3)))
    probabilities = _only_tensor(
        config.name, "output", config.outputs, ServedTensor("probabilities", "TYPE_FP32", (len(labels),))
    )
    if config.max_batch_size < 1:
        raise _damaged(config.name, f"max_batch_size is {config.max_batch_size}, expected at least 1")
    return ModelContract(
        served_name=config.name,
        version=config.version,
        architecture=architecture,
        precision=precision,
        release=parameters["release"],
        preprocessing=preprocessing,
        labels=labels,
        emulated=config.parameters.get("emulated"),
        input_name=image.name,
        output_name=probabilities.name,
        max_batch_size=config.max_batch_size,
    )


class _Parameters:
    """The config's parameters, where a missing or empty one is an error that names it."""

    def __init__(self, config: ServedConfig) -> None:
        self._name, self._values = config.name, config.parameters

    def __getitem__(self, key: str) -> str:
        value = self._values.get(key, "")
        if not value:
            raise _damaged(self._name, f"parameter {key!r} is missing")
        return value


def _preprocessing(name: str, parameters: _Parameters) -> Preprocessing:
    text, expected_sha256 = parameters["preprocess"], parameters["preprocess_sha256"]
    found_sha256 = _sha256(text)
    if found_sha256 != expected_sha256:
        raise PreprocessMismatch(
            f"{name}: the preprocessing it describes has SHA-256 {found_sha256[:16]}..., its preprocess_sha256 says "
            f"{expected_sha256[:16]!r}: its config.pbtxt was altered; build and publish the model again"
        )
    rule = _json(name, "preprocess", text)
    if not isinstance(rule, dict) or set(rule) != {*IMPLEMENTED, *_SIZES}:
        found = sorted(rule) if isinstance(rule, dict) else rule
        raise PreprocessMismatch(
            f"{name}: its preprocessing has the steps {found}, this client does {sorted({*IMPLEMENTED, *_SIZES})}: "
            "use the client that belongs to this repository"
        )
    for key, implemented in IMPLEMENTED.items():
        if rule[key] != implemented:
            raise PreprocessMismatch(
                f"{name}: its preprocessing wants {key} = {rule[key]!r}, this client does {implemented!r} only: "
                "use the client that belongs to this repository"
            )
    sizes = {key: rule[key] for key in _SIZES}
    if any(type(size) is not int for size in sizes.values()) or not (
        1 <= sizes["crop"] <= sizes["resize_short"] <= MAX_INPUT_SIZE
    ):
        raise PreprocessMismatch(
            f"{name}: its preprocessing says {sizes}; expected 1 <= crop <= resize_short <= {MAX_INPUT_SIZE} pixels"
        )
    return Preprocessing(sizes["resize_short"], sizes["crop"], found_sha256)


def _labels(name: str, parameters: _Parameters) -> tuple[str, ...]:
    text, classes = parameters["labels"], parameters["classes"]
    if _sha256(text) != parameters["labels_sha256"]:
        raise _damaged(name, "its labels do not have the SHA-256 that labels_sha256 says")
    labels = _json(name, "labels", text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _damaged(name, "its labels are not a list of texts")
    if not 1 <= len(labels) <= MAX_CLASSES or classes != str(len(labels)):
        raise _damaged(name, f"it has {len(labels)} labels for classes = {classes[:20]!r}, at most {MAX_CLASSES}")
    return tuple(labels)


def _check_names(name: str, architecture: str, precision: str) -> None:
    """Whoever asks for InceptionV3 in fp16 must not be answered by another model in its folder."""
    parsed = slug_and_precision(name)
    if parsed is None or SLUGS.get(architecture) != base_slug(parsed[0]) or precision != parsed[1]:
        raise _damaged(name, f"it says that it is {architecture!r} in {precision!r}, which is not what its name says")


def _only_tensor(name: str, kind: str, found: tuple[ServedTensor, ...], expected: ServedTensor) -> ServedTensor:
    if found != (expected,):
        raise _damaged(name, f"its {kind} is {list(found)}, expected {expected}")
    return expected


def _json(name: str, key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"parameter {key!r} is not JSON ({error})") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(name: str, what: str) -> BadResponse:
    return BadResponse(f"{name}: {what}: its config.pbtxt does not describe a model of this project; publish it again")
