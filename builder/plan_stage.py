"""Folders without a plan -> the same folders with it, proved and published. Runs on the GPU that the plan is for.

This stage runs in NVIDIA's TensorRT images, on their Python: standard library, numpy, polygraphy and tensorrt only.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from builder import tensorrt_plan
from builder.build import Built
from builder.errors import BuilderError, RepositoryDamaged, UsageError
from builder.folder import REFERENCE
from builder.gpus import VISIBLE, Gpu
from builder.hashing import canonical_json, sha256_of_text
from builder.install import check_source, install
from builder.manifest import has_plan, manifest_path, problems_of, read_manifest
from builder.plan_record import folder_facts, is_damaged_plan, plan_files, plans_in
from builder.profiles import profiles_from_sizes
from builder.progress import Progress
from builder.publish import Repository
from builder.targets import Target
from builder.tensorrt_plan import Plan, PlanJob, PlanOptions
from builder.toolchain import Toolchain, gpu_for
from builder.trtexec import trtexec_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PlanEngine(Protocol):
    """What builds a plan and runs it: `builder.tensorrt_plan`."""

    def plan_from_onnx(self, job: PlanJob, /) -> Plan:
        """A plan for this machine's GPU."""

    def plan_runner(
        self, plan: bytes, /
    ) -> AbstractContextManager[Callable[[int, NDArray[np.uint8]], NDArray[np.float32]]]:
        """The plan loaded again: (profile, images) -> probabilities."""


@dataclass(frozen=True)
class PlanRequest:
    """Plans of which target, for which folders, and how.

    `source` is a directory of model folders, copied from where they were built; without it those that await a plan
    beside `repository`, and those in it. `architectures` and `precisions` None means all.
    """

    target: Target
    repository: Path
    options: PlanOptions
    cache_dir: Path = Path(".cache")
    source: Path | None = None
    architectures: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    is_other_tensorrt_allowed: bool = False

    def wants(self, manifest: dict[str, Any]) -> bool:
        """Whether the folder of this manifest is asked for."""
        return (self.architectures is None or manifest.get("architecture") in self.architectures) and (
            self.precisions is None or manifest.get("precision") in self.precisions
        )


def build_plans(
    folders: Sequence[Path],
    request: PlanRequest,
    toolchain: Toolchain,
    progress: Progress,
    engine: PlanEngine = tensorrt_plan,
) -> list[Built]:
    """Build, prove and publish the plan of each of the model `folders`; what has it already is left alone.

    The caller has made sure that `toolchain` fits the target. Raises a `BuilderError` at the first plan that fails,
    before the first one where a folder is damaged; those before it stay published and are the error's `results`, and
    every folder stays where it was.
    """
    repository = Repository(request.repository)
    with repository.locked(), _shown_to_cuda(gpu_for(request.target, toolchain)):
        # All are looked at first: a damaged one must not be found after hours of building.
        plans = [_FolderPlan(folder, request, toolchain, repository) for folder in folders]
        built: list[Built] = []
        try:
            for plan in plans:
                built.append(plan.deliver(engine, progress))
        except BuilderError as error:
            error.results = [result.as_dict() for result in built]
            raise
        return built


@contextmanager
def _shown_to_cuda(gpu: Gpu | None) -> Iterator[None]:
    """Let CUDA, where it has not started yet, see this GPU alone: of several it would take its own first.

    What the user has chosen to show is respected before, where the toolchain is looked at, and restored afterwards.
    """
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = gpu.uuid
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        else:
            os.environ.pop(VISIBLE, None)


def timing_cache(request: PlanRequest, tensorrt: str, gpu_name: str | None = None) -> Path:
    """Where the timings of a card and a TensorRT version are kept: another one's would be of no use, or mislead.

    `gpu_name` is the driver's; two cards of one compute capability differ in it. None stands for the target's title.
    """
    card = re.sub(r"[^a-z0-9]+", "-", (gpu_name or request.target.title).lower()).strip("-")
    return request.cache_dir / "timing" / f"{request.target.name}-{card}-tensorrt-{tensorrt}.cache"


def options_for(options: PlanOptions, precision: str) -> PlanOptions:
    """Those of the options that mean something for plans of this precision, the others at their defaults.

    Weak typing is about FP16, and TF32 about what computes in FP32: that is nothing in a strongly typed FP16 plan.
    """
    is_weakly_typed = options.is_weakly_typed and precision == "fp16"
    is_tf32_allowed = options.is_tf32_allowed and (precision == "fp32" or is_weakly_typed)
    return dataclasses.replace(options, is_weakly_typed=is_weakly_typed, is_tf32_allowed=is_tf32_allowed)


def folders_for(request: PlanRequest) -> list[Path]:
    """The model folders that a request means, each served name once: a staged one before the served one.

    Raises `UsageError` where there is none, or two of one name in one place; `RepositoryDamaged` for one that is no
    model folder of this builder.
    """
    repository = Repository(request.repository)
    if request.source and manifest_path(request.source):
        raise UsageError(
            f"--from {request.source} is a model folder itself: give its parent, {request.source.resolve().parent}, "
            "and --model and --precision to choose"
        )
    places = [request.source] if request.source else [repository.awaiting_plan, repository.path]
    found: dict[str, Path] = {}
    for place in places:
        here = _folders_in(place, request, are_all_ours=bool(request.source) or place == repository.awaiting_plan)
        found |= {name: folder for name, folder in here.items() if name not in found}
    if not found:
        raise UsageError(
            f"no folder that was asked for is in {' or '.join(str(place) for place in places)}. Build some with "
            "--stage onnx, here or elsewhere; --from DIR names a directory of model folders that were copied here"
        )
    return list(found.values())


def _folders_in(place: Path, request: PlanRequest, *, are_all_ours: bool) -> dict[str, Path]:
    """Those of one directory by served name; what is not this builder's is passed over unless all must be."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in place.glob("*") if path.is_dir()):
        try:
            manifest = read_manifest(folder)
        except RepositoryDamaged:
            if are_all_ours:
                raise
            continue
        if not request.wants(manifest):
            continue
        first = found.setdefault(manifest["served_name"], folder)
        if first != folder:
            raise UsageError(
                f"{first} and {folder} are both {manifest['served_name']}, and only one can be served: move the other "
                f"out of {place}"
            )
    return found


class _FolderPlan:
    """The plan of one folder."""

    def __init__(self, folder: Path, request: PlanRequest, toolchain: Toolchain, repository: Repository) -> None:
        check_source(repository, folder)
        self._folder, self._request, self._toolchain, self._repository = folder, request, toolchain, repository
        self._manifest = read_manifest(folder)
        self._version_directory = folder / str(self._manifest["version"])
        self._name = str(self._manifest["served_name"])
        self._plan_filename = str(request.target.plan_filename)
        self._options = options_for(request.options, self._manifest["precision"])
        self._gpu = gpu_for(request.target, toolchain)
        if f'"{self._plan_filename}"' not in (folder / "config.pbtxt").read_text(encoding="utf-8"):
            raise UsageError(
                f"{folder / 'config.pbtxt'} does not name {self._plan_filename}, and no server would take the plan: "
                f"the folder was built for GPUs of the table. Build it with --gpu auto, both stages, on this machine"
            )

    def deliver(self, engine: PlanEngine, progress: Progress) -> Built:
        live = self._repository.path / self._name
        if has_plan(live, self._plan_filename, self._key()) and self._is_release_of(live):
            return self._kept(live, progress)
        if self._plan_filename in plans_in(self._version_directory) and is_damaged_plan(
            self._version_directory, self._plan_filename
        ):
            progress.line(self._name, f"{self._plan_filename} was damaged: it is built again")
        job = self._job()
        with progress.step(self._name, f"build {self._plan_filename} with TensorRT {self._toolchain.tensorrt}"):
            plan = engine.plan_from_onnx(job)
        for caution in plan.cautions:
            progress.line(self._name, caution)
        with progress.step(self._name, f"prove {self._plan_filename}"), engine.plan_runner(plan.data) as run:
            verdict = self._proved(plan, run)
        with progress.step(self._name, "publish"):
            files = plan_files(self._plan_filename, plan.data, plan.layers, self._facts(plan, verdict))
            installed = install(self._repository, self._folder, files)
        for caution in installed.cautions:
            progress.line(self._name, caution)
        return Built(self._name, "published", installed.folder, installed.release, installed.version)

    def _kept(self, live: Path, progress: Progress) -> Built:
        """The served plan is the one that would be built; what else of the served folder is damaged is put right."""
        if problems_of(live, are_plans_checked=False):
            installed = install(self._repository, self._folder, {})
            progress.line(self._name, f"{self._plan_filename} unchanged, the damaged files around it put right")
            cautions, status = installed.cautions, "published"
        else:
            progress.line(self._name, f"{self._plan_filename} unchanged")
            cautions, status = self._repository.drop_staged(self._name), "unchanged"
        for caution in cautions:
            progress.line(self._name, caution)
        return Built(self._name, status, live, self._manifest["release"], read_manifest(live)["version"])

    def _proved(self, plan: Plan, run: Callable[[int, NDArray[np.uint8]], NDArray[np.float32]]) -> dict[str, Any]:
        import numpy as np

        from builder.golden import proof_images
        from builder.plan_proof import prove_plan

        return prove_plan(
            f"{self._name}/{self._plan_filename}",
            self._bound(),
            plan.layers,
            profiles_from_sizes(self._manifest["profiles"]),
            run,
            proof_images(self._manifest["input_size"]),
            np.load(self._version_directory / REFERENCE, allow_pickle=False),
        )

    def _job(self) -> PlanJob:
        return PlanJob(
            onnx=self._version_directory / "model.onnx",
            precision=self._manifest["precision"],
            input_size=self._manifest["input_size"],
            profiles=profiles_from_sizes(self._manifest["profiles"]),
            options=self._options,
            timing_cache=timing_cache(
                self._request, str(self._toolchain.tensorrt), self._gpu.name if self._gpu else None
            ),
        )

    def _facts(self, plan: Plan, verdict: dict[str, Any]) -> dict[str, Any]:
        """What the record says beyond hashes."""
        target, gpu = self._request.target, self._gpu
        facts = folder_facts(self._manifest)
        return {
            "plan_key": self._key(),
            "target": target.name,
            "compute_capability": target.compute_capability,
            "gpu": gpu.name if gpu else None,
            "driver": gpu.driver if gpu else None,
            "toolchain": {
                "tensorrt": plan.tensorrt,
                "polygraphy": self._toolchain.polygraphy,
                "python": platform.python_version(),
            },
            "options": self._options.as_dict(),
            "profiles": list(facts.profiles),
            "trtexec": self._trtexec(plan.tensorrt),
            "timing_cache_sha256": plan.timing_cache_sha256,
            "onnx_sha256": facts.onnx_sha256,
            "verdict": verdict,
        }

    def _trtexec(self, tensorrt: str) -> str:
        """The line as it would be typed in the version directory, wherever that lies."""
        job = self._job()
        here = dataclasses.replace(job, onnx=Path(job.onnx.name), timing_cache=Path(job.timing_cache.name))
        return trtexec_line(here, plan=Path(self._plan_filename), tensorrt=tensorrt)

    def _bound(self) -> str:
        """What the plan's answers are held against: TF32 has the digits of FP16."""
        is_tf32 = self._options.is_tf32_allowed and self._manifest["precision"] == "fp32"
        return "tf32" if is_tf32 else str(self._manifest["precision"])

    def _key(self) -> str:
        """Hash of what decides a plan, but for the noise of its timing: the same again need not be built again."""
        facts = folder_facts(self._manifest)
        inputs = {
            "onnx": facts.onnx_sha256,
            "profiles": facts.profiles,
            "options": self._options.as_dict(),
            "tensorrt": self._toolchain.tensorrt,
            "gpu": self._gpu.name if self._gpu else None,
        }
        return sha256_of_text(canonical_json(inputs))

    def _is_release_of(self, live: Path) -> bool:
        return bool(read_manifest(live)["release"] == self._manifest["release"])
