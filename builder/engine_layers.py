"""In which precision a plan computes, as its own list of layers tells. Standard library only.

TensorRT's inspector describes each layer of a DETAILED plan: `LayerType` (CaskConvolution, CaskGemmConvolution,
CaskJitConv; gemm, correlation or kgen where its compiler Myelin fused a region), `ParameterType`, `Weights.Type`, and a
`Format/Datatype` for each input and output, in words that changed with the releases ("Half", "Half(64,1:8)", "Channel
major FP16 format ...", "N/A due to dynamic shapes"). None of this is promised by NVIDIA: what cannot be read is counted
as unknown, and a plan of which nothing can be read is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from builder.errors import PrecisionRejected

HALF, SINGLE, OTHER = "half", "single", "other"
_WANTED = {"fp16": HALF, "fp32": SINGLE, "tf32": SINGLE}
_COMPUTING = re.compile(r"conv|gemm|matri|matmul|correlation|fully_?connected", re.IGNORECASE)
# Regions that show their outside only, and copies: their types say nothing about arithmetic.
_OPAQUE = re.compile(r"reformat|noop|copy|shuffle|cast|foreign|^myelin$|constant|signal|wait", re.IGNORECASE)
# In this order: bf16 has an f16 in it, and fp8 would be a float.
_TYPE_WORDS = (
    (OTHER, re.compile(r"bf16|bfloat|fp8|float8|fp4|float4|u?int\d|bool", re.IGNORECASE)),
    (HALF, re.compile(r"half|fp16|float16", re.IGNORECASE)),
    (SINGLE, re.compile(r"float|fp32", re.IGNORECASE)),
)
# Kernel names: "..._f16f16_f16f16_f16_...", "turing_h1688cudnn_..." and "volta_s884cudnn_..." are FP16 (884, 1688 and
# 16816 are shapes of tensor core instructions, and with s the sum is FP32); "volta_scudnn_..." and
# "..._f32f32_f32f32_f32_..." are FP32.
_TACTIC_WORDS = (
    (OTHER, re.compile(r"i8i8|imma|int8|bf16", re.IGNORECASE)),
    (HALF, re.compile(r"f16f16|[hs](884|1688|16816)|hcudnn|hgemm|fp16", re.IGNORECASE)),
    (SINGLE, re.compile(r"f32f32|scudnn|sgemm|fp32", re.IGNORECASE)),
)


@dataclass(frozen=True)
class LayerPrecisions:
    """How many convolutions and matrix products compute in FP16, in FP32, in something else, and in what nobody knows.

    `evidence` says what was read: the layers' weights, tensors or kernel names; or, where no such layer was recognised,
    the tensors of the others, which are then what is counted.
    """

    half: int
    single: int
    other: int
    unknown: int
    evidence: str

    def as_dict(self) -> dict[str, Any]:
        """For the record of a plan."""
        return asdict(self)


def layer_precisions(layers_json: str) -> LayerPrecisions:
    """Count the precisions in the inspector's JSON text; text that is no such list counts as nothing recognised."""
    layers = list(_described(layers_json))
    computing = [layer for layer in layers if _computes(layer)]
    found = [_precision(layer) for layer in computing]
    read = Counter(source for _, source in found if source)
    if read:
        sources = ", ".join(f"{count} by {source}" for source, count in read.most_common())
        return _counted([kind for kind, _ in found], f"convolutions and matrix products: {sources}")
    plain = [layer for layer in layers if not _OPAQUE.search(str(layer.get("LayerType", "")))]
    tensors = [kind for layer in plain for kind in _tensor_kinds(layer, "Outputs") if kind in {HALF, SINGLE}]
    if tensors:
        return _counted(tensors, "output tensors of all layers, because no convolution tells its types")
    return LayerPrecisions(0, 0, 0, len(computing), f"nothing: {len(layers)} layers are described, none with a type")


def check_precisions(what: str, precision: str, seen: LayerPrecisions) -> None:
    """Make sure that most of what was recognised computes in `precision`.

    Raises `PrecisionRejected` when most does not, or nothing was recognised. Most, not all: a weakly typed plan may
    keep a layer in FP32 because it is faster.
    """
    counts = {HALF: seen.half, SINGLE: seen.single, OTHER: seen.other}
    total = sum(counts.values())
    if total == 0:
        raise PrecisionRejected(
            f"{what}: the layers of the plan do not tell in what precision they compute (read from {seen.evidence}), "
            f"and it must be seen to be {precision}. Nothing was published. builder/engine_layers.py says what it can "
            "read; a plan from another builder must be built with detailed profiling verbosity"
        )
    wanted = counts[_WANTED[precision]]
    if 2 * wanted <= total:
        raise PrecisionRejected(
            f"{what}: {wanted} of {total} layers compute in {precision} (FP16 {seen.half}, FP32 {seen.single}, other "
            f"{seen.other}; read from {seen.evidence}); more than half were expected. Nothing was published. Either "
            f"the plan was not built from the {precision} model.onnx, or TensorRT did not keep its types"
        )


def _described(layers_json: str) -> Iterator[Mapping[str, Any]]:
    """The layers that are more than a name, which is all a plan without DETAILED verbosity has."""
    try:
        read = json.loads(layers_json)
    except ValueError:
        return
    layers = read.get("Layers") if isinstance(read, dict) else None
    yield from (layer for layer in layers or () if isinstance(layer, dict))


def _computes(layer: Mapping[str, Any]) -> bool:
    return any(_COMPUTING.search(str(layer.get(key, ""))) for key in ("LayerType", "ParameterType"))


def _precision(layer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(kind, what told it), by the surest evidence there is; (None, None) without any."""
    weights = layer.get("Weights")
    if isinstance(weights, dict) and (kind := _first(_TYPE_WORDS, weights.get("Type"))):
        return kind, "weights"
    for kind in _tensor_kinds(layer, "Inputs"):
        return kind, "input tensors"
    kind = _first(_TACTIC_WORDS, layer.get("TacticName"))
    return kind, "kernel name" if kind else None


def _tensor_kinds(layer: Mapping[str, Any], side: str) -> Iterator[str]:
    """The readable types of the tensors on one side of a layer."""
    for tensor in layer.get(side) or ():
        told = tensor.get("Format/Datatype") if isinstance(tensor, dict) else None
        if kind := _first(_TYPE_WORDS, told):
            yield kind


def _first(words: tuple[tuple[str, re.Pattern[str]], ...], text: object) -> str | None:
    return next((kind for kind, word in words if isinstance(text, str) and word.search(text)), None)


def _counted(kinds: Sequence[str | None], evidence: str) -> LayerPrecisions:
    count = Counter(kinds)
    return LayerPrecisions(count[HALF], count[SINGLE], count[OTHER], count[None], evidence)
