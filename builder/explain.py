"""`build --explain`: the trtexec lines that build equal plans, for who wants to see or run them without this package.

What a line writes (plan, layers, timing cache) goes into the directory where it is run, never into a served folder.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.build import BuildOptions
from builder.manifest import manifest_path, read_manifest
from builder.plan_stage import PlanRequest, folders_for, options_for, timing_cache
from builder.profiles import profiles_from_sizes
from builder.publish import Repository
from builder.tensorrt_plan import PlanJob
from builder.toolchain import found_toolchain, is_same_release
from builder.trtexec import trtexec_line


@dataclass(frozen=True)
class Explanation:
    """One plan: `profiles` are the batch sizes it is tuned for, `command` builds it; `target` is what `--gpu` takes."""

    served_name: str
    target: str
    tensorrt: str
    profiles: tuple[int, ...]
    command: str

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"profiles": list(self.profiles)}


def explained_build(options: BuildOptions, request: PlanRequest) -> list[Explanation]:
    """The plans of the folders that a build of these options writes, whether they are there yet or not."""
    return [
        _explanation(
            request,
            spec.served_name(precision),
            onnx=_version_directory(request, spec.served_name(precision)) / "model.onnx",
            precision=precision,
            input_size=spec.input_size,
            profiles=options.profile_sizes,
        )
        for spec in options.specs
        for precision in options.precisions
    ]


def explained_plans(request: PlanRequest) -> list[Explanation]:
    """The plans that `--stage plan` would build, of the folders that are there, as their manifests say.

    Raises as `folders_for` does.
    """
    explained = []
    for folder in folders_for(request):
        manifest = read_manifest(folder)
        explained.append(
            _explanation(
                request,
                manifest["served_name"],
                onnx=folder / str(manifest["version"]) / "model.onnx",
                precision=manifest["precision"],
                input_size=manifest["input_size"],
                profiles=manifest["profiles"],
            )
        )
    return explained


def told_lines(explained: Sequence[Explanation], request: PlanRequest) -> list[str]:
    """Two lines a plan for people: what it is, as a comment, and the command."""
    target = request.target
    lines = []
    for plan in explained:
        on = f"{target.plan_filename} on {target.a_title}, TensorRT {plan.tensorrt}"
        lines += [f"# {plan.served_name}: {on}", plan.command]
    return lines


def _explanation(
    request: PlanRequest, served_name: str, *, onnx: Path, precision: str, input_size: int, profiles: Sequence[int]
) -> Explanation:
    tensorrt = _tensorrt(request)
    job = PlanJob(
        onnx=onnx,
        precision=precision,
        input_size=input_size,
        profiles=profiles_from_sizes(profiles),
        options=options_for(request.options, precision),
        timing_cache=Path(timing_cache(request, tensorrt).name),
    )
    command = trtexec_line(job, plan=Path(f"{served_name}-{request.target.plan_filename}"), tensorrt=tensorrt)
    return Explanation(served_name, request.target.option, tensorrt, tuple(profiles), command)


def _tensorrt(request: PlanRequest) -> str:
    """The version that would build: the one here, unless it is another release that would be refused."""
    found, listed = found_toolchain().tensorrt, str(request.target.tensorrt)
    if found is not None and (request.is_other_tensorrt_allowed or is_same_release(found, listed)):
        return found
    return listed


def _version_directory(request: PlanRequest, served_name: str) -> Path:
    """Where the model's graph is, staged before served; where it will be, where there is none."""
    repository = Repository(request.repository)
    for place in (repository.awaiting_plan, repository.path):
        manifest = manifest_path(place / served_name)
        if manifest is not None:
            return manifest.parent
    return repository.awaiting_plan / served_name / "1"
