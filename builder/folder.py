"""One served model's folder: labels, two configs, and a version directory with the ONNX file, model.py and manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from builder.catalog import ModelSpec
from builder.hashing import sha256_of_bytes, sha256_of_text
from builder.manifest import FORMAT, NAME, listed_files, release_of
from builder.preprocessing import preprocess_json
from builder.triton_config import configs_from_spec


@dataclass(frozen=True)
class Contents:
    """Everything a folder is made of, but its version: what it serves and where that came from.

    `provenance` goes into the manifest as it is: weights, toolchain, build key, verdicts.
    """

    spec: ModelSpec
    precision: str
    labels: list[str]
    onnx: bytes
    instances: int
    provenance: dict[str, Any]

    @property
    def release(self) -> str:
        """The id of what decides an answer; plans and manifests are no part of it."""
        configs = configs_from_spec(self.spec, self.precision, self.labels, None, self.instances)
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
    configs = configs_from_spec(contents.spec, contents.precision, contents.labels, release, contents.instances)
    version_directory = folder / str(version)
    version_directory.mkdir()
    (folder / "configs").mkdir()
    (folder / "labels.txt").write_text(_labels_text(contents.labels), encoding="utf-8")
    (folder / "configs" / "cpu.pbtxt").write_text(configs.cpu, encoding="utf-8")
    (folder / "config.pbtxt").write_text(configs.gpu, encoding="utf-8")
    (version_directory / "model.onnx").write_bytes(contents.onnx)
    (version_directory / "model.py").write_bytes(_cpu_model())
    manifest = {
        "format": FORMAT,
        "served_name": contents.spec.served_name(contents.precision),
        "architecture": contents.spec.name,
        "precision": contents.precision,
        "input_size": contents.spec.input_size,
        "classes": contents.spec.classes,
        "release": release,
        "version": version,
        **contents.provenance,
        "files": listed_files(
            folder, ["labels.txt", "config.pbtxt", "configs/cpu.pbtxt", f"{version}/model.onnx", f"{version}/model.py"]
        ),
    }
    (version_directory / NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _labels_text(labels: list[str]) -> str:
    return "".join(f"{label}\n" for label in labels)


def _cpu_model() -> bytes:
    return (files("builder") / "cpu_backend" / "model.py").read_bytes()
