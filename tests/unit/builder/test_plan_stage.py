"""Plans join real folders, proved and once only. TensorRT itself is stood in for by ONNX Runtime: see `OnnxEngine`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from builder.build import BuildOptions, Built, build
from builder.catalog import MODELS
from builder.errors import ParityFailed, PrecisionRejected, RepositoryDamaged, UsageError
from builder.manifest import has_plan, problems_of, read_manifest
from builder.plan_stage import PlanRequest, build_plans, folders_for, timing_cache
from builder.progress import Progress
from builder.publish import Repository
from builder.targets import T4, V100
from builder.tensorrt_plan import Plan, PlanJob, PlanOptions
from builder.toolchain import Gpu, Toolchain
from builder.verify import verify

_SPEC = MODELS["GoogLeNet"].at_input_size(96)
_NAMES = ("googlenet_96_fp16", "googlenet_96_fp32")
_T4_HOST = Toolchain((Gpu(0, "GPU-t4", "Tesla T4", "7.5", "580.95.05", 15360),), "11.2.1.2", "0.53.6", "3.12.3", ())
_V100_HOST = Toolchain((Gpu(0, "GPU-v", "Tesla V100", "7.0", "550.54.14", 16160),), "10.4.0", "0.53.6", "3.10.12", ())


class OnnxEngine:
    """An engine whose plan is the ONNX file and whose GPU is ONNX Runtime: real answers, no word about TensorRT."""

    def __init__(
        self, types: dict[str, str] | None = None, change: Callable | None = None, tensorrt: str = "11.2.1.2"
    ) -> None:
        self.jobs: list[PlanJob] = []
        self.shown: list[str | None] = []  # CUDA_VISIBLE_DEVICES of each build
        self._tensorrt = tensorrt
        self._types = types or {"fp32": "Float", "fp16": "Half"}
        self._change = change or (lambda answer: answer)

    def plan_from_onnx(self, job: PlanJob) -> Plan:
        self.jobs.append(job)
        self.shown.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        kind = self._types[job.precision]
        tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format/Datatype": kind}
        layer = {
            "Name": "conv", "LayerType": "CaskConvolution", "ParameterType": "Convolution",
            "Inputs": [tensor], "Outputs": [tensor], "Weights": {"Type": kind, "Count": 8},
        }  # fmt: skip
        cautions = (f"the timings of {job.precision} were not kept",)
        return Plan(job.onnx.read_bytes(), json.dumps({"Layers": [layer]}), self._tensorrt, None, cautions)

    @contextlib.contextmanager
    def plan_runner(self, plan: bytes) -> Iterator[Callable]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        yield lambda _profile, images: self._change(session.run(["probabilities"], {"image": images})[0])


@pytest.fixture(scope="module")
def staged_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory around a repository, with a small model staged for the T4 in both precisions."""
    parent = tmp_path_factory.mktemp("staged") / "parent"
    options = BuildOptions((_SPEC,), T4, ("fp16", "fp32"), parent / "models", weights="seeded")
    build(options, Progress(is_quiet=True))
    return parent


@pytest.fixture
def request_for_t4(staged_once: Path, tmp_path: Path) -> PlanRequest:
    """A copy of it for one test."""
    shutil.copytree(staged_once, tmp_path / "parent")
    return PlanRequest(T4, tmp_path / "parent" / "models", PlanOptions(), cache_dir=tmp_path / "cache")


def _run(request: PlanRequest, engine: OnnxEngine, toolchain: Toolchain = _T4_HOST) -> tuple[list[Built], str]:
    log = io.StringIO()
    return build_plans(folders_for(request), request, toolchain, Progress(log), engine), log.getvalue()


def test_staged_folders_are_published_with_their_plans(request_for_t4: PlanRequest) -> None:
    """The repository has whole folders with a proved plan, staging has none left, and the record says how it came."""
    engine = OnnxEngine()
    built, log = _run(request_for_t4, engine)
    assert [(result.served_name, result.status, result.version) for result in built] == [
        (name, "published", 1) for name in _NAMES
    ]
    assert [line.split(maxsplit=1)[0] for line in log.splitlines() if "were not kept" in line] == [*_NAMES]
    assert verify(request_for_t4.repository, T4) == {name: [] for name in _NAMES}
    assert not list(Repository(request_for_t4.repository).awaiting_plan.iterdir())
    for name, job in zip(_NAMES, engine.jobs, strict=True):
        folder = request_for_t4.repository / name
        manifest, record = read_manifest(folder), json.loads((folder / "1" / "sm75.json").read_text())
        assert record["onnx_sha256"] == manifest["files"]["1/model.onnx"]["sha256"]
        assert (record["target"], record["gpu"], record["driver"]) == ("t4", "Tesla T4", "580.95.05")
        assert record["toolchain"]["tensorrt"] == "11.2.1.2"
        assert record["trtexec"].split()[0] == "trtexec"
        assert "--onnx=model.onnx" in record["trtexec"]
        assert {(run["profile"], run["batch_size"]) for run in record["verdict"]["runs"]} == {(0, 1), (0, 3), (0, 8)}
        assert (job.precision, job.input_size) == (manifest["precision"], 96)
        assert json.loads((folder / "1" / "sm75.layers.json").read_text())["Layers"]


def test_the_v100_joins_the_t4_in_one_folder(request_for_t4: PlanRequest) -> None:
    """Building for the second GPU adds its plan: same release, same version, both plans sound."""
    first, _ = _run(request_for_t4, OnnxEngine())
    second, _ = _run(dataclasses.replace(request_for_t4, target=V100), OnnxEngine(tensorrt="10.4.0.26"), _V100_HOST)
    assert [(result.release, result.version) for result in second] == [
        (result.release, result.version) for result in first
    ]
    for target in (T4, V100):
        assert verify(request_for_t4.repository, target) == {name: [] for name in _NAMES}
    assert not list(Repository(request_for_t4.repository).releases.iterdir())


def test_a_plan_that_is_there_is_not_built_again(request_for_t4: PlanRequest) -> None:
    """Minutes on the GPU are spent once; another TensorRT, option or GPU is another plan."""
    _run(request_for_t4, OnnxEngine())
    again = OnnxEngine()
    built, log = _run(request_for_t4, again)
    assert ([result.status for result in built], again.jobs) == (["unchanged"] * 2, [])
    assert log.count("sm75.plan unchanged") == 2
    for request, toolchain in (
        (request_for_t4, dataclasses.replace(_T4_HOST, tensorrt="11.3.0")),
        (dataclasses.replace(request_for_t4, options=PlanOptions(builder_optimization_level=5)), _T4_HOST),
    ):
        engine = OnnxEngine()
        _run(request, engine, toolchain)
        assert len(engine.jobs) == 2


def test_a_copied_folder_resumes_on_another_machine(request_for_t4: PlanRequest, tmp_path: Path) -> None:
    """What was staged elsewhere and copied gets its plan and is published here; the copy is left as it was."""
    copied = tmp_path / "copied"
    shutil.copytree(Repository(request_for_t4.repository).awaiting_plan, copied)
    request = dataclasses.replace(request_for_t4, repository=tmp_path / "elsewhere" / "models", source=copied)
    built, _ = _run(request, OnnxEngine())
    assert [result.folder.parent for result in built] == [request.repository] * 2
    assert verify(request.repository, T4) == {name: [] for name in _NAMES}
    assert sorted(path.name for path in copied.iterdir()) == list(_NAMES)
    assert not list(copied.rglob("*.plan"))


def test_a_plan_of_wrong_answers_is_not_published(request_for_t4: PlanRequest) -> None:
    """The first model is refused by name and batch; its folder stays staged and nothing is served."""
    with pytest.raises(ParityFailed, match="googlenet_96_fp16"):
        _run(request_for_t4, OnnxEngine(change=lambda answer: np.roll(answer, 1, axis=1)))
    assert list(request_for_t4.repository.iterdir()) == []
    staged = Repository(request_for_t4.repository).awaiting_plan
    assert sorted(path.name for path in staged.iterdir()) == list(_NAMES)
    assert [problems_of(path) for path in staged.iterdir()] == [[], []]


def test_an_fp16_plan_in_fp32_is_not_published(request_for_t4: PlanRequest) -> None:
    """TensorRT 11 ignores the old flag in silence: right answers, half the speed."""
    with pytest.raises(PrecisionRejected, match="googlenet_96_fp16"):
        _run(request_for_t4, OnnxEngine({"fp16": "Float", "fp32": "Float"}))
    assert list(request_for_t4.repository.iterdir()) == []


def test_models_before_a_failing_one_stay_published_and_are_told(request_for_t4: PlanRequest) -> None:
    """A finished part of a batch is never lost, nor is the word of it."""
    engine = OnnxEngine({"fp32": "Float", "fp16": "Float"})
    assert _NAMES[0].endswith("fp16")
    only = dataclasses.replace(request_for_t4)
    folders = list(reversed(folders_for(only)))  # FP32 first: FP16 in FP32's clothes is refused
    with pytest.raises(PrecisionRejected) as caught:
        build_plans(folders, only, _T4_HOST, Progress(is_quiet=True), engine)
    assert [result["served_name"] for result in caught.value.results] == [_NAMES[1]]
    assert has_plan(request_for_t4.repository / _NAMES[1], "sm75.plan")
    assert not (request_for_t4.repository / _NAMES[0]).exists()


def test_a_damaged_folder_is_found_before_hours_are_spent_on_others(request_for_t4: PlanRequest) -> None:
    """Every folder is looked at first."""
    engine = OnnxEngine()
    half = request_for_t4.repository.parent / ".staging" / "models" / "awaiting-plan" / _NAMES[1]
    (half / "1" / "reference.npy").write_bytes(b"cut")
    with pytest.raises(RepositoryDamaged, match=r"reference\.npy"):
        _run(request_for_t4, engine)
    assert engine.jobs == []


def test_damage_around_a_sound_plan_is_put_right_without_building_it_again(request_for_t4: PlanRequest) -> None:
    """The staged folder is the cure, and must not be thrown away as unneeded."""
    staged = request_for_t4.repository.parent / ".staging"
    shutil.copytree(staged, request_for_t4.repository.parent / "kept")
    _run(request_for_t4, OnnxEngine())
    live = request_for_t4.repository / _NAMES[0]
    with (live / "config.pbtxt").open("a") as config:
        config.write("# edited\n")
    shutil.rmtree(staged)
    shutil.copytree(request_for_t4.repository.parent / "kept", staged)
    engine = OnnxEngine()
    built, log = _run(request_for_t4, engine)
    assert engine.jobs == []
    assert [result.status for result in built] == ["published", "unchanged"]
    assert "the damaged files around it put right" in log
    assert verify(request_for_t4.repository, T4) == {name: [] for name in _NAMES}


def test_what_waited_is_dropped_wherever_the_unchanged_one_came_from(
    request_for_t4: PlanRequest, tmp_path: Path
) -> None:
    """`--from` a copy says what is wanted now: what was staged before must not replace it one day."""
    waiting = request_for_t4.repository.parent / ".staging" / "models" / "awaiting-plan"
    shutil.copytree(waiting, tmp_path / "copied")
    _run(request_for_t4, OnnxEngine())
    shutil.copytree(tmp_path / "copied", waiting, dirs_exist_ok=True)
    built, _ = _run(dataclasses.replace(request_for_t4, source=tmp_path / "copied"), OnnxEngine())
    assert {result.status for result in built} == {"unchanged"}
    assert list(waiting.iterdir()) == []


def test_only_what_is_asked_for_gets_a_plan(request_for_t4: PlanRequest) -> None:
    """--model and --precision choose; a name that is not there is a mistake, not an empty success."""
    chosen = dataclasses.replace(request_for_t4, architectures=("GoogLeNet",), precisions=("fp32",))
    assert [result.served_name for result in _run(chosen, OnnxEngine())[0]] == ["googlenet_96_fp32"]
    with pytest.raises(UsageError, match="--stage onnx"):
        _run(dataclasses.replace(request_for_t4, architectures=("Xception71",)), OnnxEngine())


def test_the_profiles_are_those_of_the_folder(tmp_path: Path) -> None:
    """Triton asks for profiles by number: plan and config cannot disagree, and each profile is proved."""
    options = BuildOptions((_SPEC,), T4, ("fp32",), tmp_path / "models", weights="seeded", profile_sizes=(1, 4, 8))
    build(options, Progress(is_quiet=True))
    engine = OnnxEngine()
    (built,), _ = _run(PlanRequest(T4, tmp_path / "models", PlanOptions(), cache_dir=tmp_path / "cache"), engine)
    record = json.loads((built.folder / "1" / "sm75.json").read_text())
    assert record["profiles"] == [1, 4, 8]
    proved = {(run["profile"], run["batch_size"]) for run in record["verdict"]["runs"]}
    assert proved == {(0, 1), (1, 1), (1, 3), (2, 1), (2, 3), (2, 8)}
    assert [profile.optimum for profile in engine.jobs[0].profiles] == [1, 4, 8]
    assert 'profile: "2"' in (built.folder / "config.pbtxt").read_text()


def test_the_gpu_of_the_target_is_the_one_that_is_used(
    request_for_t4: PlanRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may have several: CUDA is shown only the right one, by its UUID, and afterwards what it was shown before.

    Also where the user shows both: the first of them would be taken, and recorded as the target.
    """
    both = dataclasses.replace(_T4_HOST, gpus=(*_V100_HOST.gpus, *_T4_HOST.gpus))
    for chosen in ("GPU-v,GPU-t4", None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        engine = OnnxEngine()
        request = dataclasses.replace(request_for_t4, repository=request_for_t4.repository.parent / f"for-{chosen}")
        shutil.copytree(
            Repository(request_for_t4.repository).awaiting_plan, Repository(request.repository).awaiting_plan
        )
        _run(request, engine, both)
        assert engine.shown == ["GPU-t4"] * 2
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == chosen


def test_a_failed_plan_leaves_the_choice_of_gpus_as_it_was(
    request_for_t4: PlanRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process builds next is for another GPU, perhaps."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(PrecisionRejected):
        _run(request_for_t4, OnnxEngine({"fp16": "Float", "fp32": "Float"}))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("damage", ["sm75.plan", "sm75.json", "sm75.layers.json"])
def test_a_damaged_plan_of_a_served_folder_is_built_again(request_for_t4: PlanRequest, damage: str) -> None:
    """`verify --gpu t4` advises the plan stage for it: that must be the repair."""
    _run(request_for_t4, OnnxEngine())
    (request_for_t4.repository / _NAMES[1] / "1" / damage).write_bytes(b"cut")
    engine = OnnxEngine()
    built, log = _run(request_for_t4, engine)
    assert [result.status for result in built] == ["unchanged", "published"]
    assert [job.precision for job in engine.jobs] == ["fp32"]
    assert "sm75.plan was damaged: it is built again" in log
    assert verify(request_for_t4.repository, T4) == {name: [] for name in _NAMES}


def test_another_release_of_the_same_graph_is_published(request_for_t4: PlanRequest) -> None:
    """Two instances are the same plan in another folder: it is not left staged because the plan is there already."""
    _run(request_for_t4, OnnxEngine())
    options = BuildOptions((_SPEC,), T4, ("fp32",), request_for_t4.repository, weights="seeded", instances=2)
    (staged,) = build(options, Progress(is_quiet=True))
    assert staged.status == "staged"
    built, _ = _run(dataclasses.replace(request_for_t4, precisions=("fp32",)), OnnxEngine())
    assert [(result.status, result.release) for result in built] == [("published", staged.release)]
    assert read_manifest(request_for_t4.repository / _NAMES[1])["release"] == staged.release
    assert not staged.folder.exists()


def test_an_fp32_plan_with_tf32_may_differ_as_tf32_does(request_for_t4: PlanRequest) -> None:
    """--tf32 gives an FP32 plan the digits of FP16: a difference that only TF32 explains is refused without it."""

    def coarse(answer: np.ndarray) -> np.ndarray:
        return answer * np.float32(np.exp(0.1))

    request = dataclasses.replace(request_for_t4, precisions=("fp32",))
    with pytest.raises(ParityFailed, match="googlenet_96_fp32"):
        _run(request, OnnxEngine(change=coarse))
    with_tf32 = dataclasses.replace(request, options=PlanOptions(is_tf32_allowed=True))
    ((built,), _) = _run(with_tf32, OnnxEngine(change=coarse))
    assert json.loads((built.folder / "1" / "sm75.json").read_text())["options"]["is_tf32_allowed"]


@pytest.mark.parametrize(("option", "precision"), [("is_weakly_typed", "fp16"), ("is_tf32_allowed", "fp32")])
def test_an_option_makes_anew_only_the_plans_that_it_is_about(
    request_for_t4: PlanRequest, option: str, precision: str
) -> None:
    """--weak-fp16 leaves FP32 plans as they are, --tf32 the FP16 ones; what is recorded is what was built."""
    engine = OnnxEngine()
    _run(dataclasses.replace(request_for_t4, options=PlanOptions(**{option: True})), engine)
    for name, job in zip(_NAMES, engine.jobs, strict=True):
        record = json.loads((request_for_t4.repository / name / "1" / "sm75.json").read_text())
        assert record["options"] == job.options.as_dict()
        assert record["options"][option] == (job.precision == precision)
    without = OnnxEngine()
    _run(request_for_t4, without)
    assert [job.precision for job in without.jobs] == [precision]


def test_cards_of_one_compute_capability_share_no_timings(request_for_t4: PlanRequest) -> None:
    """What is fast on one card need not be on another: a Quadro RTX 6000 is 7.5 as well."""
    engine = OnnxEngine()
    _run(request_for_t4, engine)
    other = dataclasses.replace(_T4_HOST, gpus=(dataclasses.replace(_T4_HOST.gpus[0], name="Quadro RTX 6000/8000"),))
    _run(request_for_t4, engine, other)
    t4, quadro = dict.fromkeys(job.timing_cache for job in engine.jobs)
    assert (t4.name, quadro.name) == (
        "t4-tesla-t4-tensorrt-11.2.1.2.cache",
        "t4-quadro-rtx-6000-8000-tensorrt-11.2.1.2.cache",
    )
    assert timing_cache(request_for_t4, "11.2.1").name == "t4-nvidia-t4-tensorrt-11.2.1.cache"


def test_two_folders_of_one_name_are_refused(request_for_t4: PlanRequest, tmp_path: Path) -> None:
    """Which of the two is meant is for the user to say: both are named, nothing is built."""
    copied = tmp_path / "copied"
    shutil.copytree(Repository(request_for_t4.repository).awaiting_plan, copied)
    shutil.copytree(copied / _NAMES[0], copied / "of yesterday")
    request = dataclasses.replace(request_for_t4, source=copied)
    with pytest.raises(UsageError) as caught:
        folders_for(request)
    assert str(copied / _NAMES[0]) in str(caught.value)
    assert str(copied / "of yesterday") in str(caught.value)
    assert folders_for(dataclasses.replace(request, precisions=("fp32",))) == [copied / _NAMES[1]]


def test_a_model_folder_in_the_place_of_its_parent_is_told(request_for_t4: PlanRequest, tmp_path: Path) -> None:
    """--from names a directory of model folders; for one of them, the message says what to give."""
    copied = tmp_path / "copied"
    shutil.copytree(Repository(request_for_t4.repository).awaiting_plan, copied)
    with pytest.raises(UsageError, match=f"give its parent, {re.escape(str(copied))}, and --model"):
        folders_for(dataclasses.replace(request_for_t4, source=copied / _NAMES[0]))


def test_a_plan_that_no_server_would_take_is_not_built(request_for_t4: PlanRequest) -> None:
    """A GPU beyond the table (--gpu auto) is named in the configuration only if the folder was built for it."""
    other = dataclasses.replace(T4, name="sm89", title="NVIDIA L4", compute_capability="8.9")
    host = dataclasses.replace(_T4_HOST, gpus=(Gpu(0, "GPU-l4", "NVIDIA L4", "8.9", "580.95.05", 23034),))
    engine = OnnxEngine()
    with pytest.raises(UsageError, match=r"does not name sm89\.plan"):
        _run(dataclasses.replace(request_for_t4, target=other), engine, host)
    assert engine.jobs == []


def test_a_gpu_beyond_the_table_is_served_its_plan(tmp_path: Path) -> None:
    """Built for it in both stages, its plan stands in the configuration beside those of the table, and stays there."""
    other = dataclasses.replace(T4, name="sm89", title="NVIDIA L4", compute_capability="8.9")
    host = dataclasses.replace(_T4_HOST, gpus=(Gpu(0, "GPU-l4", "NVIDIA L4", "8.9", "580.95.05", 23034),))
    build(BuildOptions((_SPEC,), other, ("fp32",), tmp_path / "models", weights="seeded"), Progress(is_quiet=True))
    request = PlanRequest(other, tmp_path / "models", PlanOptions(), cache_dir=tmp_path / "cache")
    (built,) = _run(request, OnnxEngine(), host)[0]
    assert has_plan(built.folder, "sm89.plan")
    config = (built.folder / "config.pbtxt").read_text()
    assert all(f'"sm{number}.plan"' in config for number in (70, 75, 89))

    # A build for a GPU of the table: of the same inputs it is the same folder, of others the plan is named again.
    for_t4 = BuildOptions((_SPEC,), T4, ("fp32",), tmp_path / "models", weights="seeded")
    (again,) = build(for_t4, Progress(is_quiet=True))
    assert (again.status, again.release) == ("unchanged", built.release)
    (staged,) = build(dataclasses.replace(for_t4, instances=2), Progress(is_quiet=True))
    assert staged.status == "staged"
    assert '"sm89.plan"' in (staged.folder / "config.pbtxt").read_text()
    (joined,), log = _run(dataclasses.replace(request, target=T4), OnnxEngine())
    assert has_plan(joined.folder, "sm89.plan")
    assert "config.pbtxt does not name it" not in log
    # Of another graph the plan is lost and said to be, and there is nothing to name.
    (staged,) = build(dataclasses.replace(for_t4, seed=1), Progress(is_quiet=True))
    assert '"sm89.plan"' not in (staged.folder / "config.pbtxt").read_text()
    _, log = _run(dataclasses.replace(request, target=T4), OnnxEngine())
    assert "sm89.plan is not in this release" in log
