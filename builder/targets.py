"""The machines a folder is built for: one row each. Standard library only.

Sources: NVIDIA's TensorRT release notes (Volta left with 10.5, the FP16 builder flag with 11.0) and the version files
of the Triton releases. The rows are defaults; the plan itself records what built it.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import UsageError

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Target:
    """One kind of host.

    `compute_capability` and `plan_filename` are None on a host without a GPU; `precisions` is what `--precision`
    means when it is not given.
    """

    name: str
    title: str
    compute_capability: str | None
    plan_filename: str | None
    triton_release: str
    tensorrt: str | None
    precisions: tuple[str, ...]


CPU = Target("cpu", "a machine without a GPU", None, None, "24.10", None, ("fp32",))
T4 = Target("t4", "NVIDIA T4", "7.5", "sm75.plan", "26.08", "11.2.1", ("fp16", "fp32"))
V100 = Target("v100", "NVIDIA V100", "7.0", "sm70.plan", "24.09", "10.4.0.26", ("fp16", "fp32"))

TARGETS: dict[str, Target] = {target.name: target for target in (T4, V100, CPU)}
GPU_TARGETS: tuple[Target, ...] = (V100, T4)


def precisions_from_option(text: str | None, target: Target) -> tuple[str, ...]:
    """The precisions of `--precision fp32,fp16`, in that order; the target's own without the option.

    Raises `UsageError` for a word that is not a precision.
    """
    if text is None:
        return target.precisions
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = sorted(set(wanted) - set(PRECISIONS))
    if unknown or not wanted:
        raise UsageError(f"--precision {text!r}: expected some of {', '.join(PRECISIONS)}, separated by commas")
    return tuple(dict.fromkeys(wanted))
