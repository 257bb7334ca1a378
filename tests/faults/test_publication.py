"""A publisher that is killed, or that may not write: the old release or the new one is whole, and none is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.catalog import MODELS
from builder.errors import PublishConflict
from builder.folder import Contents
from builder.manifest import read_manifest
from builder.publish import Repository
from builder.verify import verify

_ROOT = Path(__file__).parents[2]
_NAME = "googlenet_fp32"

_PUBLISHER = """
import ctypes, json, os, shutil, signal, sys
from pathlib import Path
import builder.folder, builder.publish
from builder.catalog import MODELS
from builder.errors import BuilderError
from builder.folder import Contents, assemble_folder
from builder.publish import Repository

NAME = "googlenet_fp32"

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def publish(onnx):
    repository = Repository(Path(sys.argv[1]))
    spec = MODELS["GoogLeNet"].with_classes(3)
    contents = Contents(spec, "fp32", ["cat", "dog", "owl"], onnx, b"answers", instances=1, provenance={})
    with repository.locked():
        folder = repository.new_folder()
        version = repository.version_for(NAME, contents.release)
        assemble_folder(folder, contents, contents.release, version)
        repository.publish(folder, NAME)

def lose_privileges():
    # A process of root's without capabilities obeys the modes of files like any other.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        sys.exit("capset failed")
"""

_MAIN = """
try:
    publish(sys.argv[2].encode())
except BuilderError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

_HALF_A_FOLDER = "builder.folder.listed_files = die"
_HALF_A_MANIFEST = """
write_text = Path.write_text
def write_half(self, text, **options):
    if self.name != "manifest.json":
        return write_text(self, text, **options)
    write_text(self, text[: len(text) // 2], **options)
    die()
Path.write_text = write_half
"""
_NOT_FLUSHED = "builder.publish._flush = die"
_NOT_EXCHANGED = "builder.publish._exchange = die"
_NOT_RETIRED = "Repository._retire = die"
_NO_EXCHANGE = "builder.publish._RENAME_EXCHANGE = 64"  # no flag of renameat2: the kernel answers EINVAL
_BETWEEN_TWO_RENAMES = f"""
{_NO_EXCHANGE}
rename = Path.rename
Path.rename = lambda self, target: die() if self.name.startswith("swap-") else rename(self, target)
"""
_AFTER_TWO_RENAMES = f"{_NO_EXCHANGE}\n{_NOT_RETIRED}"

_BEFORE = {
    "half a folder": _HALF_A_FOLDER,
    "half a manifest": _HALF_A_MANIFEST,
    "a whole folder, not flushed": _NOT_FLUSHED,
    "a whole folder, not exchanged": _NOT_EXCHANGED,
}
_AFTER = {"exchanged, not retired": _NOT_RETIRED, "two renames, not retired": _AFTER_TWO_RENAMES}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path / "models")
    yield made
    for folder in (tmp_path, made.path, made.releases):  # what a test took away, pytest needs for cleaning up
        if folder.is_dir():
            folder.chmod(0o755)


def _run(repository: Repository, onnx: bytes, damage: str = "") -> subprocess.CompletedProcess[str]:
    """Publish `onnx` in a process of its own, in which `damage` is done first."""
    return subprocess.run(
        [sys.executable, "-c", f"{_PUBLISHER}\n{damage}\n{_MAIN}", str(repository.path), onnx.decode()],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _publish(repository: Repository, onnx: bytes) -> None:
    done = _run(repository, onnx)
    assert done.returncode == 0, done.stderr


def _die_publishing(repository: Repository, onnx: bytes, damage: str) -> None:
    done = _run(repository, onnx, damage)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _release(onnx: bytes) -> str:
    spec = MODELS["GoogLeNet"].with_classes(3)
    return Contents(spec, "fp32", ["cat", "dog", "owl"], onnx, b"answers", instances=1, provenance={}).release


def _served(repository: Repository) -> tuple[int, str]:
    manifest = read_manifest(repository.path / _NAME)
    return manifest["version"], manifest["release"]


def _kept(repository: Repository) -> list[str]:
    return sorted(path.name for path in repository.releases.iterdir())


def _left_in_staging(repository: Repository) -> list[str]:
    return sorted(path.name for path in repository.staging.iterdir() if path.name != ".lock")


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", _BEFORE.values(), ids=_BEFORE)
def test_a_publisher_killed_before_the_exchange_leaves_the_old_release(repository: Repository, damage: str) -> None:
    """Whatever was in staging, the served folder is byte for byte the old one, and the next publisher cleans up."""
    _publish(repository, b"old")
    before = _bytes_of(repository.path)
    _die_publishing(repository, b"new", damage)
    assert _bytes_of(repository.path) == before
    assert verify(repository.path) == {_NAME: []}
    with repository.locked():
        assert not _left_in_staging(repository)
    assert _bytes_of(repository.path) == before
    assert not _kept(repository)
    _publish(repository, b"new")
    assert _served(repository) == (2, _release(b"new"))


@pytest.mark.parametrize("damage", _AFTER.values(), ids=_AFTER)
def test_a_publisher_killed_after_the_exchange_leaves_the_new_release(repository: Repository, damage: str) -> None:
    """The new folder serves, and the old one reaches `.releases` with the next publisher."""
    _publish(repository, b"old")
    _die_publishing(repository, b"new", damage)
    assert _served(repository) == (2, _release(b"new"))
    assert verify(repository.path) == {_NAME: []}
    with repository.locked():
        assert not _left_in_staging(repository)
    assert _kept(repository) == [f"{_NAME}@1-{_release(b'old')}"]
    _publish(repository, b"newest")
    assert _served(repository) == (3, _release(b"newest"))


def test_a_publisher_killed_between_two_renames_gets_the_old_release_back(repository: Repository) -> None:
    """Without an exchange there is a moment with no folder; the next publisher puts the old one back first."""
    _publish(repository, b"old")
    before = _bytes_of(repository.path)
    _die_publishing(repository, b"new", _BETWEEN_TWO_RENAMES)
    assert not (repository.path / _NAME).exists()
    with repository.locked():
        assert _bytes_of(repository.path) == before
    assert verify(repository.path) == {_NAME: []}
    with repository.locked():
        assert not _left_in_staging(repository)


@pytest.mark.parametrize("damage", [*_BEFORE.values()][:3], ids=[*_BEFORE][:3])
def test_a_first_publisher_that_is_killed_leaves_nothing(repository: Repository, damage: str) -> None:
    """There is no half a model in a repository, and the number it would have had is still free."""
    _die_publishing(repository, b"one", damage)
    assert not list(repository.path.iterdir())
    _publish(repository, b"one")
    assert _served(repository)[0] == 1


def test_a_publisher_killed_while_dropping_a_duplicate_leaves_one_release(repository: Repository) -> None:
    """The same release published again: whichever of the two is left, no copy gets into `.releases`."""
    _publish(repository, b"one")
    half_a_removal = "shutil.rmtree = lambda folder: (next(Path(folder).glob('*/model.onnx')).unlink(), die())"
    _die_publishing(repository, b"one", half_a_removal)
    assert verify(repository.path) == {_NAME: []}
    with repository.locked():
        assert not _left_in_staging(repository)
    assert not _kept(repository)
    assert _served(repository) == (1, _release(b"one"))


def test_a_folder_of_someone_else_survives_a_killed_publisher(repository: Repository) -> None:
    """Also what the builder cannot read is found again, after the exchange as between two renames."""
    folder = repository.path / _NAME
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("mine")
    _die_publishing(repository, b"one", _BETWEEN_TWO_RENAMES)
    with repository.locked():
        assert (folder / "config.pbtxt").read_text() == "mine"
    _die_publishing(repository, b"one", _NOT_EXCHANGED)
    with repository.locked():
        assert (folder / "config.pbtxt").read_text() == "mine"
    _die_publishing(repository, b"one", _NOT_RETIRED)
    with repository.locked():
        (kept,) = repository.releases.iterdir()
    assert (kept / "config.pbtxt").read_text() == "mine"


def test_another_process_that_publishes_is_noticed_at_once(repository: Repository) -> None:
    """The lock is the kernel's: held by a process, told to another, and gone when the holder is killed."""
    _publish(repository, b"one")
    before = _bytes_of(repository.path.parent)
    holding = "\nwith Repository(Path(sys.argv[1])).locked():\n    print('holding', flush=True)\n    sys.stdin.read()\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", _PUBLISHER + holding, str(repository.path)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(PublishConflict, match="another builder is publishing"), repository.locked():
            pytest.fail("two publishers at once")
        assert _bytes_of(repository.path.parent) == before
        holder.kill()
    with repository.locked():
        assert verify(repository.path) == {_NAME: []}


def test_a_parent_that_may_not_be_written_is_a_conflict(repository: Repository) -> None:
    """Without a place for staging nothing is begun, and the message names it."""
    repository.path.mkdir()
    repository.path.parent.chmod(0o555)
    done = _run(repository, b"one", "lose_privileges()")
    assert done.returncode == 1
    assert done.stderr.startswith("PublishConflict: ")
    assert "parent directory must be writable" in done.stderr
    assert not list(repository.path.iterdir())


def test_a_repository_that_may_not_be_written_keeps_its_release(repository: Repository) -> None:
    """The kernel refuses the exchange: the old folder is untouched, and later another build goes through."""
    _publish(repository, b"old")
    before = _bytes_of(repository.path)
    repository.path.chmod(0o555)
    done = _run(repository, b"new", "lose_privileges()")
    assert done.returncode == 1
    assert "PublishConflict" in done.stderr
    assert "old folder is still in place" in done.stderr
    assert _bytes_of(repository.path) == before
    repository.path.chmod(0o755)
    _publish(repository, b"new")
    assert _served(repository) == (2, _release(b"new"))
    assert not _left_in_staging(repository)


@pytest.mark.parametrize(
    "place",
    [".staging/models/new-1", f".staging/models/swap-1@{_NAME}", f"models/{_NAME}"],
    ids=["new", "swap", "live"],
)
def test_what_came_read_only_does_not_stop_the_next_publisher(repository: Repository, place: str) -> None:
    """Directories of a read-only copy cannot be emptied as they are; their owner makes them writable and goes on."""
    _publish(repository, b"one")
    folder = repository.path.parent / place
    read_only = ["1", "configs"]
    if not folder.exists():
        shutil.copytree(repository.path / _NAME, folder)
        read_only.append(".")  # a served one cannot be: the kernel renames no such directory
    for directory in read_only:
        (folder / directory).chmod(0o555)
    done = _run(repository, b"one", "lose_privileges()")
    assert done.returncode == 0, done.stderr
    assert not _left_in_staging(repository)
    assert verify(repository.path) == {_NAME: []}
    assert _served(repository) == (1, _release(b"one"))


def test_releases_that_may_not_be_written_lose_no_release(repository: Repository) -> None:
    """The exchange is done when the old folder cannot be moved: the message says which one serves, and none is lost."""
    _publish(repository, b"old")
    repository.releases.chmod(0o555)
    done = _run(repository, b"new", "lose_privileges()")
    assert done.returncode == 1
    assert "is the new folder, but the old one could not be moved" in done.stderr
    assert _served(repository) == (2, _release(b"new"))
    refused = _run(repository, b"newest", "lose_privileges()")
    assert "PublishConflict: what a dead builder left" in refused.stderr
    assert f"{repository.releases} must be writable" in refused.stderr
    assert "chown -R" in refused.stderr
    repository.releases.chmod(0o755)
    with repository.locked():
        assert _kept(repository) == [f"{_NAME}@1-{_release(b'old')}"]
    assert os.listdir(repository.path) == [_NAME]  # noqa: PTH208 - names only
