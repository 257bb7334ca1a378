"""What a plan says of itself: `smNN.json` and `smNN.layers.json` beside `smNN.plan`. Standard library only.

A plan is no part of the release and not in `manifest.json`: a second GPU's plan can join a folder that is served.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.hashing import sha256_of_bytes, sha256_of_file, sha256_of_text

FORMAT = 1
_PLANS = "sm*.plan"


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


def plans_in(version_directory: Path) -> dict[str, list[Path]]:
    """Plan name -> those of its three files that are there."""
    return {
        plan.name: [path for name in names_of(plan.name) if (path := version_directory / name).is_file()]
        for plan in sorted(version_directory.glob(_PLANS))
    }


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


def plan_problems(version_directory: Path, belongs_to: FolderFacts) -> tuple[set[str], list[str]]:
    """Names of all files that belong to plans, and what is wrong with them."""
    belonging: set[str] = set()
    problems: list[str] = []
    for plan in sorted(version_directory.glob(_PLANS)):
        belonging |= set(names_of(plan.name))
        problems += _problems(version_directory, plan.name, belongs_to)
    return belonging, problems


def _problems(version_directory: Path, plan_filename: str, belongs_to: FolderFacts) -> Iterator[str]:
    where = f"{version_directory.parent.name}/{version_directory.name}"
    plan, described, listed = names_of(plan_filename)
    record = read_record(version_directory, plan)
    if record is None:
        yield f"{where}/{plan} has no readable record {described}"
        return
    for name, key in ((plan, "sha256"), (listed, "layers_sha256")):
        if _sha256_of_regular_file(version_directory / name) != record.get(key):
            yield f"{where}/{name} differs from its record {described}"
    if record.get("onnx_sha256") != belongs_to.onnx_sha256:
        yield f"{where}/{plan} was built from another model.onnx than the one beside it"
    if record.get("profiles") != list(belongs_to.profiles):
        yield f"{where}/{plan} has profiles {record.get('profiles')}, the folder's are {list(belongs_to.profiles)}"


def _sha256_of_regular_file(path: Path) -> str:
    """Empty for what is missing, unreadable or a link: no record says that."""
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        return sha256_of_file(path)
    except OSError:
        return ""
