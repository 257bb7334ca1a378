"""The `trtexec` line that builds an equivalent plan: for who wants to see it, or build without this package."""

from __future__ import annotations

import shlex
from pathlib import Path

from builder.onnx_graph import INPUT
from builder.targets import STRONGLY_TYPED_FROM, version_key
from builder.tensorrt_plan import PlanJob


def trtexec_line(job: PlanJob, *, plan: Path, tensorrt: str) -> str:
    """The command, quoted for a shell, that builds `plan` with the trtexec of this TensorRT version.

    From 11.0 every network is strongly typed and neither `--stronglyTyped` nor `--fp16` is said. Sources of the
    options: the help of trtexec in NVIDIA/TensorRT, samples/common/sampleOptions.cpp.
    """
    options = job.options
    words = ["trtexec", f"--onnx={job.onnx}", f"--saveEngine={plan}", *_profiles(job)]
    if version_key(tensorrt) < version_key(STRONGLY_TYPED_FROM):
        if not options.is_weakly_typed:
            words.append("--stronglyTyped")
        elif job.precision == "fp16":
            words.append("--fp16")
    if not options.is_tf32_allowed:
        words.append("--noTF32")
    words += [
        f"--builderOptimizationLevel={options.builder_optimization_level}",
        f"--memPoolSize=workspace:{options.workspace_mib}M",
        f"--timingCacheFile={job.timing_cache}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={plan.with_suffix('.layers.json')}",
        "--skipInference",
    ]
    return shlex.join(words)


def _profiles(job: PlanJob) -> list[str]:
    words = []
    for index, profile in enumerate(job.profiles):
        if len(job.profiles) > 1:
            words.append(f"--profile={index}")
        sizes = (("min", profile.minimum), ("opt", profile.optimum), ("max", profile.maximum))
        words += [f"--{name}Shapes={INPUT}:{'x'.join(map(str, job.shape(size)))}" for name, size in sizes]
    return words
