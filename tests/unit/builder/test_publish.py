"""Publication: one rename, one number a release, nothing lost."""

from __future__ import annotations

import ctypes
import errno
import shutil
from pathlib import Path

import pytest

from builder import publish as publish_module
from builder.catalog import MODELS
from builder.errors import PublishConflict
from builder.folder import Contents, assemble_folder
from builder.manifest import manifest_path, problems_of, read_manifest
from builder.publish import Repository
from builder.verify import verify

_NAME = "googlenet_fp32"
_FOREIGN_FLAG = 64  # of no meaning to renameat2: the kernel answers EINVAL, as for a file system without exchange


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def _contents(onnx: bytes) -> Contents:
    spec = MODELS["GoogLeNet"].with_classes(3)
    return Contents(spec, "fp32", ["cat", "dog", "owl"], onnx, b"answers", instances=1, provenance={})


def _publish(repository: Repository, onnx: bytes) -> bool:
    """Publish a folder whose release depends on `onnx`; whether that was one atomic step."""
    contents = _contents(onnx)
    with repository.locked():
        folder = repository.new_folder()
        version = repository.version_for(_NAME, contents.release)
        assemble_folder(folder, contents, contents.release, version)
        return repository.publish(folder, _NAME)


def _served(repository: Repository) -> tuple[int, str]:
    manifest = read_manifest(repository.path / _NAME)
    return manifest["version"], manifest["release"]


def _kept(repository: Repository) -> list[str]:
    return sorted(path.name for path in repository.releases.iterdir())


def _left_in_staging(repository: Repository) -> list[str]:
    return sorted(path.name for path in repository.staging.iterdir() if path.name != ".lock")


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def test_the_first_publication_is_version_one(repository: Repository) -> None:
    """A name that was never served gets number 1, in one step, and nothing stays in staging."""
    assert _publish(repository, b"one")
    assert _served(repository) == (1, _contents(b"one").release)
    assert verify(repository.path) == {_NAME: []}
    assert not _left_in_staging(repository)


def test_a_replaced_folder_is_kept_under_its_version_and_release(repository: Repository) -> None:
    """A rollback finds the old folder whole, with one version directory, outside the repository."""
    _publish(repository, b"one")
    _publish(repository, b"two")
    kept = repository.releases / f"{_NAME}@1-{_contents(b'one').release}"
    assert _kept(repository) == [kept.name]
    assert (kept / "1" / "model.onnx").read_bytes() == b"one"
    assert problems_of(kept) == []
    assert [path.name for path in (repository.path / _NAME).iterdir() if path.name.isdecimal()] == ["2"]


def test_a_number_is_never_used_for_two_releases(repository: Repository) -> None:
    """The next number is that of all releases so far plus one, also when an old release comes back."""
    for onnx in (b"one", b"two", b"one"):
        _publish(repository, onnx)
    assert _served(repository) == (3, _contents(b"one").release)
    assert [name.split("-")[0] for name in _kept(repository)] == [f"{_NAME}@1", f"{_NAME}@2"]


def test_numbers_are_compared_as_numbers(repository: Repository) -> None:
    """After 9 comes 10, and after 10 comes 11."""
    for number in range(11):
        _publish(repository, f"graph {number}".encode())
    assert _served(repository)[0] == 11


def test_the_same_release_again_keeps_its_number_and_leaves_no_duplicate(repository: Repository) -> None:
    """Republishing what is served changes nothing a client sees, and fills no disk."""
    _publish(repository, b"one")
    _publish(repository, b"one")
    assert _served(repository) == (1, _contents(b"one").release)
    assert not _kept(repository)
    assert not _left_in_staging(repository)


def test_the_config_is_the_newest_file_of_a_published_folder(repository: Repository) -> None:
    """Triton reloads a folder when its newest time moves: the config is touched last."""
    _publish(repository, b"one")
    folder = repository.path / _NAME
    before_ns = (folder / "config.pbtxt").stat().st_mtime_ns
    _publish(repository, b"two")
    config_ns = (folder / "config.pbtxt").stat().st_mtime_ns
    assert config_ns == max(path.stat().st_mtime_ns for path in folder.rglob("*"))
    assert config_ns > before_ns


def test_a_second_publisher_is_told_at_once_and_changes_nothing(repository: Repository) -> None:
    """Two builders never write one repository; the second one does not wait."""
    _publish(repository, b"one")
    with repository.locked():
        unfinished = repository.new_folder()
        before = _snapshot(repository.path.parent)
        with (
            pytest.raises(PublishConflict, match="another builder is publishing"),
            Repository(repository.path).locked(),
        ):
            pytest.fail("two publishers at once")
        assert _snapshot(repository.path.parent) == before
        assert unfinished.is_dir()


def test_without_an_exchange_of_the_kernel_two_renames_are_made_and_told(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where renameat2 refuses its flag, `publish` replaces the folder all the same and returns False."""
    _publish(repository, b"one")
    monkeypatch.setattr(publish_module, "_RENAME_EXCHANGE", _FOREIGN_FLAG)
    assert not _publish(repository, b"two")
    assert _served(repository) == (2, _contents(b"two").release)
    assert _kept(repository) == [f"{_NAME}@1-{_contents(b'one').release}"]
    assert not _left_in_staging(repository)


def test_without_an_exchange_in_the_c_library_two_renames_are_made(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C library that has no renameat2 is no reason to fail."""
    _publish(repository, b"one")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert not _publish(repository, b"two")
    assert _served(repository)[0] == 2


def test_a_second_rename_that_fails_puts_the_old_folder_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two renames there is a moment without a folder: a refusal in it ends with the old one in place."""
    _publish(repository, b"one")
    before = _snapshot(repository.path)
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if self.name.startswith("swap-"):
            raise OSError(5, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(publish_module, "_RENAME_EXCHANGE", _FOREIGN_FLAG)
    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(PublishConflict, match="old folder is still in place"):
        _publish(repository, b"two")
    assert {name: content for name, (_, content) in _snapshot(repository.path).items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_an_interruption_between_two_renames_puts_the_old_folder_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C says that each model is as it was or new: it must not wait for the next publisher to be true."""
    _publish(repository, b"one")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.startswith("swap-"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(publish_module, "_RENAME_EXCHANGE", _FOREIGN_FLAG)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _publish(repository, b"two")
    assert _served(repository) == (1, _contents(b"one").release)
    assert problems_of(repository.path / _NAME) == []


def test_the_served_folder_is_told_from_its_copies(repository: Repository) -> None:
    """Only its own damaged plans may be passed over: those of a copy lie whole where they were built."""
    _publish(repository, b"one")
    live, copy = repository.path / _NAME, repository.path / "googlenet_copy"
    shutil.copytree(live, copy)
    (repository.path / "tmp").mkdir()
    assert [repository.serves(path) for path in (live, copy, repository.path / "tmp")] == [True, False, False]


def test_a_folder_of_someone_else_is_kept_when_it_is_replaced(repository: Repository) -> None:
    """What the builder cannot read is not the builder's to throw away."""
    folder = repository.path / _NAME
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("mine")
    _publish(repository, b"one")
    (kept,) = repository.releases.iterdir()
    assert kept.name.startswith(f"{_NAME}@unknown-")
    assert (kept / "config.pbtxt").read_text() == "mine"


def test_a_served_folder_with_a_broken_manifest_can_be_replaced(repository: Repository) -> None:
    """Damage is repaired by building again: the builder must not stumble over it. The number is not used again."""
    _publish(repository, b"one")
    path = manifest_path(repository.path / _NAME)
    assert path is not None
    path.write_text("{")
    _publish(repository, b"one")
    assert _served(repository)[0] == 2
    assert verify(repository.path) == {_NAME: []}


def test_a_release_copied_back_by_hand_is_replaced_without_a_conflict(repository: Repository) -> None:
    """An operator may roll back with `cp -r`; the copy that comes to `.releases` again is dropped."""
    _publish(repository, b"one")
    _publish(repository, b"two")
    kept = repository.releases / f"{_NAME}@1-{_contents(b'one').release}"
    live = repository.path / _NAME
    live.rename(repository.releases / f"{_NAME}@2-{_contents(b'two').release}")
    live.mkdir()
    for path in sorted(kept.rglob("*")):
        target = live / path.relative_to(kept)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    _publish(repository, b"three")
    assert _served(repository)[0] == 3
    assert [name.split("-")[0] for name in _kept(repository)] == [f"{_NAME}@1", f"{_NAME}@2"]


@pytest.mark.parametrize("obstacle", ["models", ".staging", ".releases"])
def test_a_file_where_a_directory_must_be_is_a_conflict_before_anything_changes(tmp_path: Path, obstacle: str) -> None:
    """What stands in the way is found before a folder is written, and named."""
    (tmp_path / obstacle).write_text("in the way")
    with pytest.raises(PublishConflict, match="cannot be published to"):
        _publish(Repository(tmp_path / "models"), b"one")
    assert (tmp_path / obstacle).read_text() == "in the way"
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_number_outlives_its_folder(repository: Repository) -> None:
    """A client that kept the contract of a deleted release must see another number, or it would keep its labels too."""
    _publish(repository, b"one")
    _publish(repository, b"two")
    shutil.rmtree(repository.path)
    shutil.rmtree(repository.releases)
    with repository.locked():
        assert repository.version_for(_NAME, "another release") == 3


def test_a_served_version_without_its_manifest_still_counts(repository: Repository) -> None:
    """Triton serves it all the same."""
    _publish(repository, b"one")
    (repository.path / _NAME / "1" / "manifest.json").unlink()
    (repository.path / _NAME / "1").rename(repository.path / _NAME / "7")
    with repository.locked():
        assert repository.version_for(_NAME, "another release") == 8


def test_what_waits_and_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would replace, one day, what was published since; and half of it removed would stop every later stage."""
    repository = Repository(tmp_path / "models")
    waiting = repository.awaiting_plan / "googlenet_fp32"
    (waiting / "1").mkdir(parents=True)
    (waiting / "1" / "model.onnx").write_bytes(b"graph")
    original = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == waiting:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    (line,) = repository.drop_staged("googlenet_fp32")
    assert "could not be removed (Permission denied)" in line
    assert (waiting / "1" / "model.onnx").read_bytes() == b"graph"
    monkeypatch.undo()
    assert repository.drop_staged("googlenet_fp32") == ()
    assert not waiting.exists()
    assert repository.drop_staged("googlenet_fp32") == ()
