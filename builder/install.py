"""A finished folder, from wherever it lies, becomes the served one: copied, renumbered, its plans joined, published."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.errors import RepositoryDamaged, UsageError
from builder.folder import renumber_folder
from builder.manifest import NAME, manifest_path, problems_of, read_manifest
from builder.plan_record import FolderFacts, folder_facts, is_damaged_plan, plans_in, read_record, whole_plans_in
from builder.publish import NOT_MODELS, Repository


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


def model_folders(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The model folders of a command line, and what may lie beside them (`publish models/*`) and is skipped.

    Raises `UsageError` for what is no directory, for a directory of model folders, and where no model is left.
    """
    folders, skipped = [], []
    for path in paths:
        if path.name in NOT_MODELS and path.is_file():
            skipped.append(path)
            continue
        if not path.is_dir():
            raise UsageError(f"{path} is no directory; expected a model folder. Nothing was published")
        if manifest_path(path) is None and any(manifest_path(child) for child in path.iterdir() if child.is_dir()):
            raise UsageError(f"{path} holds model folders: give them, {path}/*, not {path}. Nothing was published")
        folders.append(path)
    if not folders:
        raise UsageError(f"{', '.join(map(str, skipped))} is no model: give a model folder. Nothing was published")
    return folders, skipped


def install(repository: Repository, source: Path, plans: Mapping[str, bytes]) -> Installed:
    """Publish the model folder `source` with the files of `plans` (by name) added; the caller holds the lock.

    Where its release is served already, version and plans of the served folder are kept; only `plans`, which were just
    built, take the place of one. Raises `RepositoryDamaged` as `check_source` does; nothing is published then.
    """
    check_source(repository, source)
    manifest = read_manifest(source)
    served_name, release = manifest["served_name"], manifest["release"]
    version = repository.version_for(served_name, release)
    folder = repository.new_folder()
    for path in _files_to_copy(repository, source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)  # with the modes of new files: read-only ones would bind the next publisher
    renumber_folder(folder, version)
    for name, content in plans.items():
        (folder / str(version) / name).write_bytes(content)
    cautions = publish_with_plans(repository, folder, just_built=plans)
    return Installed(served_name, repository.path / served_name, release, version, cautions)


def publish_with_plans(repository: Repository, folder: Path, just_built: Collection[str] = ()) -> tuple[str, ...]:
    """Publish the finished staging `folder`; plans of the served folder are kept where its graph is the same one.

    They come before the folder's own, but for those `just_built`. Returns lines that whoever publishes should read: a
    plan that is served no more or not taken, two renames instead of one step.
    """
    manifest = read_manifest(folder)
    served_name, version_directory, facts = manifest["served_name"], _version_directory(folder), folder_facts(manifest)
    cautions = list(_carry_plans(repository.path / served_name, version_directory, facts, just_built))
    check_whole(folder)
    cautions += _not_named(folder)
    if not repository.publish(folder, served_name):
        cautions.append("this file system cannot exchange folders: two renames were made")
    return (*cautions, *repository.drop_staged(served_name))


def check_source(repository: Repository, source: Path) -> None:
    """`check_whole`, but a damaged plan of the served folder itself passes: it is built again, or left out and named.

    In a copy it is damage of the way, and the whole plan lies where the copy was made.
    """
    check_whole(source, are_plans_checked=not repository.serves(source))


def check_whole(folder: Path, *, are_plans_checked: bool = True) -> None:
    """`RepositoryDamaged` naming every file of the model folder that is not as its manifest says."""
    problems = problems_of(folder, are_plans_checked=are_plans_checked)
    if problems:
        raise RepositoryDamaged(
            f"{folder} is not as it was built: {'; '.join(problems)}. Copy it again from where it was built, or build "
            "it again; nothing was published"
        )


def _version_directory(folder: Path) -> Path:
    return folder / str(read_manifest(folder)["version"])


def _files_to_copy(repository: Repository, source: Path) -> Iterator[Path]:
    """Those of the manifest, itself, and plans; of the served folder no plans, since they are carried anyway."""
    manifest, version_directory = read_manifest(source), _version_directory(source)
    yield from (source / path for path in manifest["files"])
    yield version_directory / NAME
    if not repository.serves(source):
        for paths in whole_plans_in(version_directory, folder_facts(manifest)).values():
            yield from paths


def _carry_plans(live: Path, version_directory: Path, facts: FolderFacts, just_built: Collection[str]) -> Iterator[str]:
    """Copy each plan of the `live` folder that fits the folder of these facts; a line for what is not as expected."""
    for old in sorted(path for path in live.glob("[1-9]*") if path.is_dir()):
        whole = whole_plans_in(old, facts)
        for name in plans_in(old):
            if name in just_built:
                continue
            if name in whole:
                if _is_another_build(version_directory, old, name):
                    yield (
                        f"{name} stays as it is served: what is installed has another build of it, which is not taken. "
                        f"To take that one, remove {old / name} and install again"
                    )
                for path in whole[name]:
                    shutil.copyfile(path, version_directory / path.name)
            elif not (version_directory / name).exists():
                lost = "was damaged and is left out" if is_damaged_plan(old, name) else "is not in this release"
                yield f"{name} {lost}: build it again on its GPU, or that GPU has no model"


def _is_another_build(version_directory: Path, old: Path, name: str) -> bool:
    ours, served = read_record(version_directory, name), read_record(old, name)
    return ours is not None and served is not None and ours["sha256"] != served["sha256"]


def _not_named(folder: Path) -> Iterator[str]:
    """A line for each plan that the folder's configuration has no name for: of a GPU beyond the table."""
    config = (folder / "config.pbtxt").read_text(encoding="utf-8")
    for name in plans_in(_version_directory(folder)):
        if f'"{name}"' not in config:
            yield (
                f"{name} is kept, but this release's config.pbtxt does not name it and no server takes it: "
                "`python -m builder build --gpu auto`, both stages, on its GPU names it again"
            )
