"""NVIDIA's own ONNX parser and plan builder on our graphs, without a GPU: see `nvidia_parser` for what that proves."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest

from builder.profiles import profiles_from_sizes
from builder.tensorrt_rules import violations


def _loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent
nvidia_parser = _loaded(HERE / "nvidia_parser.py")
graphs = _loaded(HERE.parent / "unit" / "builder" / "damaged_graphs.py")

ONE_PROFILE, THREE_PROFILES = (
    [(profile.minimum, profile.optimum, profile.maximum) for profile in profiles_from_sizes(sizes)]
    for sizes in ((8,), (1, 4, 8))
)
# What TensorRT-RTX compiles for: FP16 for a T4's 7.5. Of FP32 it says "FP32 GEMM is not supported" there, a limit of
# its own that TensorRT has not, so FP32 is compiled for the next capability it has.
CAPABILITIES = {"fp16": "SM75", "fp32": "SM86"}

DAMAGE = {
    f"{precision}, {name}": (precision, damage, rule)
    for precision, table in (("fp32", graphs.FP32_DAMAGE), ("fp16", graphs.FP16_DAMAGE))
    for name, (damage, rule, _) in table.items()
}
# The damage that NVIDIA's parser refuses as well, with its words. The other rules are stricter than it, on purpose.
REFUSED_BY_NVIDIA = {
    "fp32, an operator nobody looked up": "",  # its words are "false"
    "fp32, a loop": "/Scan_inserted",
    "fp32, a tensor written twice": "toposort",
    "fp32, uint8 transposed before the cast": "/Transpose_inserted: first input has type UInt8",
    "fp32, uint8 in the middle": "does not support UINT8 types for intermediate tensors",
    "fp32, groups that do not fit": "Kernel weight dimension failed to broadcast",
    "fp32, dilated pooling": "does not support dilations other than 1",
    "fp32, indices": "1 outputs for MaxPool",
    "fp32, dropout in training": "does not support the Dropout operator in training mode",
    "fp32, normalisation in training": "training_mode == 1 in BatchNormalization",
    "fp32, weights outside the file": "Failed to import initializer",
    "fp16, a weight left in single": "must be of same type",
}


@pytest.fixture(scope="module")
def nvidia():
    """NVIDIA's parser in its own process, for this module."""
    for module in ("tensorrt_rtx_libs", "tensorrt_rtx_bindings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"NVIDIA's parser is not installed here ({module}): its wheels are for Linux on x86-64 only")
    with nvidia_parser.NvidiaParser() as parser:
        yield parser


@pytest.fixture(scope="module")
def small():
    """GoogLeNet at the smallest size, in both precisions."""
    return graphs.small_graphs()


def ask(nvidia, published, **request):
    size = published.spec.input_size
    return nvidia.ask(published.model.SerializeToString(), image=[size, size, 3], **request)


def test_a_published_file_is_read_as_the_network_it_is(nvidia, published):
    """Strongly typed: bytes in, FP32 probabilities out, every convolution in the precision of the file's name."""
    size, classes = published.spec.input_size, published.spec.classes
    answer = ask(nvidia, published, profiles=THREE_PROFILES)
    assert answer["refusals"] == []
    assert answer["is_accepted"]
    assert answer["is_strongly_typed"]
    assert answer["inputs"] == [["image", "UINT8", [-1, size, size, 3]]]
    assert answer["outputs"] == [["probabilities", "FLOAT", [-1, classes]]]
    assert answer["convolution_types"] == [{"fp16": "HALF", "fp32": "FLOAT"}[published.precision]]
    assert answer["layers"] >= len(published.model.graph.node)
    assert answer["profiles"] == [0, 1, 2]


def test_a_published_file_is_compiled_for_a_gpu_that_is_not_here(nvidia, published):
    """NVIDIA's builder takes the graph with our default profile, and the plan holds its weights in that precision."""
    answer = ask(nvidia, published, profiles=ONE_PROFILE, capability=CAPABILITIES[published.precision])
    assert answer["profiles"] == [0]
    assert answer["plan_bytes"], answer["errors"]
    assert 0.9 < answer["plan_bytes"] / published.model.ByteSize() < 1.3


def test_three_profiles_are_compiled_for_a_t4(nvidia, small):
    """`--profiles 1,4,8` is one plan with three profiles."""
    request = {"image": [96, 96, 3], "capability": "SM75"}
    answer = nvidia.ask(small["fp16"].SerializeToString(), profiles=THREE_PROFILES, **request)
    assert answer["profiles"] == [0, 1, 2]
    assert answer["plan_bytes"], answer["errors"]


@pytest.mark.parametrize("sizes", [(1, 8, 4), (2, 1, 4)], ids=str)
def test_a_profile_out_of_order_is_refused(nvidia, small, sizes):
    """So an accepted profile above means something."""
    answer = nvidia.ask(small["fp16"].SerializeToString(), image=[96, 96, 3], profiles=[sizes])
    assert answer["profiles"] == [-1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("profiles", [ONE_PROFILE, THREE_PROFILES], ids=["one profile", "three profiles"])
def test_our_builder_gets_a_plan_out_of_nvidias(nvidia, small, precision, profiles):
    """Real Polygraphy, real bindings: every flag, pool, level and profile that we ask for is one they take."""
    model = small[precision]
    request = {"image": [96, 96, 3], "profiles": profiles, "precision": precision, "through_our_builder": True}
    answer = nvidia.ask(model.SerializeToString(), **request)
    assert answer["plan_bytes"] > 0.9 * model.ByteSize()
    assert (answer["is_cache_kept"], answer["cautions"]) == (True, [])


@pytest.mark.parametrize("name", DAMAGE)
def test_our_rules_are_as_strict_as_nvidias_parser(nvidia, small, name):
    """What it refuses, in its words, ours name too; and which it does is known."""
    precision, damage, rule = DAMAGE[name]
    model = copy.deepcopy(small[precision])
    damage(model)
    answer = nvidia.ask(model.SerializeToString())
    assert any(sentence.startswith(f"{rule}: ") for sentence in violations(model))
    words = REFUSED_BY_NVIDIA.get(name)
    assert answer["is_accepted"] == (words is None), answer["refusals"]
    assert words is None or any(words in refusal for refusal in answer["refusals"]), answer["refusals"]


def test_every_refusal_is_of_a_damage_that_is_tried():
    """A renamed damage does not drop out of the comparison."""
    assert DAMAGE.keys() >= REFUSED_BY_NVIDIA.keys()
