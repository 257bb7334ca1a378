"""Folders from elsewhere: installed whole, renumbered, and their plans joined to what is served."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.catalog import MODELS
from builder.errors import RepositoryDamaged, UsageError
from builder.folder import Contents, assemble_folder
from builder.install import install, model_folders, publish_with_plans
from builder.manifest import has_plan, problems_of, read_manifest
from builder.plan_record import folder_facts, plan_files
from builder.publish import Repository

_NAME = "googlenet_fp32"


def _folder(
    parent: Path,
    onnx: bytes = b"graph",
    *,
    version: int = 1,
    profiles: tuple[int, ...] = (8,),
    extra_plans: Mapping[str, str] | None = None,
) -> Path:
    """A model folder as it was built on some machine."""
    spec = MODELS["GoogLeNet"].with_classes(3)
    labels = ["cat", "dog", "owl"]
    contents = Contents(spec, "fp32", labels, onnx, b"answers", 1, {}, profiles, extra_plans or {})
    folder = parent / _NAME
    folder.mkdir(parents=True)
    assemble_folder(folder, contents, contents.release, version)
    return folder


def _files(folder: Path, name: str, data: bytes) -> dict[str, bytes]:
    facts = folder_facts(read_manifest(folder))
    return plan_files(name, data, "{}", {"onnx_sha256": facts.onnx_sha256, "profiles": list(facts.profiles)})


def _with_plan(folder: Path, name: str, data: bytes) -> Path:
    for path, content in _files(folder, name, data).items():
        (folder / str(read_manifest(folder)["version"]) / path).write_bytes(content)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def _install(repository: Repository, source: Path, plans: dict[str, bytes] | None = None):
    with repository.locked():
        return install(repository, source, plans or {})


def test_the_plan_of_the_second_gpu_changes_neither_release_nor_version(repository: Repository, tmp_path: Path) -> None:
    """One folder for T4, V100 and CPU: a plan joins it, and everything else is as it was, byte for byte."""
    source = _folder(tmp_path / "built")
    first = _install(repository, source, _files(source, "sm75.plan", b"for the T4"))
    before = {path.name: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    second = _install(repository, first.folder, _files(source, "sm70.plan", b"for the V100"))
    assert (second.release, second.version, second.cautions) == (first.release, first.version, ())
    assert problems_of(second.folder) == []
    assert has_plan(second.folder, "sm75.plan")
    assert has_plan(second.folder, "sm70.plan")
    after = {path.name: path.read_bytes() for path in second.folder.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert sorted(after.keys() - before.keys()) == ["sm70.json", "sm70.layers.json", "sm70.plan"]
    assert not list(repository.releases.iterdir())  # no release was replaced


def test_a_folder_of_another_host_brings_its_plan(repository: Repository, tmp_path: Path) -> None:
    """Built on a V100 host that shares no disk: `publish` joins its plan to the T4's."""
    _install(repository, _with_plan(_folder(tmp_path / "t4"), "sm75.plan", b"for the T4"))
    installed = _install(repository, _with_plan(_folder(tmp_path / "v100", version=7), "sm70.plan", b"for the V100"))
    assert installed.version == 1
    assert (installed.folder / "1" / "sm75.plan").read_bytes() == b"for the T4"
    assert (installed.folder / "1" / "sm70.plan").read_bytes() == b"for the V100"
    assert problems_of(installed.folder) == []


def test_another_release_gets_the_next_number(repository: Repository, tmp_path: Path) -> None:
    """The number a folder had where it was built means nothing here: manifest and directory are renumbered."""
    _install(repository, _folder(tmp_path / "one", version=4))
    installed = _install(repository, _folder(tmp_path / "two", b"another graph", version=1))
    assert installed.version == 2
    assert read_manifest(installed.folder)["version"] == 2
    assert [path.name for path in installed.folder.glob("[1-9]*")] == ["2"]
    assert problems_of(installed.folder) == []


@pytest.mark.parametrize(
    "changes", [{"onnx": b"another graph"}, {"profiles": (1, 4, 8)}], ids=["another graph", "other profiles"]
)
def test_a_plan_that_does_not_fit_is_left_behind_and_named(
    repository: Repository, tmp_path: Path, changes: dict
) -> None:
    """It would answer as another model, or fail to load: whoever publishes reads which GPU has none now."""
    _install(repository, _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"for the T4"))
    installed = _install(repository, _folder(tmp_path / "two", **changes))
    (caution,) = installed.cautions
    assert caution.startswith("sm75.plan is not in this release")
    assert not list(installed.folder.rglob("*.plan"))
    assert problems_of(installed.folder) == []


def test_a_rebuild_of_the_same_release_keeps_the_plans(repository: Repository, tmp_path: Path) -> None:
    """`build --gpu cpu` on a repository with plans must not take them from the GPU hosts."""
    _install(repository, _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"for the T4"))
    with repository.locked():
        folder = repository.new_folder()
        shutil.copytree(_folder(tmp_path / "again"), folder, dirs_exist_ok=True)
        assert publish_with_plans(repository, folder) == ()
    assert has_plan(repository.path / _NAME, "sm75.plan")


def test_the_served_plan_is_kept_before_one_that_comes_along(repository: Repository, tmp_path: Path) -> None:
    """Copied back with an older plan, the same release must not take the newer one from the server; both are named."""
    _install(repository, _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"served"))
    other = _with_plan(_folder(tmp_path / "other"), "sm75.plan", b"of last year")
    installed = _install(repository, other)
    (caution,) = installed.cautions
    plan = installed.folder / "1" / "sm75.plan"
    assert caution.startswith("sm75.plan stays as it is served")
    assert f"remove {plan}" in caution
    assert plan.read_bytes() == b"served"
    assert problems_of(installed.folder) == []

    plan.unlink()  # as the caution says
    assert _install(repository, other).cautions == ()
    assert plan.read_bytes() == b"of last year"
    assert problems_of(installed.folder) == []


def test_a_plan_that_was_just_built_replaces_the_served_one(repository: Repository, tmp_path: Path) -> None:
    """Whoever builds a plan wants it served; there is nothing to be cautious of."""
    source = _folder(tmp_path / "one")
    _install(repository, source, _files(source, "sm75.plan", b"old"))
    installed = _install(repository, source, _files(source, "sm75.plan", b"new"))
    assert installed.cautions == ()
    assert (installed.folder / "1" / "sm75.plan").read_bytes() == b"new"
    assert problems_of(installed.folder) == []


def test_a_damaged_served_plan_gives_way_to_a_whole_one(repository: Repository, tmp_path: Path) -> None:
    """Only a plan that a server could load is worth keeping."""
    source = _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"whole")
    live = _install(repository, source).folder
    (live / "1" / "sm75.plan").write_bytes(b"cut")
    installed = _install(repository, source)
    assert installed.cautions == ()
    assert (installed.folder / "1" / "sm75.plan").read_bytes() == b"whole"
    assert problems_of(installed.folder) == []


@pytest.mark.parametrize("damage", ["sm75.plan", "sm75.json", "sm75.layers.json"])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "gone"])
def test_a_damaged_plan_of_the_served_folder_does_not_keep_another_out(
    repository: Repository, tmp_path: Path, damage: str, is_cut: bool
) -> None:
    """A plan joins the served folder, from where it is read too: what is damaged there is left behind and named."""
    live = _install(repository, _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"for the T4")).folder
    (live / "1" / damage).write_bytes(b"cut") if is_cut else (live / "1" / damage).unlink()
    installed = _install(repository, live, _files(live, "sm70.plan", b"for the V100"))
    (caution,) = installed.cautions
    assert caution.startswith("sm75.plan was damaged and is left out: build it again")
    assert [path.name for path in sorted(live.glob("1/sm*"))] == ["sm70.json", "sm70.layers.json", "sm70.plan"]
    assert problems_of(live) == []


@pytest.mark.parametrize("damage", ["1/model.onnx", "labels.txt", "1/sm75.txt"])
def test_other_damage_of_the_served_folder_is_refused(repository: Repository, tmp_path: Path, damage: str) -> None:
    """A plan cannot be proved for a graph that is not what it was."""
    live = _install(repository, _folder(tmp_path / "one")).folder
    (live / damage).write_bytes(b"cut")
    with pytest.raises(RepositoryDamaged, match=damage.rpartition("/")[2]):
        _install(repository, live, _files(live, "sm75.plan", b"for the T4"))
    assert not has_plan(live, "sm75.plan")


def test_modes_of_the_source_are_not_kept(repository: Repository, tmp_path: Path) -> None:
    """A read-only copy (a mounted share, `chmod -R a-w`) must not make the served folder one that none can replace."""
    source = _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"for the T4")
    ordinary = {path.relative_to(source): stat.S_IMODE(path.stat().st_mode) for path in source.rglob("*")}
    for path in (source, *source.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder = _install(repository, source).folder
    for path in (source, *source.rglob("*")):
        path.chmod(0o755)  # pytest removes it
    assert {path.relative_to(folder): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")} == ordinary
    assert stat.S_IMODE(folder.stat().st_mode) & stat.S_IRWXU == stat.S_IRWXU


def test_a_plan_that_the_configuration_does_not_name_is_told(repository: Repository, tmp_path: Path) -> None:
    """The plan of a GPU beyond the table is kept by a release that was built without it, and no server takes it."""
    beyond = _folder(tmp_path / "auto", extra_plans={"9.0": "sm90.plan"})
    installed = _install(repository, beyond, _files(beyond, "sm90.plan", b"for the H100"))
    assert installed.cautions == ()
    installed = _install(repository, _folder(tmp_path / "table"))
    (caution,) = installed.cautions
    assert caution.startswith("sm90.plan is kept, but this release's config.pbtxt does not name it")
    assert "--gpu auto" in caution
    assert has_plan(installed.folder, "sm90.plan")


def test_what_explains_a_repository_is_no_model(tmp_path: Path) -> None:
    """`publish models/*` names README.md too: it is skipped, and told."""
    folder = _folder(tmp_path)
    (tmp_path / "README.md").write_text("Models.")
    assert model_folders([tmp_path / "README.md", folder]) == ([folder], [tmp_path / "README.md"])
    with pytest.raises(UsageError, match=r"README\.md is no model"):
        model_folders([tmp_path / "README.md"])


@pytest.mark.parametrize(("name", "told"), [("", "/*"), ("notes.txt", "is no directory"), ("gone", "is no directory")])
def test_what_is_no_model_folder_is_a_mistake_of_the_user(tmp_path: Path, name: str, told: str) -> None:
    """A whole repository or a stray file: the message says what to give instead, before anything is published."""
    folder = _folder(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError) as caught:
        model_folders([folder, tmp_path / name])
    assert told in str(caught.value)


@pytest.mark.parametrize("damage", ["1/model.onnx", "1/sm75.plan", "1/sm75.layers.json", "labels.txt"])
def test_a_folder_that_was_damaged_on_its_way_is_refused(repository: Repository, tmp_path: Path, damage: str) -> None:
    """Nothing is published, the served folder stays, and the file is named."""
    served = _install(repository, _folder(tmp_path / "one"))
    source = _with_plan(_folder(tmp_path / "two", b"another graph"), "sm75.plan", b"for the T4")
    (source / damage).write_bytes(b"cut")
    with pytest.raises(RepositoryDamaged, match=damage.rpartition("/")[2]):
        _install(repository, source)
    assert read_manifest(served.folder)["release"] == served.release
    assert problems_of(served.folder) == []


def test_a_damaged_plan_is_not_carried_into_the_next_folder(repository: Repository, tmp_path: Path) -> None:
    """A plan that is not what its record says is left behind, and named."""
    live = _install(repository, _with_plan(_folder(tmp_path / "one"), "sm75.plan", b"for the T4")).folder
    (live / "1" / "sm75.plan").write_bytes(b"cut")
    installed = _install(repository, _folder(tmp_path / "again"))
    assert [caution.split()[0] for caution in installed.cautions] == ["sm75.plan"]
    assert problems_of(installed.folder) == []


def test_a_record_of_another_graph_is_a_problem(tmp_path: Path) -> None:
    """A plan copied from another model has the right hashes and the wrong answers."""
    folder = _with_plan(_folder(tmp_path), "sm75.plan", b"for the T4")
    record = json.loads((folder / "1" / "sm75.json").read_text())
    (folder / "1" / "sm75.json").write_text(json.dumps(record | {"onnx_sha256": "0" * 64}))
    assert problems_of(folder) == [f"{_NAME}/1/sm75.plan was built from another model.onnx than the one beside it"]
    (folder / "1" / "sm75.json").write_text(json.dumps(record | {"profiles": [1, 4, 8]}))
    assert problems_of(folder) == [f"{_NAME}/1/sm75.plan has profiles [1, 4, 8], the folder's are [8]"]


def test_what_was_staged_before_never_replaces_what_is_installed_now(repository: Repository, tmp_path: Path) -> None:
    """A folder that waits for a plan is older than the one installed: a later plan stage must not bring it back."""
    staged = repository.awaiting_plan / _NAME
    shutil.copytree(_folder(tmp_path / "old"), staged)
    installed = _install(repository, _folder(tmp_path / "new", b"another graph"))
    assert not staged.exists()
    assert problems_of(installed.folder) == []
