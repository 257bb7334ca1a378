"""One served model's folder: labels, two configs, and a version directory.

In the version directory lie the ONNX file, the model.py of CPU serving, the answers that plans are proved against, and
the manifest; plans join them later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from builder.catalog import ModelSpec
from builder.hashing import sha256_of_bytes, sha256_of_text
from builder.manifest import FORMAT, NAME, listed_files, read_manifest, release_of
from builder.preprocessing import preprocess_json
from builder.profiles import DEFAULT_PROFILE_SIZES
from builder.triton_config import Configs, configs_from_spec

REFERENCE = "reference.npy"


@dataclass(frozen=True)
class Contents:
    """Everything a folder is made of, but its version: what it serves and where that came from.

    `reference` is a .npy file, ONNX Runtime's answers in FP32 to `golden.proof_images`. `provenance` goes into the
    manifest as it is: weights, toolchain, build key, verdicts. `extra_plans` names plans of GPUs that the table of
    targets lacks, by compute capability.
    """

    spec: ModelSpec
    precision: str
    labels: list[str]
    onnx: bytes
    reference: bytes
    instances: int | None
    provenance: dict[str, Any]
    profile_sizes: tuple[int, ...] = DEFAULT_PROFILE_SIZES
    extra_plans: Mapping[str, str] = field(default_factory=dict)

    def configs(self, release: str | None) -> Configs:
        """Both configs, as `triton_config` writes them."""
        return configs_from_spec(
            self.spec, self.precision, self.labels, release, self.instances, self.profile_sizes, self.extra_plans
        )

    @property
    def release(self) -> str:
        """The id of what decides an answer; plans and manifests are no part of it."""
        configs = self.configs(release=None)
        return release_of(
            {
                "labels.txt": sha256_of_text(_labels_text(self.labels)),
                "model.onnx": sha256_of_bytes(self.onnx),
                "model.py": sha256_of_bytes(_cpu_model()),
                "preprocess": sha256_of_text(preprocess_json(self.spec)),
                "config.pbtxt": sha256_of_text(configs.gpu),
                "configs/cpu.pbtxt": sha256_of_text(configs.cpu),
            }
        )


def assemble_folder(folder: Path, contents: Contents, release: str, version: int) -> None:
    """Write the files of a served model into the empty directory `folder`; the manifest last."""
    configs = contents.configs(release)
    version_directory = folder / str(version)
    version_directory.mkdir()
    (folder / "configs").mkdir()
    (folder / "labels.txt").write_text(_labels_text(contents.labels), encoding="utf-8")
    (folder / "configs" / "cpu.pbtxt").write_text(configs.cpu, encoding="utf-8")
    (folder / "config.pbtxt").write_text(configs.gpu, encoding="utf-8")
    (version_directory / "model.onnx").write_bytes(contents.onnx)
    (version_directory / "model.py").write_bytes(_cpu_model())
    (version_directory / REFERENCE).write_bytes(contents.reference)
    manifest = {
        "format": FORMAT,
        "served_name": contents.spec.served_name(contents.precision),
        "architecture": contents.spec.name,
        "precision": contents.precision,
        "input_size": contents.spec.input_size,
        "classes": contents.spec.classes,
        "profiles": list(contents.profile_sizes),
        "release": release,
        "version": version,
        **contents.provenance,
        "files": listed_files(
            folder,
            ["labels.txt", "config.pbtxt", "configs/cpu.pbtxt"]
            + [f"{version}/{name}" for name in ("model.onnx", "model.py", REFERENCE)],
        ),
    }
    _write_manifest(version_directory, manifest)


def renumber_folder(folder: Path, version: int) -> None:
    """Give the model folder another version number: its directory and what its manifest says of it."""
    manifest = read_manifest(folder)
    before = str(manifest["version"])
    if before == str(version):
        return
    (folder / before).rename(folder / str(version))
    manifest["files"] = {
        f"{version}/{path.partition('/')[2]}" if path.startswith(f"{before}/") else path: facts
        for path, facts in manifest["files"].items()
    }
    _write_manifest(folder / str(version), manifest | {"version": version})


def _write_manifest(version_directory: Path, manifest: Mapping[str, Any]) -> None:
    (version_directory / NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _labels_text(labels: list[str]) -> str:
    return "".join(f"{label}\n" for label in labels)


def _cpu_model() -> bytes:
    return (files("builder") / "cpu_backend" / "model.py").read_bytes()
