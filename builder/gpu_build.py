"""`build --gpu t4`: everything before the plan on any machine, the plan where the GPU is, and never half of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from builder.build import BuildOptions, Built, build
from builder.errors import IncompleteBuild
from builder.manifest import has_plan
from builder.plan_stage import PlanRequest, build_plans, folders_for
from builder.progress import Progress
from builder.targets import AUTO, TARGETS, Target
from builder.tensorrt_plan import PlanOptions
from builder.toolchain import Refusal, Toolchain, cautions, found_toolchain, refusals, target_from_gpu


def target_from_option(name: str) -> Target:
    """The row that `--gpu NAME` means; for `auto` the one of the GPU in this machine.

    Raises `IncompleteBuild` for `auto` on a machine without a GPU.
    """
    return target_from_gpu(found_toolchain()) if name == AUTO else TARGETS[name]


def build_onnx_stage(options: BuildOptions, request: PlanRequest, progress: Progress) -> list[Built]:
    """`--stage onnx`: everything before the plan, without a look at the GPU; says what comes next."""
    built = build(options, progress)
    waiting = _without_plan(built, request.target)
    if waiting:
        progress.line("next", _step_left(request, waiting))
    return built


def build_plan_stage(request: PlanRequest, progress: Progress) -> list[Built]:
    """`--stage plan`: plans for the folders that are there.

    Raises `IncompleteBuild` before any work when this machine cannot build them.
    """
    toolchain = found_toolchain()
    refused = _refusals(request, toolchain)
    if refused:
        raise IncompleteBuild(
            f"{_sentences(refused)} Nothing was begun and nothing is lost. {_where_to_go(request.target)}"
        )
    return _plans(folders_for(request), request, toolchain, progress)


def build_both_stages(options: BuildOptions, request: PlanRequest, progress: Progress) -> list[Built]:
    """Everything this machine can do.

    Raises `IncompleteBuild`: before any work when something here is the wrong one (GPU, driver, TensorRT); after all
    before the plan was done and kept when something is missing.
    """
    toolchain = found_toolchain()
    refused = _refusals(request, toolchain)
    wrong = [refusal for refusal in refused if refusal.is_wrong]
    if wrong:
        raise IncompleteBuild(
            f"{_sentences(wrong)} Nothing was begun. --stage onnx does all that needs no GPU on this machine. "
            f"{_where_to_go(request.target)}"
        )
    built = build(options, progress)
    waiting = _without_plan(built, request.target)
    if refused and waiting:
        raise IncompleteBuild(
            f"{_sentences(refused)} {_step_left(request, waiting)}", [result.as_dict() for result in built]
        )
    if refused:
        return built  # every plan is there already, built elsewhere
    return _plans([result.folder for result in built], request, toolchain, progress)


def _refusals(request: PlanRequest, toolchain: Toolchain) -> list[Refusal]:
    return refusals(
        request.target,
        toolchain,
        is_weakly_typed=request.options.is_weakly_typed,
        is_other_tensorrt_allowed=request.is_other_tensorrt_allowed,
    )


def _plans(folders: Sequence[Path], request: PlanRequest, toolchain: Toolchain, progress: Progress) -> list[Built]:
    """Build them where nothing is refused, with what should be known said before."""
    told = cautions(request.target, toolchain, is_other_tensorrt_allowed=request.is_other_tensorrt_allowed)
    for caution in told:
        progress.line("caution", caution)
    return build_plans(folders, request, toolchain, progress)


def _without_plan(built: Sequence[Built], target: Target) -> list[Built]:
    return [result for result in built if not has_plan(result.folder, str(target.plan_filename))]


def _sentences(refused: Sequence[Refusal]) -> str:
    return " ".join(f"{refusal.message[:1].upper()}{refusal.message[1:].rstrip('.')}." for refusal in refused)


def _step_left(request: PlanRequest, waiting: Sequence[Built]) -> str:
    target = request.target
    homes = sorted({str(result.folder.parent) for result in waiting})
    return (
        f"Everything before the TensorRT plan is done and kept in {' and '.join(homes)} "
        f"({', '.join(result.served_name for result in waiting)}). {target.plan_filename} must be built on "
        f"{target.a_title} (compute capability {target.compute_capability}) with TensorRT {target.tensorrt}. "
        f"The step left, on such a host: {shlex.join(['python', '-m', 'builder', 'build', *plan_arguments(request)])}"
        f"{_or_compose(request)}; to do it on another machine, copy {' and '.join(homes)} "
        "there and add --from DIR"
    )


def _or_compose(request: PlanRequest) -> str:
    """The service that does the same: it has a fixed command, for the rows of the table with nothing but defaults."""
    plain = PlanRequest(request.target, Path("model_repository"), PlanOptions())
    if not request.target.is_listed or plan_arguments(request) != plan_arguments(plain):
        return ""
    return f" (or docker compose run --rm build-{request.target.name})"


def _where_to_go(target: Target) -> str:
    return f"`python -m builder doctor` shows what --gpu {target.option} needs."


def plan_arguments(request: PlanRequest) -> list[str]:
    """The command line of `python -m builder build` that asks for the same plans."""
    given = ["--gpu", request.target.option, "--stage", "plan"]
    for name in request.architectures or ():
        given += ["--model", name]
    if request.precisions:
        given += ["--precision", ",".join(request.precisions)]
    given += ["--repository", str(request.repository)]
    if request.cache_dir != Path(".cache"):
        given += ["--cache-dir", str(request.cache_dir)]
    default, options = PlanOptions(), request.options
    if options.builder_optimization_level != default.builder_optimization_level:
        given += ["--builder-optimization-level", str(options.builder_optimization_level)]
    if options.workspace_mib != default.workspace_mib:
        given += ["--workspace-mib", str(options.workspace_mib)]
    given += ["--tf32"] if options.is_tf32_allowed else []
    given += ["--weak-fp16"] if options.is_weakly_typed else []
    given += ["--tensorrt-of-this-host"] if request.is_other_tensorrt_allowed else []
    return given
