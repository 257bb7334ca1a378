"""`python -m builder doctor`: what is here, what each target needs, and the one command to run."""

from __future__ import annotations

import importlib.util
import shlex
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from builder.manifest import has_plan
from builder.publish import Repository
from builder.targets import TARGETS, Target
from builder.toolchain import Toolchain, cautions, found_toolchain, gpu_for, refusals, target_from_gpu

_WIDTH = 118
_DEFAULT_REPOSITORY = Path("model_repository")


def diagnosis(repository: Path) -> dict[str, Any]:
    """Everything `doctor` says, for `--json`; paths are relative to where it was started, as they were given."""
    toolchain = found_toolchain()
    awaiting = Repository(repository).awaiting_plan
    waiting = sorted(path.name for path in awaiting.glob("*") if path.is_dir())

    def is_waiting(target: Target) -> bool:
        """Whether a plan for the target is all that a folder here lacks, staged or served."""
        served = (path.parent.parent for path in repository.glob("*/[1-9]*/manifest.json"))
        plan = target.plan_filename
        return bool(waiting) or (plan is not None and any(not has_plan(folder, plan) for folder in served))

    return {
        "here": asdict(toolchain),
        "awaiting_plan": {"directory": str(awaiting), "folders": waiting},
        "targets": [
            _target(target, toolchain, repository, is_waiting=is_waiting(target)) for target in _targets(toolchain)
        ],
    }


def print_diagnosis(seen: dict[str, Any]) -> None:
    """The same for people."""
    here = seen["here"]
    print("here")
    for gpu in here["gpus"] or [None]:
        told = "none found"
        if gpu:
            memory = "unknown memory" if gpu["memory_mib"] is None else f"{gpu['memory_mib']} MiB"
            told = f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver {gpu['driver']}, {memory}"
        _row("GPU", told)
    for name in ("tensorrt", "polygraphy", "python"):
        _row({"tensorrt": "TensorRT", "python": "Python"}.get(name, name), here[name] or "not installed")
    for note in here["notes"]:
        _row("note", note)
    waiting = seen["awaiting_plan"]
    if waiting["folders"]:
        count = len(waiting["folders"])
        told = f"{count} folder{'s' if count > 1 else ''} for a plan in {waiting['directory']}"
        _row("waiting", f"{told}: {', '.join(waiting['folders'])}")
    for target in seen["targets"]:
        print(f"\n{target['name']} - {target['title']}")
        needs = target["needs"]
        if target["compute_capability"]:
            driver = f", driver {needs['driver']}" if needs["driver"] else ""
            _row("needs", f"compute capability {target['compute_capability']}{driver}")
            _row("", f"{needs['image']}: TensorRT {needs['tensorrt']}, Python {needs['python']}")
            _row("why", needs["why"])
            _row("plans here", "yes" if target["can_build_here"] else "no")
        for reason in target["refusals"]:
            _row("because", reason)
        for caution in target["cautions"]:
            _row("caution", caution)
        print(f"  {'run':<12}{target['command']}")  # never wrapped: it is there to be copied
        if target["then"]:
            _row("then", target["then"])


def _row(label: str, text: str) -> None:
    lines = textwrap.wrap(text, _WIDTH - 14, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        print(f"  {'' if number else label:<12}{line}")


def _targets(toolchain: Toolchain) -> list[Target]:
    """The rows of the table, and the one that `--gpu auto` makes of a GPU that is not in it."""
    rows = list(TARGETS.values())
    if toolchain.gpus and not (made := target_from_gpu(toolchain)).is_listed:
        rows.append(made)
    return rows


def _target(target: Target, toolchain: Toolchain, repository: Path, *, is_waiting: bool) -> dict[str, Any]:
    refused = refusals(target, toolchain) if target.compute_capability else []
    command, then = _next(target, toolchain, repository, can_build_here=not refused, is_waiting=is_waiting)
    return {
        "name": target.name,
        "title": target.title,
        "compute_capability": target.compute_capability,
        "plan": target.plan_filename,
        "needs": {
            "image": target.tensorrt_image if target.compute_capability else None,
            "tensorrt": target.tensorrt,
            "driver": _driver(target),
            "python": target.python,
            "why": target.why,
        },
        "can_build_here": not refused,
        "refusals": [refusal.message for refusal in refused],
        "cautions": cautions(target, toolchain),
        "command": command,
        "then": then,
    }


def _driver(target: Target) -> str | None:
    if target.driver_branch is None:
        return None
    if target.driver_branch_last is None:
        return f"branch {target.driver_branch} or newer"
    return f"branch {target.driver_branch} to {target.driver_branch_last}"


def _next(
    target: Target, toolchain: Toolchain, repository: Path, *, can_build_here: bool, is_waiting: bool
) -> tuple[str, str]:
    """The one thing to do now, on this machine; and what is left for another place, or nothing."""
    build = ["python", "-m", "builder", "build", "--gpu", target.option]
    place = [] if repository == _DEFAULT_REPOSITORY else ["--repository", str(repository)]
    both, onnx, plan = (
        shlex.join([*build, *stage, *place]) for stage in ([], ["--stage", "onnx"], ["--stage", "plan"])
    )
    if target.compute_capability is None:
        return both, ""
    if gpu_for(target, toolchain) is None:
        return onnx, f"the plan, on {target.a_title}: docs/gpu.md"
    if not _is_host_right(target, toolchain):
        return onnx, ""
    if can_build_here:
        if is_waiting or importlib.util.find_spec("torch") is not None:
            return plan if is_waiting else both, ""
        left = f"that one on a machine with the builder's packages; then here: {plan} --from DIR, see docs/gpu.md"
    else:
        # What is wrong or missing is TensorRT or Polygraphy: the image brings its own. Its service has a fixed command.
        has_service = target.is_listed and not place
        in_image = f"docker compose run --rm build-{target.name}"
        elsewhere = f"in {target.tensorrt_image}: docs/gpu.md"
        if is_waiting:
            return (in_image, "") if has_service else (plan, f"nothing, but run this {elsewhere}")
        left = in_image if has_service else f"the plan, {elsewhere}"
    return onnx, left


def _is_host_right(target: Target, toolchain: Toolchain) -> bool:
    """Whether GPU and driver, which no container can bring, are the target's."""
    bare = replace(toolchain, tensorrt=None)
    is_wrong = any(refusal.is_wrong for refusal in refusals(target, bare))
    return gpu_for(target, toolchain) is not None and not is_wrong
