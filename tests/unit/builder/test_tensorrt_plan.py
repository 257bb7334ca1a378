"""What is asked of TensorRT 10.4 and 11.2, through the real Polygraphy, of a stand-in: see `recording_tensorrt`."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from builder.errors import IncompleteBuild, PlanFailed
from builder.profiles import BatchProfile, profiles_from_sizes
from builder.tensorrt_plan import PlanJob, PlanOptions, plan_from_onnx, plan_runner

_SPEC = importlib.util.spec_from_file_location("recording_tensorrt", Path(__file__).with_name("recording_tensorrt.py"))
recording_tensorrt = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = recording_tensorrt  # dataclasses look their module up
_SPEC.loader.exec_module(recording_tensorrt)

OLD, NEW = recording_tensorrt.VERSIONS


def _forget_polygraphy():
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "polygraphy"}


@pytest.fixture
def install(monkeypatch):
    """Put the stand-in of a version in place of tensorrt.

    Polygraphy keeps the module it has found, and a logger made of it: for each version it is imported anew.
    """
    before = _forget_polygraphy()

    def put(version):
        module = recording_tensorrt.recording_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module.recording_

    yield put
    _forget_polygraphy()
    sys.modules.update(before)


@pytest.fixture(params=[OLD, NEW])
def recording(request, install):
    """The stand-in of either version."""
    return install(request.param)


@pytest.fixture
def job(tmp_path):
    """An FP16 job for a file whose input is as the exporter writes it."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 96, 96, 3])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 96, 96, 3])
    cast = helper.make_node("Cast", ["image"], ["probabilities"], to=TensorProto.FLOAT)
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([cast], "made", [image], [out])).SerializeToString())
    return PlanJob(path, "fp16", 96, profiles_from_sizes([8]), PlanOptions(), tmp_path / "timing" / "t4.cache")


def changed(job, **options):
    return PlanJob(job.onnx, job.precision, job.input_size, job.profiles, PlanOptions(**options), job.timing_cache)


def test_networks_are_strongly_typed(recording, job):
    """The types are in the file: no precision flag is set, no other network flag, and TF32, on by default, is off."""
    plan = plan_from_onnx(job)
    assert (plan.data, plan.tensorrt) == (b"plan", recording.surface["version"])
    assert recording.parsed == str(job.onnx)
    assert recording.network_flags == {"STRONGLY_TYPED"}
    assert recording.builder_flags == set()


def test_the_same_flag_has_two_numbers():
    """Why no number is written down here: 1 on TensorRT 10, 0 on 11, where the flag before it has gone."""
    flags = {
        version: recording_tensorrt.surface_of(version)["enums"]["NetworkDefinitionCreationFlag"]
        for version in (OLD, NEW)
    }
    assert (flags[OLD]["STRONGLY_TYPED"], flags[NEW]["STRONGLY_TYPED"]) == (1, 0)
    assert "EXPLICIT_BATCH" in flags[OLD]
    assert "EXPLICIT_BATCH" not in flags[NEW]


def test_options_arrive(recording, job):
    """TF32 on request only, the workspace in bytes, the optimisation level, and layers described in detail."""
    plan_from_onnx(job)
    assert recording.pools == {"WORKSPACE": 4096 * 1024**2}
    assert (recording.optimization_level, recording.verbosity) == (3, "DETAILED")
    plan_from_onnx(changed(job, builder_optimization_level=5, workspace_mib=1, is_tf32_allowed=True))
    assert recording.pools == {"WORKSPACE": 1024**2}
    assert (recording.optimization_level, recording.builder_flags) == (5, {"TF32"})


@pytest.mark.parametrize("sizes", [(8,), (1, 4, 8)])
def test_each_size_is_a_profile(recording, job, sizes):
    """Channels last, from one image to the size, tuned for the size; in the order that config.pbtxt numbers them."""
    plan_from_onnx(PlanJob(job.onnx, "fp32", 96, profiles_from_sizes(sizes), job.options, job.timing_cache))
    assert recording.profiles == [{"image": ((1, 96, 96, 3), (size, 96, 96, 3), (size, 96, 96, 3))} for size in sizes]
    assert recording.inspected == ("JSON", (sizes[0], 96, 96, 3))


def test_a_profile_has_three_sizes(recording, job):
    """The smallest, the one it is tuned for and the largest, in this order."""
    plan_from_onnx(PlanJob(job.onnx, "fp16", 96, (BatchProfile(2, 4, 8),), job.options, job.timing_cache))
    assert recording.profiles == [{"image": ((2, 96, 96, 3), (4, 96, 96, 3), (8, 96, 96, 3))}]


def test_weak_typing_is_an_fp16_flag_on_10(install, job):
    """The A/B switch: TensorRT chooses layer by layer, and only an FP16 job lets it choose FP16."""
    recording = install(OLD)
    plan_from_onnx(changed(job, is_weakly_typed=True))
    assert (recording.network_flags, recording.builder_flags) == (set(), {"FP16"})
    options = PlanOptions(is_weakly_typed=True)
    plan_from_onnx(PlanJob(job.onnx, "fp32", 96, job.profiles, options, job.timing_cache))
    assert (recording.network_flags, recording.builder_flags) == (set(), set())


def test_weak_typing_is_refused_on_11(install, job):
    """The flag is gone, and wrappers that go on without it build FP32 in silence."""
    recording = install(NEW)
    with pytest.raises(IncompleteBuild, match=r"before 11\.0, and here is 11\.2\.1\.2"):
        plan_from_onnx(changed(job, is_weakly_typed=True))
    assert recording.parsed == ""


def test_the_timing_cache_is_read_and_written(recording, job):
    """The first build starts with none; the next reads it, and what is in the file is kept in what is saved."""
    first = plan_from_onnx(job)
    assert recording.loaded_cache == b""
    assert first.timing_cache_sha256 == hashlib.sha256(b"measured").hexdigest()
    job.timing_cache.write_bytes(b"kept ")
    recording.measured = b"new "
    second = plan_from_onnx(job)
    assert recording.loaded_cache == b"kept "
    saved = job.timing_cache.read_bytes()
    assert saved.startswith(b"kept new ")
    assert second.timing_cache_sha256 == hashlib.sha256(saved).hexdigest()


def test_a_cache_that_cannot_be_written_is_told_before_the_build(recording, job, tmp_path):
    """It is saved after minutes of work, which it would take down."""
    (tmp_path / "timing").write_text("a file where the directory should be")
    with pytest.raises(PlanFailed, match=r"cannot be written\. Nothing was built"):
        plan_from_onnx(job)
    assert recording.parsed == ""


def test_what_stands_in_the_place_of_the_cache_is_told_before_the_build(recording, job):
    """The directory can be written, and the file in it not."""
    job.timing_cache.mkdir(parents=True)
    with pytest.raises(PlanFailed, match=r"cannot be written\. Nothing was built"):
        plan_from_onnx(job)
    assert recording.parsed == ""


def test_a_plan_outlives_the_cache_that_cannot_be_saved(recording, job, monkeypatch):
    """The disk is full, or somebody was faster: minutes of the next build are lost, not the plan of this one."""
    built = recording_tensorrt.Builder.build_serialized_network

    def and_take_the_place(self, network, config):
        job.timing_cache.mkdir()
        return built(self, network, config)

    monkeypatch.setattr(recording_tensorrt.Builder, "build_serialized_network", and_take_the_place)
    plan = plan_from_onnx(job)
    assert (plan.data, plan.timing_cache_sha256) == (b"plan", None)
    (caution,) = plan.cautions
    assert f"the timing cache {job.timing_cache} could not be saved" in caution


def test_what_another_build_has_saved_meanwhile_is_kept(recording, job, monkeypatch):
    """Two builds share the file: the last to save has the timings of both, and nothing to be told of."""
    built = recording_tensorrt.Builder.build_serialized_network

    def while_another_saves(self, network, config):
        job.timing_cache.write_bytes(b" by another")
        return built(self, network, config)

    monkeypatch.setattr(recording_tensorrt.Builder, "build_serialized_network", while_another_saves)
    plan = plan_from_onnx(job)
    assert job.timing_cache.read_bytes() == b"measured by another"
    assert plan.timing_cache_sha256 == hashlib.sha256(b"measured by another").hexdigest()
    assert plan.cautions == ()
    assert {path.name for path in job.timing_cache.parent.iterdir()} <= {"t4.cache", "t4.cache.lock"}


def test_the_plan_is_loaded_again_to_be_described(recording, job):
    """The layers are those of the bytes that are returned."""
    recording.layers = '{"Layers": [{"Name": "conv"}]}'
    assert plan_from_onnx(job).layers == recording.layers
    assert recording.deserialized == b"plan"


def test_a_graph_that_the_parser_refuses_is_told_in_its_words(recording, job, capsys):
    """Polygraphy's exception says only that it could not parse; and the build's output stays ours."""
    recording.parser_errors = ["In node 3: UNSUPPORTED_NODE: no importer for Bernoulli"]
    with pytest.raises(
        PlanFailed, match=rf"{recording.surface['version']}.*no importer for Bernoulli.*Could not parse"
    ):
        plan_from_onnx(job)
    assert capsys.readouterr() == ("", "")


def test_a_build_without_an_engine_is_told_with_its_log(recording, job):
    """TensorRT returns None, and the reason only to its logger."""
    recording.plan, recording.log_of_build = None, "Could not find any implementation for node conv."
    with pytest.raises(PlanFailed, match=r"implementation for node conv; .*Invalid Engine.*Nothing was published"):
        plan_from_onnx(job)
    assert not job.timing_cache.exists()


def test_an_engine_without_room_is_told(recording, job):
    """The description needs an execution context, which needs memory."""
    recording.has_memory = False
    with pytest.raises(PlanFailed, match="no execution context"):
        plan_from_onnx(job)


def test_an_input_of_another_name_is_refused(recording, job):
    """Polygraphy looks for the profile's names among the network's inputs."""
    job.onnx.write_bytes(job.onnx.read_bytes().replace(b"image", b"photo"))
    with pytest.raises(PlanFailed, match="photo"):
        plan_from_onnx(job)


class HostCuda:
    """What Polygraphy asks of CUDA, in this machine's own memory."""

    def __init__(self):
        self._held = {}

    def create_stream(self):
        return 1

    def stream_synchronize(self, ptr):
        pass

    destroy_stream = stream_synchronize

    def malloc(self, nbytes):
        memory = ctypes.create_string_buffer(max(nbytes, 1))
        self._held[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def free(self, ptr):
        self._held.pop(ptr, None)  # 0, where nothing was allocated, is freed without complaint

    def memcpy(self, dst, src, nbytes, kind, stream_ptr=None):
        ctypes.memmove(dst, src, nbytes)


def test_a_plan_runs_on_each_profile(recording, monkeypatch):
    """uint8 images go in as they are, probabilities come out, and an answer stays when the next is computed."""
    import polygraphy.cuda.cuda

    monkeypatch.setattr(polygraphy.cuda.cuda, "G_CUDA", HostCuda())
    asked = []

    def answer(profile, images):
        asked.append((profile, images))
        return np.full((len(images), 10), images.mean() / 100 + profile, np.float32)

    recording.answer = answer
    images = np.random.default_rng(1).integers(0, 256, (8, 96, 96, 3), dtype=np.uint8)
    with plan_runner(b"plan") as run:
        answers = [run(profile, images[:batch]) for profile, batch in ((0, 1), (1, 1), (1, 3), (0, 8))]
    assert [(profile, len(seen)) for profile, seen in asked] == [(0, 1), (1, 1), (1, 3), (0, 8)]
    for (profile, seen), got in zip(asked, answers, strict=True):
        assert np.array_equal(seen, images[: len(seen)])
        assert (got.shape, got.dtype) == ((len(seen), 10), np.float32)
        assert np.array_equal(got, np.full_like(got, np.float32(seen.mean() / 100 + profile)))


def test_a_run_that_fails_is_told_with_profile_and_batch(recording, monkeypatch):
    """The batch that does not fit in memory is a fact worth having."""
    import polygraphy.cuda.cuda

    monkeypatch.setattr(polygraphy.cuda.cuda, "G_CUDA", HostCuda())

    def answer(profile, images):
        raise RuntimeError("out of memory")

    recording.answer = answer
    images = np.zeros((3, 96, 96, 3), np.uint8)
    with (
        plan_runner(b"plan") as run,
        pytest.raises(PlanFailed, match="on profile 1 at batch 3: RuntimeError: out of memory"),
    ):
        run(1, images)


def test_a_plan_that_cannot_be_loaded_is_told(recording):
    """Such as one of another version, whose bytes TensorRT does not take."""
    with pytest.raises(PlanFailed, match="could not load the plan"), plan_runner(b"of another version"):
        pass


def test_a_host_without_cuda_is_told(recording):
    """This machine is one: the runner's stream is the first thing that needs the CUDA library."""
    with pytest.raises(PlanFailed, match="CUDA"), plan_runner(b"plan"):
        pass


def test_missing_modules_are_told_together(monkeypatch, job):
    """With what to install and where the rest is."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(IncompleteBuild, match=r"no tensorrt .* and no polygraphy .*image.*polygraphy>=0\.53"):
        plan_from_onnx(job)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_stand_in_offers_only_genuine_names(version):
    """Else it could let a call pass that fails on the host."""
    surface, module = recording_tensorrt.surface_of(version), recording_tensorrt.recording_tensorrt(version)
    offered = {name for name in vars(module) if not name.startswith("_")} - {"recording_"}
    assert offered <= set(surface["module"])
    special = {"__enter__", "__exit__", "__getitem__", "__len__", "__bool__"}
    for cls in recording_tensorrt.CLASSES:
        own = {name for name in vars(cls) if not name.startswith("_") or name in special}
        assert own <= set(surface["classes"][cls.__name__]), cls
    with pytest.raises(AttributeError):
        module.IBuilderConfig().max_workspace_size = 1  # went with TensorRT 10
    assert hasattr(module.BuilderFlag, "FP16") == (version == OLD)


def test_polygraphy_itself_refuses_fp16_on_11(install, job):
    """The second lock behind ours: the stand-in lacks the flag as the genuine bindings do."""
    install(NEW)
    from polygraphy.backend.trt import create_config, create_network
    from polygraphy.exception import PolygraphyException

    builder, network = create_network(strongly_typed=False)
    with pytest.raises(PolygraphyException, match=r"fp16.*11\.2\.1\.2"):
        create_config(builder, network, fp16=True)
