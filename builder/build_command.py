"""`python -m builder build`: its options, and what they mean together."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from builder.build import BuildOptions, Built, build
from builder.catalog import MODELS, ModelSpec, spec_from_name
from builder.errors import BuilderError, IncompleteBuild, UsageError
from builder.explain import explained_build, explained_plans, told_lines
from builder.gpu_build import build_both_stages, build_onnx_stage, build_plan_stage, target_from_option
from builder.plan_stage import PlanRequest
from builder.profiles import sizes_from_option
from builder.progress import Progress
from builder.targets import AUTO, TARGETS, Target, precisions_from_option
from builder.tensorrt_plan import PlanOptions

_EXAMPLES = """examples:
  python -m builder build --gpu cpu                              all eight, fp32, official weights
  python -m builder build --gpu cpu --weights seeded             without network: untrained, calibrated weights
  python -m builder build --gpu cpu --model InceptionV3 --precision fp32,fp16
  python -m builder build --gpu cpu --model Xception41 --weights flowers.pdparams --labels flowers.txt
  python -m builder build --gpu cpu --model GoogLeNet --input-size 299
  python -m builder build --gpu t4                               TensorRT folders; ends with 3 where there is no T4
  python -m builder build --gpu t4 --stage onnx                  all that needs no GPU, on any machine
  python -m builder build --gpu t4 --stage plan                  the rest, on the T4 (or: docker compose run build-t4)
  python -m builder build --gpu t4 --stage plan --from copied/   for folders that were copied from another machine
  python -m builder build --gpu v100 --explain                   what would be built, as trtexec lines"""

_PLAN_DEFAULTS = PlanOptions()
# Options of one stage only, by their names in the parsed arguments.
_ONNX_ONLY = ("weights", "seed", "labels", "input_size", "instances", "profiles", "lock_file")
_GPU_ONLY = (
    "stage", "source", "explain", "builder_optimization_level", "workspace_mib", "tf32", "weak_fp16",
    "tensorrt_of_this_host",
)  # fmt: skip


def add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser], exit_codes: str) -> None:
    """Add the command `build` to the parser's commands."""
    parser = commands.add_parser(
        "build",
        help="weights -> ONNX -> TensorRT plan -> checked, published model folders",
        epilog=f"{_EXAMPLES}\n\n{exit_codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--gpu",
        required=True,
        choices=[*sorted(TARGETS), AUTO],
        help="the kind of machine that will serve; auto: the GPU of this one, in the table or not",
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="a model of the list, repeatable (default: all eight)"
    )
    parser.add_argument(
        "--precision", metavar="P[,P]", help="fp32, fp16 or both (default: fp32 for cpu, both for a GPU)"
    )
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(".cache"),
        metavar="DIR",
        help="downloads and timing caches (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--json", action="store_true", help="the result for machines, on standard output")
    _add_onnx_options(parser.add_argument_group("what is served"))
    _add_plan_options(parser.add_argument_group("TensorRT plans (with --gpu t4, v100 or auto)"))
    parser.set_defaults(run=lambda options: _build(options, parser))


def _add_onnx_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights",
        default="pretrained",
        metavar="SOURCE",
        help="'pretrained' (default: PaddleClas's files, downloaded once), 'seeded' (untrained), or a .pdparams, "
        ".safetensors or torch file",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="with --weights seeded (default: %(default)s)")
    group.add_argument("--labels", type=Path, metavar="FILE", help="one label per line, for a head of other classes")
    group.add_argument("--input-size", type=int, metavar="PIXELS", help="another input size; becomes part of the name")
    group.add_argument(
        "--instances",
        type=int,
        metavar="N",
        help="instance_group count (default: 2 on a GPU, where they overlap copy and compute, 1 on a CPU); a model "
        "with one has a queue without a bound",
    )
    group.add_argument(
        "--profiles",
        metavar="N[,N]",
        help="batch sizes that plans are tuned for, up to 8 (default: 8); 1,4,8 favours small batches and costs memory",
    )
    group.add_argument(
        "--lock-file",
        type=Path,
        default=Path("weights.lock.json"),
        metavar="FILE",
        help="SHA-256 of each official file, pinned on first use; commit it (default: %(default)s)",
    )


def _add_plan_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stage",
        choices=["onnx", "plan"],
        help="onnx: all that needs no GPU; plan: only the plans (needs no torch); default: both",
    )
    group.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="with --stage plan: a directory of model folders that were copied here",
    )
    group.add_argument(
        "--explain",
        action="store_true",
        help="build nothing; print the trtexec line that builds an equal plan: of what this command would build, or "
        "with --stage plan of the folders that are there",
    )
    group.add_argument(
        "--builder-optimization-level",
        type=int,
        choices=range(6),
        default=_PLAN_DEFAULTS.builder_optimization_level,
        metavar="0..5",
        help="how long TensorRT searches (default: %(default)s)",
    )
    group.add_argument(
        "--workspace-mib",
        type=int,
        default=_PLAN_DEFAULTS.workspace_mib,
        metavar="MIB",
        help="GPU memory that a layer may use as scratch (default: %(default)s)",
    )
    group.add_argument(
        "--tf32", action="store_true", help="allow TF32 in FP32 plans (T4 and V100 have none; default: off)"
    )
    group.add_argument(
        "--weak-fp16",
        action="store_true",
        help="let TensorRT choose FP32 for layers of an FP16 plan; to compare with, and for TensorRT below 11 only",
    )
    group.add_argument(
        "--tensorrt-of-this-host",
        action="store_true",
        help="build with the TensorRT that is here although the GPU's image has another; only a Triton with the same "
        "one loads the plan",
    )


def _build(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check_together(options, parser)
    target = target_from_option(options.gpu)
    progress = Progress(is_quiet=options.quiet)
    request = _plan_request(options, target)
    if options.explain:
        return _explain(options, request)
    if options.stage == "plan":
        return _told(lambda: build_plan_stage(request, progress), as_json=options.json)
    asked = _build_options(options, target)
    if target.plan_filename is None:
        return _told(lambda: build(asked, progress), as_json=options.json)
    stages = build_onnx_stage if options.stage == "onnx" else build_both_stages
    return _told(lambda: stages(asked, request, progress), as_json=options.json)


def _explain(options: argparse.Namespace, request: PlanRequest) -> int:
    if options.stage == "plan":
        explained = explained_plans(request)
    else:
        explained = explained_build(_build_options(options, request.target), request)
    if options.json:
        print(json.dumps([plan.as_dict() for plan in explained], indent=2))
    else:
        print("\n".join(told_lines(explained, request)))
    return 0


def _told(work: Callable[[], Sequence[Built]], *, as_json: bool) -> int:
    try:
        results: Sequence[Mapping[str, object]] = [result.as_dict() for result in work()]
    except BuilderError as error:
        if as_json and (error.results or isinstance(error, IncompleteBuild)):
            print(json.dumps(error.results, indent=2))
        raise
    if as_json:
        print(json.dumps(results, indent=2))
    return 0


def _check_together(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise `UsageError` for an option that would have no effect: whoever gave it expects one."""
    if options.gpu == "cpu":
        _refuse(_given(options, parser, _GPU_ONLY), "is about TensorRT plans: it goes with --gpu t4, v100 or auto")
    if options.stage == "plan":
        _refuse(
            _given(options, parser, _ONNX_ONLY),
            "was decided when the folders were built: --stage plan only adds plans to them",
        )
    elif options.source is not None:
        raise UsageError("--from goes with --stage plan: it names folders that were built elsewhere")
    if options.stage == "onnx":
        _refuse(
            _given(options, parser, set(_GPU_ONLY) - {"stage", "explain", "source"}), "goes with --stage plan, later"
        )
    for is_given, option, precision in ((options.tf32, "--tf32", "fp32"), (options.weak_fp16, "--weak-fp16", "fp16")):
        if is_given and options.precision and precision not in options.precision:
            raise UsageError(f"{option} is about {precision} plans: --precision {options.precision} builds none")
    if options.source is not None and not options.source.is_dir():
        raise UsageError(f"--from {options.source}: no such directory; expected one that holds model folders")
    if options.instances is not None and options.instances < 1:
        raise UsageError(f"--instances {options.instances}: expected 1 or more")
    if options.workspace_mib < 1:
        raise UsageError(f"--workspace-mib {options.workspace_mib}: expected 1 or more")


def _given(options: argparse.Namespace, parser: argparse.ArgumentParser, names: Iterable[str]) -> list[str]:
    """Those of the named options that differ from their defaults, as they are typed."""
    typed = {"source": "--from"}
    return [
        typed.get(name, f"--{name.replace('_', '-')}")
        for name in sorted(names)
        if getattr(options, name) != parser.get_default(name)
    ]


def _refuse(given: Sequence[str], reason: str) -> None:
    if given:
        raise UsageError(f"{given[0]} {reason}")


def _plan_request(options: argparse.Namespace, target: Target) -> PlanRequest:
    names = options.model and tuple(dict.fromkeys(spec_from_name(name).name for name in options.model))
    return PlanRequest(
        target=target,
        repository=options.repository,
        options=PlanOptions(
            builder_optimization_level=options.builder_optimization_level,
            workspace_mib=options.workspace_mib,
            is_tf32_allowed=options.tf32,
            is_weakly_typed=options.weak_fp16,
        ),
        cache_dir=options.cache_dir,
        source=options.source,
        architectures=names or None,
        precisions=precisions_from_option(options.precision, target) if options.precision else None,
        is_other_tensorrt_allowed=options.tensorrt_of_this_host,
    )


def _build_options(options: argparse.Namespace, target: Target) -> BuildOptions:
    return BuildOptions(
        specs=_specs(options),
        target=target,
        precisions=precisions_from_option(options.precision, target),
        repository=options.repository,
        weights=options.weights,
        seed=options.seed,
        labels=options.labels,
        instances=options.instances,
        profile_sizes=sizes_from_option(options.profiles),
        cache_dir=options.cache_dir,
        lock_file=options.lock_file,
    )


def _specs(options: argparse.Namespace) -> tuple[ModelSpec, ...]:
    names = options.model or list(MODELS)
    specs = tuple(dict.fromkeys(spec_from_name(name) for name in names))
    for option, value in (("--input-size", options.input_size), ("--labels", options.labels)):
        if value is not None and options.model is None:
            raise UsageError(f"{option} goes with --model: it is not meant for all eight")
    if options.weights not in ("pretrained", "seeded") and len(specs) != 1:
        raise UsageError("--weights FILE goes with exactly one --model: a weight file belongs to one architecture")
    if options.input_size is None:
        return specs
    return tuple(spec.at_input_size(options.input_size) for spec in specs)
