import importlib.metadata
import os
import stat
import sys
from pathlib import Path

import pytest

from serving import binary
from serving.errors import UnsupportedEnvironment


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A folder laid out as the wheel's, with small files."""
    folder = tmp_path / "wheel"
    for name in ("backends/python/libtriton_python.so", "backends/python/triton_python_backend_utils.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for version in ("3.9", "3.10", "3.11"):
        stub = folder / "python_backend_stubs" / version / "triton_python_backend_stub"
        stub.parent.mkdir(parents=True)
        stub.write_text(version)
    return folder


def test_the_backend_folder_is_read_only_and_made_once(wheel, tmp_path):
    """A second start takes the folder as it is; nobody may write to it."""
    stub = binary.stub_for(wheel / "python_backend_stubs", "3.11")
    first = binary.assemble_backends(wheel, stub, "key", tmp_path / "cache")
    made_at = first.stat().st_mtime_ns
    assert binary.assemble_backends(wheel, stub, "key", tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made_at
    assert {path.name for path in (first / "python").iterdir()} == {
        "libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub",
    }  # fmt: skip
    assert stat.S_IMODE((first / "python").stat().st_mode) == 0o555
    assert stat.S_IMODE((first / "python" / "triton_python_backend_stub").stat().st_mode) == 0o555
    assert stat.S_IMODE((first / "python" / "libtriton_python.so").stat().st_mode) == 0o444
    assert [path.name for path in first.parent.iterdir()] == ["key"], "no staging folder is left"


def test_a_backend_folder_that_differs_from_the_wheel_is_refused(wheel, tmp_path):
    """It holds code that the server runs: it is not mended in silence."""
    stub = binary.stub_for(wheel / "python_backend_stubs", "3.11")
    folder = binary.assemble_backends(wheel, stub, "key", tmp_path / "cache")
    changed = folder / "python" / "triton_python_backend_utils.py"
    changed.chmod(0o644)
    changed.write_text("something else")
    with pytest.raises(UnsupportedEnvironment, match="differs from the wheel"):
        binary.assemble_backends(wheel, stub, "key", tmp_path / "cache")


def test_a_cache_that_cannot_be_written_names_the_way_out(wheel, tmp_path):
    """The message says which folder and which variable moves it."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    stub = binary.stub_for(wheel / "python_backend_stubs", "3.11")
    with pytest.raises(UnsupportedEnvironment, match="XDG_CACHE_HOME"):
        binary.assemble_backends(wheel, stub, "key", tmp_path / "cache")


def test_a_python_without_a_stub_is_told_which_have_one(wheel):
    """In the order of versions, not of text."""
    with pytest.raises(UnsupportedEnvironment, match=r"Python 3\.14; it has one for 3\.9, 3\.10, 3\.11\."):
        binary.stub_for(wheel / "python_backend_stubs", "3.14")


def test_a_python_without_its_shared_library_is_told_what_to_install(tmp_path):
    """Many Pythons are built without one, and the stub would fail with a linker's message."""
    with pytest.raises(UnsupportedEnvironment, match=r"libpython3\.11.*apt-get install libpython3\.11.*enable-shared"):
        binary.find_libpython("3.11", [tmp_path])


def test_the_shared_library_of_this_python_is_found():
    """Wherever the interpreter that runs the tests keeps it."""
    version = binary.python_version()
    assert binary.find_libpython(version).name == f"libpython{version}.so.1.0"


@pytest.mark.parametrize(("numpy", "message"), [("2.1.0", "empty tensors"), (None, "is not installed")])
def test_a_numpy_that_the_backend_cannot_use_is_refused(monkeypatch, tmp_path, numpy, message):
    """With numpy 2 the model would get empty tensors and no word of it. The environment is a real one on disk."""
    if numpy:
        facts = tmp_path / f"numpy-{numpy}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: numpy\nVersion: {numpy}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnsupportedEnvironment, match=message):
        binary.require_numpy_1()


def test_a_tritonserver_on_path_wins_over_the_wheel(tmp_path):
    """Inside an image nothing of the wheel is used, and the release comes from the image's variable."""
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = binary.find_binary(tmp_path, {"PATH": str(tmp_path), "NVIDIA_TRITON_SERVER_VERSION": "26.08"})
    assert (found.path, found.source, found.release) == (program, "path", "26.08")
    assert found.backend_directory is None
    assert "LD_LIBRARY_PATH" not in found.environment


def test_the_wheels_server_gets_this_python_first_and_no_token(tmp_path):
    """The stub takes the first python3 on PATH, and so this virtual environment; the token stays with us."""
    environment = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "INCEPTION_TOKEN": "secret-secret", "KEPT": "1"}
    found = binary.find_binary(tmp_path, environment)
    assert found.source == "wheel"
    assert importlib.metadata.version("nvidia-pytriton") == "0.7.0"
    assert found.release == "24.10"
    assert found.environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    libraries = found.environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert Path(libraries[0]).name == "nvidia_pytriton.libs"
    assert libraries[-1] == "/opt/lib"
    assert found.environment["KEPT"] == "1"
    assert "INCEPTION_TOKEN" not in found.environment
    assert "pytriton" not in sys.modules, "the package itself is never imported"
