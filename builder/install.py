"""A finished folder, from wherever it lies, becomes the served one: copied, renumbered, its plans joined, published."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.errors import RepositoryDamaged
from builder.folder import renumber_folder
from builder.manifest import problems_of, read_manifest
from builder.plan_record import FolderFacts, folder_facts, is_whole_plan, plans_in
from builder.publish import Repository


@dataclass(frozen=True)
class Installed:
    """What became of one served model; `cautions` are lines that whoever installs should read."""

    served_name: str
    folder: Path
    release: str
    version: int
    cautions: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"folder": str(self.folder)}


def install(repository: Repository, source: Path, plans: Mapping[str, bytes]) -> Installed:
    """Publish the model folder `source` with the files of `plans` (by name) added; the caller holds the lock.

    Where its release is served already, version and plans of the served folder are kept. Raises `RepositoryDamaged`
    when `source` is not as its manifest says; nothing is published then.
    """
    check_whole(source)
    manifest = read_manifest(source)
    served_name, release = manifest["served_name"], manifest["release"]
    version = repository.version_for(served_name, release)
    folder = repository.new_folder()
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    renumber_folder(folder, version)
    for name, content in plans.items():
        (folder / str(version) / name).write_bytes(content)
    cautions = publish_with_plans(repository, folder)
    return Installed(served_name, repository.path / served_name, release, version, cautions)


def publish_with_plans(repository: Repository, folder: Path) -> tuple[str, ...]:
    """Publish the finished staging `folder`; plans of the served folder are kept where its graph is the same one.

    Returns lines that whoever publishes should read: a plan that is served no more, two renames instead of one step.
    """
    manifest = read_manifest(folder)
    served_name, version_directory = manifest["served_name"], folder / str(manifest["version"])
    lost = _carry_plans(repository.path / served_name, version_directory, folder_facts(manifest))
    cautions = [f"{name} is not in this release: build it again on its GPU, or that GPU has no model" for name in lost]
    check_whole(folder)
    if not repository.publish(folder, served_name):
        cautions.append("this file system cannot exchange folders: two renames were made")
    repository.drop_staged(served_name)
    return tuple(cautions)


def check_whole(folder: Path) -> None:
    """`RepositoryDamaged` naming every file of the model folder that is not as its manifest says."""
    problems = problems_of(folder)
    if problems:
        raise RepositoryDamaged(
            f"{folder} is not as it was built: {'; '.join(problems)}. Copy it again from where it was built, or build "
            "it again; nothing was published"
        )


def _carry_plans(live: Path, version_directory: Path, facts: FolderFacts) -> list[str]:
    """Copy each plan of the `live` folder that fits the folder of these facts; names of the others."""
    lost = []
    for old in sorted(path for path in live.glob("[1-9]*") if path.is_dir()):
        for name, paths in plans_in(old).items():
            if (version_directory / name).exists():
                continue
            if is_whole_plan(old, name, facts):
                for path in paths:
                    shutil.copyfile(path, version_directory / path.name)
            else:
                lost.append(name)
    return lost
