"""The same plan, asked for on a command line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from builder.profiles import profiles_from_sizes
from builder.tensorrt_plan import PlanJob, PlanOptions
from builder.trtexec import trtexec_line

JOB = PlanJob(
    Path("1/model.onnx"), "fp16", 299, profiles_from_sizes([8]), PlanOptions(), Path(".cache/timing/t4.cache")
)
OLD, NEW = "10.4.0.26", "11.2.1.2"


def words(job: PlanJob, tensorrt: str) -> list[str]:
    return shlex.split(trtexec_line(job, plan=Path("1/sm75.plan"), tensorrt=tensorrt))


def test_every_choice_is_on_the_line():
    """File, plan, shapes, precision, limits, cache and the layers beside the plan; and no inference after it."""
    assert words(JOB, OLD) == [
        "trtexec",
        "--onnx=1/model.onnx",
        "--saveEngine=1/sm75.plan",
        "--minShapes=image:1x299x299x3",
        "--optShapes=image:8x299x299x3",
        "--maxShapes=image:8x299x299x3",
        "--stronglyTyped",
        "--noTF32",
        "--builderOptimizationLevel=3",
        "--memPoolSize=workspace:4096M",
        "--timingCacheFile=.cache/timing/t4.cache",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=1/sm75.layers.json",
        "--skipInference",
    ]


def test_tensorrt_11_is_strongly_typed_without_a_word():
    """That is the only difference between the releases."""
    assert set(words(JOB, OLD)) ^ set(words(JOB, NEW)) == {"--stronglyTyped"}


@pytest.mark.parametrize(("precision", "flags"), [("fp16", {"--fp16"}), ("fp32", set())])
def test_weak_typing_takes_the_flag_of_its_precision(precision, flags):
    """trtexec refuses --fp16 beside --stronglyTyped: one or the other."""
    weak = replace(JOB, precision=precision, options=PlanOptions(is_weakly_typed=True))
    assert {"--fp16", "--stronglyTyped"} & set(words(weak, OLD)) == flags


def test_profiles_are_numbered_where_there_are_several():
    """In the order that config.pbtxt names them."""
    job = replace(JOB, profiles=profiles_from_sizes([1, 4, 8]))
    assert [word for word in words(job, NEW) if word.startswith(("--profile=", "--opt"))] == [
        "--profile=0",
        "--optShapes=image:1x299x299x3",
        "--profile=1",
        "--optShapes=image:4x299x299x3",
        "--profile=2",
        "--optShapes=image:8x299x299x3",
    ]


def test_options_change_the_line():
    """TF32 is trtexec's own default, so that allowing it is a word less."""
    options = PlanOptions(builder_optimization_level=5, workspace_mib=512, is_tf32_allowed=True)
    changed = set(words(replace(JOB, options=options), NEW))
    assert {"--builderOptimizationLevel=5", "--memPoolSize=workspace:512M"} <= changed
    assert "--noTF32" not in changed


def test_paths_survive_a_shell():
    """The line is pasted."""
    job = replace(JOB, onnx=Path("my models/$HOME/model.onnx"))
    assert "'--onnx=my models/$HOME/model.onnx'" in trtexec_line(job, plan=Path("sm75.plan"), tensorrt=NEW)
