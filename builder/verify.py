"""A whole repository against its manifests."""

from __future__ import annotations

from pathlib import Path

from builder.errors import RepositoryDamaged, UsageError
from builder.manifest import has_plan, problems_of, read_manifest
from builder.plan_record import read_record
from builder.publish import NOT_MODELS
from builder.targets import Target
from builder.toolchain import is_same_release


def verify(repository: Path, target: Target | None = None) -> dict[str, list[str]]:
    """Problems of every model folder, by served name; a stray file counts as one of the repository's own (key `.`).

    With a `target`, a folder without the plan of its GPU has a problem too.
    Raises `UsageError` where there is no such directory or no model in it.
    """
    if not repository.is_dir():
        raise UsageError(f"{repository} is no directory; expected a model repository, as `builder build` writes it")
    entries = sorted(path for path in repository.iterdir() if path.name not in NOT_MODELS)
    folders = [path for path in entries if path.is_dir() and not path.is_symlink()]
    report = {path.name: _name_problems(path) + problems_of(path) + _missing_plan(path, target) for path in folders}
    strays = [f"{path.name} does not belong: only model folders do" for path in entries if path not in folders]
    if not report and not strays:
        raise UsageError(f"{repository} holds no model; `python -m builder build --gpu cpu` writes some")
    return report | ({".": strays} if strays else {})


def _name_problems(folder: Path) -> list[str]:
    """Triton refuses a folder whose config carries another name."""
    try:
        served_name = read_manifest(folder)["served_name"]
    except RepositoryDamaged:
        return []  # `problems_of` says it
    return [] if served_name == folder.name else [f"{folder.name} was published as {served_name}: it was renamed"]


def _missing_plan(folder: Path, target: Target | None) -> list[str]:
    if target is None or target.plan_filename is None:
        return []
    command = f"`python -m builder build --gpu {target.option} --stage plan --repository {folder.parent}`"
    if not has_plan(folder, target.plan_filename):
        what = f"{folder.name} has no sound {target.plan_filename}: {target.a_title} cannot serve it"
        return [f"{what}. On one, run {command}"]
    record = read_record(folder / str(read_manifest(folder)["version"]), target.plan_filename) or {}
    built_with = str(record.get("toolchain", {}).get("tensorrt", "an unknown version"))
    if target.tensorrt is None or is_same_release(built_with, target.tensorrt):
        return []
    what = f"{folder.name}'s {target.plan_filename} was built with TensorRT {built_with}"
    needed = f"{target.triton_image} has {target.tensorrt} and loads no other's plans"
    return [f"{what}, {needed}: in {target.tensorrt_image}, run {command}"]
