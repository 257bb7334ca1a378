"""Which names the genuine TensorRT Python bindings have, written down: `surface_VERSION.json` beside this file.

The bindings come as a wheel of their own, without the libraries (gigabytes, and a GPU to be of use). They load against
empty libraries that merely have the symbols, and then tell their names; nothing of TensorRT runs. Needs Python 3.11,
pip, and on the PATH `gcc` and `nm`.

    python tests/data/tensorrt/make_surface.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# file name -> wheel, its version and its platform
BINDINGS = {
    "10.4.0": ("tensorrt-cu12-bindings", "10.4.0", "manylinux_2_17_x86_64"),
    "11.2.1": ("tensorrt-cu13-bindings", "11.2.1.2", "manylinux_2_28_x86_64"),
}
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
# What Polygraphy and the builder touch.
CLASSES = (
    "Builder", "Dims", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IDebugListener",
    "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IOutputAllocator",
    "ITensor", "ITimingCache", "Logger", "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "DataType", "DeviceType", "EngineCapability", "ErrorCode", "ExecutionContextAllocationStrategy",
    "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParserFlag",
    "PreviewFeature", "ProfilingVerbosity", "QuantizationFlag", "TacticSource", "TensorFormat", "TensorIOMode",
    "TensorLocation",
)  # fmt: skip
# Special methods with a meaning of their own; the rest is how the bindings are made.
SPECIAL = ("__bool__", "__enter__", "__exit__", "__getitem__", "__iter__", "__len__")


def main() -> None:
    """Write every surface, or tell the one of the bindings in the directory that is given."""
    if len(sys.argv) == 2:
        sys.stdout.write(json.dumps(surface(Path(sys.argv[1]))))
        return
    for version, (package, exact, platform) in BINDINGS.items():
        with tempfile.TemporaryDirectory() as directory:
            found = surface_of_wheel(package, exact, platform, Path(directory))
        path = HERE / f"surface_{version}.json"
        path.write_text(json.dumps({"package": f"{package}=={exact}", **found}, indent=1, sort_keys=True) + "\n")


def surface_of_wheel(package: str, version: str, platform: str, directory: Path) -> dict[str, object]:
    """Download the bindings, unpack them and ask them in a process of their own."""
    chosen = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", platform]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *chosen]
    subprocess.run([*pip, "--dest", str(directory), f"{package}=={version}"], check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    libraries = empty_libraries(directory / "tensorrt_bindings" / "tensorrt.so", version.partition(".")[0], directory)
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries)}
    told = subprocess.run(
        [sys.executable, __file__, str(directory)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(told.stdout)


def empty_libraries(bindings: Path, major: str, directory: Path) -> Path:
    """Libraries that have every symbol the bindings ask for, and nothing in them."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(bindings)],  # noqa: S607 - whichever binutils there is
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    symbols = {line.split()[-1] for line in listed.stdout.splitlines()}
    other_homes = ("Py", "_Py", "_ITM", "__gmon", "__cxa_finalize")
    wanted = sorted(name for name in symbols if "@" not in name and not name.startswith(other_homes))
    source = directory / "empty.c"
    source.write_text("".join(f"char {name}[4096];\n" for name in wanted))
    libraries = directory / "empty"
    libraries.mkdir()
    for name in LIBRARIES:
        file = f"{name}.so.{major}"
        made = libraries / file
        command = ["gcc", "-w", "-shared", "-fPIC", str(source), f"-Wl,-soname,{file}", "-o", str(made)]
        subprocess.run(command, check=True)
    return libraries


def surface(directory: Path) -> dict[str, object]:
    """The names of the bindings unpacked in `directory`; the libraries must be found by the loader."""
    sys.path.insert(0, str(directory))
    import tensorrt_bindings as tensorrt

    present = set(dir(tensorrt))
    return {
        "version": tensorrt.__version__,
        "module": sorted(name for name in present if not name.startswith("_") or name == "__version__"),
        "classes": {name: members(getattr(tensorrt, name)) for name in CLASSES if name in present},
        "datatypes": {
            name: int(value) for name, value in vars(tensorrt).items() if isinstance(value, tensorrt.DataType)
        },
        "enums": {
            name: {member: int(value) for member, value in getattr(tensorrt, name).__members__.items()}
            for name in ENUMS
            if name in present
        }
        | {"ILogger.Severity": {name: int(value) for name, value in tensorrt.ILogger.Severity.__members__.items()}},
    }


def members(cls: type) -> list[str]:
    """Public names of a class and its special methods."""
    return sorted(name for name in dir(cls) if not name.startswith("_") or name in SPECIAL)


if __name__ == "__main__":
    main()
