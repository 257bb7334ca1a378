"""Weights -> checked ONNX files of one model, kept in a work folder so that an interrupted build goes on from there."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builder.catalog import ModelSpec
from builder.golden import GOLDEN_NAMES, proof_images
from builder.hashing import sha256_of_bytes
from builder.onnx_graph import check_graph
from builder.parity import compare
from builder.progress import Progress
from builder.weight_source import WeightSource

if TYPE_CHECKING:
    from onnx import ModelProto

    from builder.architectures import Classifier


@dataclass(frozen=True)
class CheckedOnnx:
    """A serialized model that agreed with torch; `record` says what was seen, for the manifest.

    `reference` is ONNX Runtime's answer of the FP32 graph to `proof_images`, 8 x classes as a .npy file: what a plan
    of either precision is held against, on a host that has neither the FP32 graph of an FP16 model nor torch.
    """

    data: bytes
    reference: bytes
    classes: int
    record: dict[str, Any]


class OnnxStage:
    """Exports, halves and checks one architecture; the module is loaded only when a file is not there yet."""

    def __init__(self, spec: ModelSpec, source: WeightSource, work: Path, progress: Progress) -> None:
        self._catalog_spec, self._source, self._work, self._progress = spec, source, work, progress
        self._proof_images = proof_images(spec.input_size)
        self._images = self._proof_images[: len(GOLDEN_NAMES)]

    def checked(self, precision: str) -> CheckedOnnx:
        """The ONNX file at `precision`, from the work folder or made now.

        Raises `WeightsRejected`, `ExportFailed`, `ParityFailed` or `PrecisionRejected`; the work folder then has
        nothing of this precision.
        """
        return self._kept(precision) or self._make(precision)

    @property
    def classes(self) -> int:
        """Outputs of the head, known before anything is exported."""
        kept = self._kept_record("fp32") or self._kept_record("fp16")
        return int(kept["classes"]) if kept else self._spec.classes

    def _kept(self, precision: str) -> CheckedOnnx | None:
        kept, (data_path, reference_path, _) = self._kept_record(precision), self._paths(precision)
        if kept is None or not data_path.is_file() or not reference_path.is_file():
            return None
        data, reference = data_path.read_bytes(), reference_path.read_bytes()
        if [sha256_of_bytes(data), sha256_of_bytes(reference)] != [kept["sha256"], kept["reference_sha256"]]:
            return None  # the writer died between the files
        return CheckedOnnx(data, reference, int(kept["classes"]), kept["record"])

    def _kept_record(self, precision: str) -> dict[str, Any] | None:
        """What is written beside a kept file; None where there is nothing, or its writer died while it wrote."""
        try:
            kept = json.loads(self._paths(precision)[-1].read_text())
        except (FileNotFoundError, ValueError):
            return None
        needed = {"sha256", "reference_sha256", "classes", "record"}
        return kept if isinstance(kept, dict) and needed <= kept.keys() else None

    def _make(self, precision: str) -> CheckedOnnx:
        name = self._catalog_spec.served_name(precision)
        model = self._model(precision)
        record: dict[str, Any] = {}
        if precision == "fp16":
            from builder.precision import admit_fp16

            with self._progress.step(name, "FP16 gate"):
                admitted = admit_fp16(self._fp32_model, self._module, self._spec, self._images)
            record["fp16"] = admitted.as_dict()
            self._progress.line(
                name, f"largest activation {admitted.max_activation:,.1f} in {admitted.max_activation_layer}"
            )
        data, reference = model.SerializeToString(), _npy(self._reference)
        with self._progress.step(name, "compare with torch"):
            record |= self._compared(precision, data)
        made = CheckedOnnx(data, reference, self._spec.classes, record)
        self._keep(precision, made)
        return made

    def _model(self, precision: str) -> ModelProto:
        if precision == "fp32":
            return self._fp32_model
        from builder.precision import half_onnx_from_onnx

        with self._progress.step(self._catalog_spec.served_name(precision), "convert to FP16"):
            half = half_onnx_from_onnx(self._fp32_model)
        check_graph(half, self._spec)
        return half

    def _compared(self, precision: str, data: bytes) -> dict[str, Any]:
        from builder.onnx_export import probabilities_from_onnx

        if precision == "fp32":
            probabilities = self._reference[: len(self._images)]
        else:
            probabilities = probabilities_from_onnx(data, self._images)
        verdict = compare(f"{self._spec.served_name(precision)} against torch", precision, self._logits, probabilities)
        top1 = probabilities.argmax(1)
        golden = {
            name: {"top1": int(index), "probability": float(row[index])}
            for name, index, row in zip(GOLDEN_NAMES, top1, probabilities, strict=True)
        }
        return {"parity": verdict.as_dict(), "golden": golden}

    def _keep(self, precision: str, made: CheckedOnnx) -> None:
        data_path, reference_path, record_path = self._paths(precision)
        self._work.mkdir(parents=True, exist_ok=True)
        data_path.write_bytes(made.data)
        reference_path.write_bytes(made.reference)
        kept = {
            "sha256": sha256_of_bytes(made.data),
            "reference_sha256": sha256_of_bytes(made.reference),
            "classes": made.classes,
            "record": made.record,
        }
        record_path.write_text(json.dumps(kept))

    def _paths(self, precision: str) -> tuple[Path, Path, Path]:
        """The graph, the reference answers and what was seen, which is written last."""
        graph, reference, record = (self._work / f"{precision}.{kind}" for kind in ("onnx", "npy", "json"))
        return graph, reference, record

    @cached_property
    def _module(self) -> Classifier:
        from builder.architectures import without_auxiliary_heads

        with self._progress.step(self._catalog_spec.slug, f"load weights ({self._source.origin})"):
            return without_auxiliary_heads(self._source.load())

    @cached_property
    def _spec(self) -> ModelSpec:
        bias = self._module.get_parameter(f"{self._module.head}.bias")
        return self._catalog_spec.with_classes(bias.numel())

    @cached_property
    def _logits(self) -> NDArray[np.float32]:
        from builder.onnx_export import logits_of

        return logits_of(self._module, self._images)

    @cached_property
    def _reference(self) -> NDArray[np.float32]:
        from builder.onnx_export import probabilities_from_onnx

        model = self._fp32_model
        with self._progress.step(self._catalog_spec.slug, "answers to hold plans against"):
            return probabilities_from_onnx(model.SerializeToString(), self._proof_images)

    @cached_property
    def _fp32_model(self) -> ModelProto:
        from builder.onnx_export import onnx_from_module

        with self._progress.step(self._catalog_spec.slug, "export to ONNX"):
            return onnx_from_module(self._module, self._spec)


def _npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
