"""A plan is proved before it is published: it runs several batch sizes on every profile, and its layers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.engine_layers import check_precisions, layer_precisions
from builder.parity import Bound, compare, log_of
from builder.profiles import BatchProfile

# One image, an odd number that no kernel is tuned for, and a full batch.
PROOF_BATCHES = (1, 3, 8)

_MEANING = (
    "The plan does not answer as ONNX Runtime in FP32 does. Build it again without the timing cache; if it stays so, "
    "another TensorRT or --precision fp32 is the way out"
)
# |difference of log-probabilities| allowed between a plan and ONNX Runtime's FP32 answer, and the share of equal top-1.
# Unverified on hardware: no plan has been built yet. FP32: 4e-4 was seen between torch and ONNX Runtime; the rest is
# for kernels that transform before they multiply (Winograd). FP16: the seeded networks in torch's half precision on a
# CPU, which may keep longer sums than a tensor core, differ by 0.06 (GoogLeNet) to 0.61 (Xception71); red and blue
# exchanged, or two images of a batch, move some class of every image by 7.8 or more. Their best two classes are as near
# as 0.01, so that one top-1 in eight flips; of such a wrong plan none is right. TF32, which `--tf32` allows an FP32
# plan on newer GPUs, has the 11 bits of FP16.
BOUNDS = {
    "fp32": Bound(1e-2, 1.0, _MEANING),
    "tf32": Bound(2.0, 0.5, _MEANING),
    "fp16": Bound(2.0, 0.5, _MEANING),
}


def prove_plan(  # noqa: PLR0917 - a plan, how it is run, and what it is held against
    what: str,
    precision: str,
    layers: str,
    profiles: Sequence[BatchProfile],
    run: Callable[[int, NDArray[np.uint8]], NDArray[np.float32]],
    images: NDArray[np.uint8],
    reference: NDArray[np.float32],
) -> dict[str, Any]:
    """The verdict for a plan's record: what its layers compute in, and each run against the reference.

    `precision` is a key of `BOUNDS`, `layers` the engine inspector's JSON; `run` maps (profile, uint8 N x H x W x 3) to
    probabilities, `images` are 8 and `reference` their FP32 probabilities, 8 x classes. Every profile runs the batch
    sizes of 1, 3 and 8 that it admits. Raises `PrecisionRejected` when most layers compute in another precision,
    `ParityFailed` naming profile and batch at the first run that answers wrongly.
    """
    seen = layer_precisions(layers)
    check_precisions(what, precision, seen)
    bound = BOUNDS[precision]
    runs = []
    for profile, batch_size in _runs(profiles):
        compared = f"{what} on profile {profile} at batch {batch_size}"
        answer = run(profile, images[:batch_size])
        verdict = compare(compared, precision, log_of(reference[:batch_size]), answer, BOUNDS)
        runs.append(
            {
                "profile": profile,
                "batch_size": batch_size,
                "max_log_probability_difference": verdict.max_log_probability_difference,
                "top1_agreement": verdict.top1_agreement,
            }
        )
    return {
        "compared_with": "ONNX Runtime, FP32",
        "tolerance": bound.log_probability_difference,
        "required_top1_agreement": bound.top1_agreement,
        "runs": runs,
        "layers": seen.as_dict(),
    }


def _runs(profiles: Sequence[BatchProfile]) -> Iterator[tuple[int, int]]:
    for index, profile in enumerate(profiles):
        yield from ((index, size) for size in PROOF_BATCHES if profile.admits(size))
