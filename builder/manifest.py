"""What a published folder says of itself, and whether it is true. Standard library only.

`manifest.json` lies in the version directory and lists every file of the model folder but itself and the plans; each
plan has an `smNN.json` of its own, so that adding the second GPU's plan changes nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builder.errors import RepositoryDamaged
from builder.hashing import canonical_json, sha256_of_file, sha256_of_text
from builder.plan_record import folder_facts, is_whole_plan, plan_problems, read_record

FORMAT = 1
NAME = "manifest.json"
RELEASE_DIGITS = 16


def release_of(contents: dict[str, str]) -> str:
    """The release id: 16 hex digits over the sorted (path, SHA-256) pairs of what decides an answer."""
    return sha256_of_text(canonical_json(sorted(contents.items())))[:RELEASE_DIGITS]


def manifest_path(folder: Path) -> Path | None:
    """The manifest of the model folder's one version, or None where there is none."""
    found = [path for path in folder.glob(f"[1-9]*/{NAME}") if path.parent.name.isdecimal()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder; `RepositoryDamaged` where it is missing, unreadable or of another format."""
    path = manifest_path(folder)
    if path is None:
        raise RepositoryDamaged(f"{folder} has no N/{NAME}: it was not published by this builder; remove or rebuild it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryDamaged(f"{path} cannot be read ({error}); rebuild the model") from error
    if not _is_manifest(manifest):
        raise RepositoryDamaged(f"{path} is no manifest of format {FORMAT}; rebuild the model with this builder")
    checked: dict[str, Any] = manifest
    return checked


def _is_manifest(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("files"), dict):
        return False
    return (
        isinstance(value.get("served_name"), str)
        and isinstance(value.get("release"), str)
        and type(value.get("version")) is int
        and isinstance(value.get("profiles"), list)
        and all(isinstance(file, dict) and {"sha256", "size"} <= file.keys() for file in value["files"].values())
    )


def listed_files(folder: Path, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """SHA-256 and size in bytes of each of `paths` (relative, with slashes) below `folder`."""
    return {
        path: {"sha256": sha256_of_file(folder / path), "size": (folder / path).stat().st_size}
        for path in sorted(paths)
    }


def problems_of(folder: Path, *, are_plans_checked: bool = True) -> list[str]:
    """Every file of the model folder that differs from the manifest, is missing or does not belong; empty when true.

    Without `are_plans_checked` the files of plans may be in any state: for who makes them anew, or leaves them out.
    """
    try:
        manifest = read_manifest(folder)
    except RepositoryDamaged as error:
        return [str(error)]
    found = manifest_path(folder)
    version = found.parent.name if found else ""
    problems = []
    if str(manifest["version"]) != version:
        problems.append(f"{folder.name}/{version}: the manifest calls itself version {manifest['version']}")
    for path, expected in manifest["files"].items():
        problems.extend(_problem(folder, path, expected))
    belonging = set(manifest["files"]) | {f"{version}/{NAME}"}
    plans, wrong = plan_problems(folder / version, folder_facts(manifest))
    problems.extend(wrong if are_plans_checked else [])
    belonging |= {f"{version}/{name}" for name in plans}
    for path in sorted(_entries_below(folder, version) - belonging):
        problems.append(f"{folder.name}/{path} does not belong: the manifest does not list it")
    return problems


def has_plan(folder: Path, plan_filename: str, key: str | None = None) -> bool:
    """Whether the model folder has this plan, whole and of its graph; with a `key`, also that it was built that way."""
    try:
        manifest = read_manifest(folder)
    except RepositoryDamaged:
        return False
    version_directory = folder / str(manifest["version"])
    record = read_record(version_directory, plan_filename)
    if record is None or (key is not None and record.get("plan_key") != key):
        return False
    return is_whole_plan(version_directory, plan_filename, folder_facts(manifest))


def _problem(folder: Path, path: str, expected: dict[str, Any]) -> Iterable[str]:
    file = folder / path
    try:
        if file.is_symlink() or not file.is_file():
            yield f"{folder.name}/{path} is missing"
        elif file.stat().st_size != expected["size"]:
            yield f"{folder.name}/{path} differs: {file.stat().st_size} bytes, the manifest says {expected['size']}"
        elif (seen := sha256_of_file(file)) != expected["sha256"]:
            told = str(expected["sha256"])[:16]
            yield f"{folder.name}/{path} differs: SHA-256 {seen[:16]}..., the manifest says {told}..."
    except OSError as error:
        yield f"{folder.name}/{path} cannot be read: {error.strerror}"


def _entries_below(folder: Path, version: str) -> set[str]:
    """Relative paths of all files, links and empty directories (Triton takes `2/` for a version, files or not).

    Python's bytecode of model.py is left out: Triton writes it on loading.
    """
    bytecode = folder / version / "__pycache__"
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir() or not any(path.iterdir()))
        and not (path == bytecode or (path.parent == bytecode and path.match("model.*")))
    }
