"""PyTorch module -> ONNX file that takes uint8 photographs and answers probabilities."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from builder.catalog import ModelSpec
from builder.errors import ExportFailed
from builder.onnx_graph import INPUT, OPSET, OUTPUT, check_graph, fold_identities
from builder.preprocessing import MEAN, PIXEL_SCALE, STD

if TYPE_CHECKING:
    from onnx import ModelProto


class Normalise(nn.Module):
    """uint8 N x H x W x 3 -> float32 N x 3 x H x W, normalised as PaddleClas does, in TensorRT's order."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.float()
        x = x.permute(0, 3, 1, 2)  # N x 3 x H x W
        return (x * PIXEL_SCALE - self.mean) / self.std


class _Served(nn.Module):
    """What Triton serves: normalisation, the network's main path, softmax."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        return torch.softmax(self.body(self.normalise(image)), dim=1)


def logits_of(module: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The module's logits, N x classes float32, for uint8 RGB images, N x H x W x 3."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = module(Normalise()(torch.from_numpy(images))).float().numpy()
    return logits


def onnx_from_module(module: nn.Module, spec: ModelSpec) -> ModelProto:
    """Export the eval-mode `module` (auxiliary heads dropped) as `image` uint8 NHWC -> `probabilities` float32.

    The TorchScript exporter is used on purpose: it folds batch normalisation, writes the opset asked for and takes a
    fraction of the time of the newer one. Raises `ExportFailed` when it fails or breaks a rule of `onnx_graph`.
    """
    import onnx

    served = _Served(module).eval()
    example = torch.zeros(2, spec.input_size, spec.input_size, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        path = Path(scratch) / "model.onnx"
        # torch marks this exporter as the legacy one; the reason for it is in the docstring.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.onnx.export(
                served,
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportFailed(f"torch could not export {spec.name} at {spec.input_size} pixels: {error}") from error
        model = onnx.load(path)
    fold_identities(model.graph)
    model.graph.name = spec.slug
    _declare_shapes(model, spec)
    check_graph(model, spec)
    return model


def probabilities_from_onnx(model: bytes, images: NDArray[np.uint8], threads: int = 0) -> NDArray[np.float32]:
    """Run a serialized ONNX model in ONNX Runtime on the CPU: uint8 N x H x W x 3 -> float32 N x classes.

    `threads` 0 leaves the number to the runtime. Raises `ExportFailed` when the file does not load or run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (probabilities,) = session.run([OUTPUT], {INPUT: images})
    except Exception as error:  # onnxruntime's exception types share no base below Exception
        raise ExportFailed(f"ONNX Runtime refused the exported model: {error}") from error
    answer: NDArray[np.float32] = probabilities
    return answer


def _declare_shapes(model: ModelProto, spec: ModelSpec) -> None:
    """The exporter leaves the class axis of the output open; the contract does not."""
    axes = model.graph.output[0].type.tensor_type.shape.dim
    axes[0].dim_param = "batch"
    axes[1].Clear()
    axes[1].dim_value = spec.classes
