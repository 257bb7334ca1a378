"""Catalog rows and weights -> model folders without plans. Keyed by content: what is done is not done again.

For a CPU a folder is whole then and gets published. For a GPU it is staged, where `gpu_build` takes it up.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from builder.catalog import ModelSpec
from builder.errors import RepositoryDamaged
from builder.folder import Contents, assemble_folder
from builder.hashing import canonical_json, sha256_of_bytes, sha256_of_file, sha256_of_text
from builder.install import publish_with_plans
from builder.labels import labels_for
from builder.manifest import problems_of, read_manifest
from builder.plan_record import FolderFacts, folder_facts, whole_plans_beyond
from builder.profiles import DEFAULT_PROFILE_SIZES
from builder.progress import Progress
from builder.publish import Repository, remove_tree
from builder.targets import GPU_TARGETS, Target
from builder.weight_source import WeightSource, weight_source

# Distributions whose version decides what is written.
_TOOLCHAIN = ("numpy", "torch", "onnx", "onnxruntime", "protobuf", "tritonclient")


@dataclass(frozen=True)
class BuildOptions:
    """What `python -m builder build` was asked for; `weights` is `pretrained`, `seeded` or a path."""

    specs: tuple[ModelSpec, ...]
    target: Target
    precisions: tuple[str, ...]
    repository: Path
    weights: str = "pretrained"
    seed: int = 0
    labels: Path | None = None
    instances: int | None = None
    profile_sizes: tuple[int, ...] = DEFAULT_PROFILE_SIZES
    cache_dir: Path = Path(".cache")
    lock_file: Path = Path("weights.lock.json")

    @property
    def extra_plans(self) -> dict[str, str]:
        """Compute capability -> plan of a target that is no row of the table (`--gpu auto`)."""
        capability, plan = self.target.compute_capability, self.target.plan_filename
        if capability is None or plan is None or capability in {row.compute_capability for row in GPU_TARGETS}:
            return {}
        return {capability: plan}


@dataclass(frozen=True)
class Built:
    """What became of one served model: `published`, `unchanged`, or `staged` where it waits for a plan."""

    served_name: str
    status: str
    folder: Path
    release: str
    version: int

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"folder": str(self.folder)}


def build(options: BuildOptions, progress: Progress) -> list[Built]:
    """Build every model and precision asked for, and publish each as soon as it is whole.

    For a GPU target folders are staged instead, unless the served one is of the same inputs already: it only lacks the
    plan then. Raises a `BuilderError` at the first model that fails; those before it stay published.
    """
    repository = Repository(options.repository)
    built: list[Built] = []
    with repository.locked():
        for kept in repository.staging.glob("work-*"):
            if not kept.name.startswith(_work_prefix()):
                remove_tree(kept)  # of another builder: nothing in it will be asked for again
        for spec in options.specs:
            built += _ModelBuild(spec, options, repository, progress).run()
    return built


class _ModelBuild:
    """One architecture at one size, from one weight source, at every precision asked for."""

    def __init__(self, spec: ModelSpec, options: BuildOptions, repository: Repository, progress: Progress) -> None:
        self._spec, self._options, self._repository, self._progress = spec, options, repository, progress
        with progress.bytes_of(spec.slug, "download weights") as counter:
            self._source: WeightSource = weight_source(
                spec,
                options.weights,
                seed=options.seed,
                cache_dir=options.cache_dir,
                lock_file=options.lock_file,
                progress=counter,
            )

    def run(self) -> list[Built]:
        built = {precision: self._unchanged(precision) for precision in self._options.precisions}
        missing = [precision for precision, result in built.items() if result is None]
        if missing:
            from builder.onnx_stage import OnnxStage

            work = self._repository.staging / f"{_work_prefix()}{self._key()[:16]}"
            stage = OnnxStage(self._spec, self._source, work, self._progress)
            labels = labels_for(stage.classes, self._options.labels)  # before minutes are spent on an export
            for precision in missing:
                checked = stage.checked(precision)
                facts = FolderFacts(sha256_of_bytes(checked.data), self._options.profile_sizes)
                extra_plans = self._extra_plans(precision, facts)
                contents = Contents(
                    spec=self._spec.with_classes(checked.classes),
                    precision=precision,
                    labels=labels,
                    onnx=checked.data,
                    reference=checked.reference,
                    instances=self._options.instances,
                    provenance=self._provenance(precision, extra_plans) | checked.record,
                    profile_sizes=self._options.profile_sizes,
                    extra_plans=extra_plans,
                )
                built[precision] = self._deliver(contents)
            shutil.rmtree(work)
        return [result for result in built.values() if result is not None]

    def _unchanged(self, precision: str) -> Built | None:
        """The folder that is there already, when it was made from the same inputs and nothing in it has changed."""
        served_name = self._spec.served_name(precision)
        live, staged = self._repository.path / served_name, self._repository.awaiting_plan / served_name
        for folder in (live, staged) if self._is_staged else (live,):
            if self._is_of_these_inputs(folder, precision):
                self._progress.line(served_name, "unchanged")
                if folder == live:
                    for caution in self._repository.drop_staged(served_name):
                        self._progress.line(served_name, caution)
                manifest = read_manifest(folder)
                return Built(served_name, "unchanged", folder, manifest["release"], manifest["version"])
        return None

    def _is_of_these_inputs(self, folder: Path, precision: str) -> bool:
        try:
            manifest = read_manifest(folder)
        except RepositoryDamaged:
            return False
        key = self._key(precision, self._extra_plans(precision, folder_facts(manifest)))
        return manifest.get("build_key") == key and not problems_of(folder)

    def _extra_plans(self, precision: str, facts: FolderFacts) -> dict[str, str]:
        """Plans of GPUs beyond the table for a folder of these facts, by compute capability.

        Those asked for, and those that are served and will be carried into the folder: it must name them, or a build
        for a GPU of the table would take the model from a GPU that `--gpu auto` was run on.
        """
        live = self._repository.path / self._spec.served_name(precision)
        listed = {row.compute_capability for row in GPU_TARGETS}
        served: dict[str, str] = {}
        for version_directory in sorted(live.glob("[1-9]*")):
            served |= whole_plans_beyond(listed, version_directory, facts)
        return dict(sorted((served | self._options.extra_plans).items()))

    def _deliver(self, contents: Contents) -> Built:
        """Assemble the folder; publish it, or for a GPU target keep it where its plan will be added."""
        served_name = contents.spec.served_name(contents.precision)
        release = contents.release
        with self._progress.step(served_name, "stage" if self._is_staged else "publish"):
            version = self._repository.version_for(served_name, release)
            folder = self._repository.new_folder()
            assemble_folder(folder, contents, release, version)
            if self._is_staged:
                home = self._repository.awaiting_plan / served_name
                self._repository.drop_staged(served_name)
                home.parent.mkdir(exist_ok=True)
                folder.rename(home)
                return Built(served_name, "staged", home, release, version)
            cautions = publish_with_plans(self._repository, folder)
        for caution in cautions:
            self._progress.line(served_name, caution)
        return Built(served_name, "published", self._repository.path / served_name, release, version)

    @property
    def _is_staged(self) -> bool:
        return self._options.target.plan_filename is not None

    def _provenance(self, precision: str, extra_plans: Mapping[str, str]) -> dict[str, object]:
        return {
            "build_key": self._key(precision, extra_plans),
            "weights": self._source.as_dict(),
            "code_sha256": _code_sha256(),
            "toolchain": _toolchain(),
        }

    def _key(self, precision: str | None = None, extra_plans: Mapping[str, str] | None = None) -> str:
        """Hash of every input; without a precision, of those that decide the exported graph."""
        inputs: dict[str, object] = {
            "model": [self._spec.name, self._spec.input_size, self._spec.resize_short],
            "weights": self._source.sha256,
            "code": _code_sha256(),
            "toolchain": _toolchain(),
        }
        if precision is not None:
            labels = self._options.labels
            inputs |= {
                "precision": precision,
                "instances": self._options.instances,
                "profiles": self._options.profile_sizes,
                "extra_plans": extra_plans,
                "labels": sha256_of_bytes(labels.read_bytes()) if labels and labels.is_file() else str(labels),
            }
        return sha256_of_text(canonical_json(inputs))


def _work_prefix() -> str:
    """Work folders carry what made them, so that those of an older builder are known and removed."""
    return f"work-{sha256_of_text(canonical_json([_code_sha256(), _toolchain()]))[:8]}-"


@cache
def _toolchain() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _TOOLCHAIN}


@cache
def _code_sha256() -> str:
    """Hash of the builder's own files: another builder may write another folder."""
    home = Path(__file__).parent
    files = [path for path in home.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    contents = {path.relative_to(home).as_posix(): sha256_of_file(path) for path in files}
    return sha256_of_text(canonical_json(contents))
