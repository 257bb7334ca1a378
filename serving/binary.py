"""Find a tritonserver: the one on PATH, or the one inside the nvidia-pytriton wheel.

The wheel is used as a box of binaries; the package `pytriton` is never imported. Its Python backend needs three files
in one folder (library, helper module, stub of the running Python version) which the wheel keeps apart: they are
copied once into a read-only cache folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.access import TOKEN_VARIABLE
from serving.errors import ServerNotFound, UnsupportedEnvironment

# Which Triton release a version of the wheel carries; the flag table needs it.
_WHEEL_RELEASES = {"0.7.0": "24.10"}
_STUB = "triton_python_backend_stub"
_READ_ONLY_FOLDER, _READ_ONLY_FILE, _READ_ONLY_PROGRAM = 0o555, 0o444, 0o555
_LIBPYTHON_HINT = (
    "Install it (Debian, Ubuntu: apt-get install libpython{version}; "
    "pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}; or a Python from uv)."
)


@dataclass(frozen=True)
class Binary:
    """A tritonserver that can be started: `environment` is complete, `release` (YY.MM) is None where it is unknown."""

    path: Path
    source: Literal["path", "wheel"]
    release: str | None
    environment: Mapping[str, str]
    backend_directory: Path | None = None


def find_binary(cache_dir: Path | None = None, environment: Mapping[str, str] | None = None) -> Binary:
    """The tritonserver of this machine; PATH wins over the wheel.

    `cache_dir` (default: the user's cache folder) receives the wheel's assembled backend folder. Raises
    `ServerNotFound`, and `UnsupportedEnvironment` where the wheel is there but this Python or numpy does not go with
    it.
    """
    environment = os.environ if environment is None else environment
    on_path = shutil.which("tritonserver", path=environment.get("PATH", os.defpath))
    if on_path:
        release = environment.get("NVIDIA_TRITON_SERVER_VERSION") or None
        return Binary(Path(on_path), "path", release, _server_environment(environment, libraries=[]))
    wheel = _wheel_folder()
    if wheel is None:
        raise ServerNotFound(
            "No tritonserver: none on PATH and the package nvidia-pytriton is not installed in "
            f"{sys.prefix}. Install the package's extra `serving`, or run inside a tritonserver image."
        )
    require_numpy_1()
    version = importlib.metadata.version("nvidia-pytriton")
    stub = stub_for(wheel / "python_backend_stubs", python_version())
    libraries = [wheel.parent.parent / "nvidia_pytriton.libs", find_libpython(python_version()).parent]
    return Binary(
        path=wheel / "bin" / "tritonserver",
        source="wheel",
        release=_WHEEL_RELEASES.get(version),
        environment=_server_environment(environment, libraries),
        backend_directory=assemble_backends(wheel, stub, f"pytriton-{version}-py{python_version()}", cache_dir),
    )


def python_version() -> str:
    """Version of the running interpreter as the wheel's stub folders spell it, for example `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"


def stub_for(stubs: Path, version: str) -> Path:
    """The Python backend's stub for one Python version. Raises `UnsupportedEnvironment` naming those there are."""
    stub = stubs / version / _STUB
    if not stub.is_file():
        there = sorted((p.name for p in stubs.iterdir()), key=lambda v: [int(n) for n in v.split(".")])
        raise UnsupportedEnvironment(
            f"The tritonserver of nvidia-pytriton has no Python backend for Python {version}; it has one for "
            f"{', '.join(there)}. Make the virtual environment with one of these."
        )
    return stub


def find_libpython(version: str, folders: list[Path] | None = None) -> Path:
    """The shared library of the running Python, which the stub links to (many Pythons are built without one).

    `folders` defaults to where pyenv, Debian, uv and conda put it. Raises `UnsupportedEnvironment` saying what to
    install.
    """
    if folders is None:
        base = Path(sys.base_prefix)
        multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
        known = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")]
        folders = [Path(folder) for folder in known if folder]
        folders += [
            base / "lib",
            base / "lib" / multiarch,
            Path("/usr/lib") / multiarch,
            Path("/usr/lib64"),
            Path("/usr/local/lib"),
        ]
    name = f"libpython{version}.so.1.0"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UnsupportedEnvironment(
        f"Python {version} at {sys.base_prefix} has no shared library {name}, which the Python backend needs. "
        + _LIBPYTHON_HINT.format(version=version)
    )


def assemble_backends(wheel: Path, stub: Path, key: str, cache_dir: Path | None = None) -> Path:
    """The folder for `--backend-directory`: made once per `key`, appears whole or not at all, and is read-only.

    It holds code that the server runs, so a folder that belongs to another user, or whose files differ from the wheel's
    in size, is refused with `UnsupportedEnvironment`.
    """
    python_backend = wheel / "backends" / "python"
    sources = [python_backend / "libtriton_python.so", python_backend / "triton_python_backend_utils.py", stub]
    backends = (cache_dir or _user_cache_folder()) / "backends" / key
    try:
        if not backends.exists():
            _copy_backend(sources, backends)
        _check_backend(sources, backends)
    except OSError as error:
        raise UnsupportedEnvironment(
            f"The server's backend folder cannot be kept in {backends.parent}: {error}. "
            "Set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return backends


def _copy_backend(sources: list[Path], backends: Path) -> None:
    backends.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=backends.parent))
    try:
        folder = staging / "python"
        folder.mkdir()
        for source in sources:
            target = shutil.copyfile(source, folder / source.name)
            target.chmod(_READ_ONLY_PROGRAM if source.name == _STUB else _READ_ONLY_FILE)
        folder.chmod(_READ_ONLY_FOLDER)
        staging.chmod(0o755)  # a folder without write permission cannot be renamed by everyone
        try:
            staging.rename(backends)
        except OSError:
            if not backends.is_dir():  # otherwise another process was faster, with the same files
                raise
        else:
            backends.chmod(_READ_ONLY_FOLDER)
    finally:
        if staging.exists():
            (staging / "python").chmod(0o755)
            shutil.rmtree(staging)


def _check_backend(sources: list[Path], backends: Path) -> None:
    owner = backends.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise UnsupportedEnvironment(
            f"{backends} holds code for the server but belongs to user id {owner}. "
            "Remove it, or set XDG_CACHE_HOME to a folder of your own."
        )
    for source in sources:
        copy = backends / "python" / source.name
        if not copy.is_file() or copy.stat().st_size != source.stat().st_size:
            raise UnsupportedEnvironment(
                f"{copy} differs from the wheel's {source}. Remove {backends} and start again."
            )


def _user_cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "inception-triton"


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("pytriton")  # finds the folder without running the package
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def require_numpy_1() -> None:
    """Raises `UnsupportedEnvironment` unless this environment's numpy is one that the Python backend can read."""
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError as error:
        raise UnsupportedEnvironment(
            f"numpy is not installed in {sys.prefix}; the Python backend needs it. Install 'numpy<2'."
        ) from error
    if int(version.split(".")[0]) >= 2:
        raise UnsupportedEnvironment(
            f"numpy {version} is installed in {sys.prefix}. With numpy 2 the Python backend of this tritonserver hands "
            "empty tensors to the model and says nothing. Install 'numpy<2'."
        )


def _server_environment(environment: Mapping[str, str], libraries: list[Path]) -> dict[str, str]:
    """The server's environment: no token in it, our libraries first, and our Python first on PATH.

    The stub embeds Python and ignores PYTHONPATH and PYTHONHOME: it takes the first `python3` on PATH, and with it that
    interpreter's virtual environment. So PATH is what makes numpy and the model's runtime visible to it.
    """
    server = {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}
    if libraries:
        inherited = [server["LD_LIBRARY_PATH"]] if server.get("LD_LIBRARY_PATH") else []
        server["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, libraries), *inherited])
        server["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), server.get("PATH", os.defpath)])
    return server
