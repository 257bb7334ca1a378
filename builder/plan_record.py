"""What a plan says of itself: `smNN.json` and `smNN.layers.json` beside `smNN.plan`. Standard library only.

A plan is no part of the release and not in `manifest.json`: a second GPU's plan can join a folder that is served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.hashing import sha256_of_bytes, sha256_of_file, sha256_of_text

FORMAT = 1
_PLAN_FILE = re.compile(r"(sm[0-9]+)(\.plan|\.json|\.layers\.json)")


@dataclass(frozen=True)
class FolderFacts:
    """What a folder and its plans must agree on: another graph answers as another model, and Triton asks for profiles
    by number.
    """

    onnx_sha256: str | None
    profiles: tuple[int, ...]


def folder_facts(manifest: Mapping[str, Any]) -> FolderFacts:
    """Those of the folder with this manifest."""
    graph = manifest["files"].get(f"{manifest['version']}/model.onnx", {})
    return FolderFacts(graph.get("sha256"), tuple(manifest.get("profiles", ())))


def plan_files(plan_filename: str, data: bytes, layers: str, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The three files of a plan by name; `facts` go into the record as they are."""
    record = {
        "format": FORMAT,
        **facts,
        "layers_sha256": sha256_of_text(layers),
        "sha256": sha256_of_bytes(data),
        "size": len(data),
    }
    plan, described, listed = names_of(plan_filename)
    return {plan: data, described: (json.dumps(record, indent=2) + "\n").encode(), listed: layers.encode()}


def names_of(plan_filename: str) -> tuple[str, str, str]:
    """File names of a plan, its record and its layers."""
    stem = plan_filename.removesuffix(".plan")
    return plan_filename, f"{stem}.json", f"{stem}.layers.json"


def plans_in(version_directory: Path) -> list[str]:
    """Names of the plans of which any of the three files is there, whole or not."""
    found = (_PLAN_FILE.fullmatch(path.name) for path in version_directory.glob("sm*"))
    return sorted({f"{match[1]}.plan" for match in found if match})


def whole_plans_in(version_directory: Path, belongs_to: FolderFacts) -> dict[str, list[Path]]:
    """Plan name -> its three files, for each plan that is as its record says and made for a folder of these facts."""
    return {
        plan: [version_directory / name for name in names_of(plan)]
        for plan in plans_in(version_directory)
        if is_whole_plan(version_directory, plan, belongs_to)
    }


def whole_plans_beyond(
    listed: Collection[str | None], version_directory: Path, belongs_to: FolderFacts
) -> dict[str, str]:
    """Compute capability -> name of each whole plan that is for a GPU of none of the `listed` capabilities."""
    found = {}
    for plan in plans_in(version_directory):
        capability = (read_record(version_directory, plan) or {}).get("compute_capability")
        is_told = isinstance(capability, str) and f"sm{capability.replace('.', '')}.plan" == plan
        if is_told and capability not in listed and is_whole_plan(version_directory, plan, belongs_to):
            found[str(capability)] = plan
    return found


def read_record(version_directory: Path, plan_filename: str) -> dict[str, Any] | None:
    """A plan's record; None where plan or record is not there or cannot be read."""
    plan, described, _ = names_of(plan_filename)
    try:
        record = json.loads((version_directory / described).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_record = isinstance(record, dict) and record.get("format") == FORMAT and (version_directory / plan).is_file()
    return record if is_record else None


def is_whole_plan(version_directory: Path, plan_filename: str, belongs_to: FolderFacts) -> bool:
    """Whether the plan is as its record says, and made for a folder of these facts."""
    return not list(_problems(version_directory, plan_filename, belongs_to))


def is_damaged_plan(version_directory: Path, plan_filename: str) -> bool:
    """Whether the plan is not as its record says, whatever folder it was made for."""
    return bool(list(_damages(version_directory, plan_filename)))


def plan_problems(version_directory: Path, belongs_to: FolderFacts) -> tuple[set[str], list[str]]:
    """Names of all files that belong to plans, and what is wrong with them."""
    belonging: set[str] = set()
    problems: list[str] = []
    for plan in plans_in(version_directory):
        belonging |= set(names_of(plan))
        problems += _problems(version_directory, plan, belongs_to)
    return belonging, problems


def _problems(version_directory: Path, plan_filename: str, belongs_to: FolderFacts) -> Iterator[str]:
    yield from _damages(version_directory, plan_filename)
    record = read_record(version_directory, plan_filename)
    if record is None:
        return
    plan = f"{_where(version_directory)}/{plan_filename}"
    if record.get("onnx_sha256") != belongs_to.onnx_sha256:
        yield f"{plan} was built from another model.onnx than the one beside it"
    if record.get("profiles") != list(belongs_to.profiles):
        yield f"{plan} has profiles {record.get('profiles')}, the folder's are {list(belongs_to.profiles)}"


def _damages(version_directory: Path, plan_filename: str) -> Iterator[str]:
    where = _where(version_directory)
    plan, described, listed = names_of(plan_filename)
    if not (version_directory / plan).exists():
        left = [name for name in (described, listed) if (version_directory / name).exists()]
        yield f"{where}/{plan} is missing, and {' and '.join(left) or 'a link to nowhere'} is left of it"
        return
    record = read_record(version_directory, plan)
    if record is None:
        yield f"{where}/{plan} has no readable record {described}"
        return
    for name, key in ((plan, "sha256"), (listed, "layers_sha256")):
        if _sha256_of_regular_file(version_directory / name) != record.get(key):
            yield f"{where}/{name} differs from its record {described}"


def _where(version_directory: Path) -> str:
    return f"{version_directory.parent.name}/{version_directory.name}"


def _sha256_of_regular_file(path: Path) -> str:
    """Empty for what is missing, unreadable or a link: no record says that."""
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        return sha256_of_file(path)
    except OSError:
        return ""
