"""Catalog rows and weights -> published model folders. Keyed by content: what is done is not done again."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from builder.catalog import MODELS, ModelSpec
from builder.errors import IncompleteBuild, RepositoryDamaged
from builder.folder import Contents, assemble_folder
from builder.hashing import canonical_json, sha256_of_bytes, sha256_of_text
from builder.labels import labels_for
from builder.manifest import problems_of, read_manifest
from builder.progress import Progress
from builder.publish import Repository
from builder.targets import Target
from builder.weight_source import WeightSource, weight_source

# Distributions whose version decides what is written.
_TOOLCHAIN = ("numpy", "torch", "onnx", "onnxruntime", "protobuf", "tritonclient")


# Told only where they are not the default.
_OPTIONAL_ARGUMENTS = {
    "seed": "--seed",
    "labels": "--labels",
    "instances": "--instances",
    "cache_dir": "--cache-dir",
    "lock_file": "--lock-file",
}


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
    instances: int = 1
    cache_dir: Path = Path(".cache")
    lock_file: Path = Path("weights.lock.json")

    def arguments(self) -> list[str]:
        """The command line of `python -m builder build` that asks for the same."""
        given = [("--gpu", self.target.name), *(("--model", spec.name) for spec in self.specs)]
        given += [("--precision", ",".join(self.precisions)), ("--weights", self.weights)]
        given += [("--repository", str(self.repository))]
        if any(spec != MODELS[spec.name] for spec in self.specs):
            given.append(("--input-size", str(self.specs[0].input_size)))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OPTIONAL_ARGUMENTS and value != field.default:
                given.append((_OPTIONAL_ARGUMENTS[field.name], str(value)))
        return [word for pair in given for word in pair]


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

    Raises a `BuilderError` at the first model that fails; those before it stay published. For a GPU target raises
    `IncompleteBuild` after everything before the plan was done and kept.
    """
    repository = Repository(options.repository)
    built: list[Built] = []
    with repository.locked():
        for kept in repository.staging.glob("work-*"):
            if not kept.name.startswith(_work_prefix()):
                shutil.rmtree(kept)  # of another builder: nothing in it will be asked for again
        for spec in options.specs:
            built += _ModelBuild(spec, options, repository, progress).run()
    if options.target.plan_filename is not None:
        raise _incomplete(options, built)
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
                contents = Contents(
                    spec=self._spec.with_classes(checked.classes),
                    precision=precision,
                    labels=labels,
                    onnx=checked.data,
                    instances=self._options.instances,
                    provenance=self._provenance(precision) | checked.record,
                )
                built[precision] = self._deliver(contents)
            shutil.rmtree(work)
        return [result for result in built.values() if result is not None]

    def _unchanged(self, precision: str) -> Built | None:
        """The folder that is there already, when it was made from the same inputs and nothing in it has changed."""
        folder = self._home(self._spec.served_name(precision))
        try:
            manifest = read_manifest(folder)
        except RepositoryDamaged:
            return None
        if manifest.get("build_key") != self._key(precision) or problems_of(folder):
            return None
        self._progress.line(folder.name, "unchanged")
        return Built(folder.name, "unchanged", folder, manifest["release"], manifest["version"])

    def _deliver(self, contents: Contents) -> Built:
        """Assemble the folder; publish it, or for a GPU target keep it where its plan will be added."""
        served_name = contents.spec.served_name(contents.precision)
        is_staged = self._options.target.plan_filename is not None
        release = contents.release
        with self._progress.step(served_name, "stage" if is_staged else "publish"):
            version = self._repository.version_for(served_name, release)
            folder = self._repository.new_folder()
            assemble_folder(folder, contents, release, version)
            home = self._home(served_name)
            if is_staged:
                shutil.rmtree(home, ignore_errors=True)
                home.parent.mkdir(exist_ok=True)
                folder.rename(home)
            elif not self._repository.publish(folder, served_name):
                self._progress.line(served_name, "this file system cannot exchange folders: two renames were made")
        return Built(served_name, "staged" if is_staged else "published", home, release, version)

    def _home(self, served_name: str) -> Path:
        """Where the finished folder belongs."""
        target = self._options.target
        if target.plan_filename is None:
            return self._repository.path / served_name
        return self._repository.staging / f"awaiting-plan-{target.name}" / served_name

    def _provenance(self, precision: str) -> dict[str, object]:
        return {
            "build_key": self._key(precision),
            "weights": self._source.as_dict(),
            "code_sha256": _code_sha256(),
            "toolchain": _toolchain(),
        }

    def _key(self, precision: str | None = None) -> str:
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
                "labels": sha256_of_bytes(labels.read_bytes()) if labels and labels.is_file() else str(labels),
            }
        return sha256_of_text(canonical_json(inputs))


def _incomplete(options: BuildOptions, built: list[Built]) -> IncompleteBuild:
    target = options.target
    return IncompleteBuild(
        f"everything before the TensorRT plan is done and kept in {built[0].folder.parent} "
        f"({', '.join(result.served_name for result in built)}). {target.plan_filename} must be built on an "
        f"{target.title} (compute capability {target.compute_capability}) with TensorRT {target.tensorrt}. "
        f"The step left, on such a host: {shlex.join(['python', '-m', 'builder', 'build', *options.arguments()])}",
        [result.as_dict() for result in built],
    )


def _work_prefix() -> str:
    """Work folders carry what made them, so that those of an older builder are known and removed."""
    return f"work-{sha256_of_text(canonical_json([_code_sha256(), _toolchain()]))[:8]}-"


@cache
def _toolchain() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _TOOLCHAIN}


@cache
def _code_sha256() -> str:
    """Hash of the builder's own files: another builder may write another folder."""
    contents: dict[str, str] = {}

    def walk(directory: Traversable, prefix: str) -> None:
        for entry in directory.iterdir():
            if entry.is_dir():
                if entry.name != "__pycache__":
                    walk(entry, f"{prefix}{entry.name}/")
            else:
                contents[prefix + entry.name] = sha256_of_bytes(entry.read_bytes())

    walk(files("builder"), "")
    return sha256_of_text(canonical_json(contents))
