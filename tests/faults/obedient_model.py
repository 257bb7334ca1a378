"""A model for tritonserver's Python backend that misbehaves when the picture it is sent says so.

A picture of one colour is answered with the class of that value, or obeyed, if it is one of the numbers below. Any
other is answered with 256 plus the brightest of its 8 x 8 parts. Each picture of one colour is noted in `began.log`
beside this version's folder before anything is done with it.
"""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

RAISES, REFUSES, ANSWERS_NONE, ANSWERS_TOO_FEW = 201, 202, 203, 204
TOO_SMALL, NOT_A_NUMBER, SUM_OF_TWO = 205, 206, 207
SLOW, HANGS = 208, 209
NAPS = range(100, 150)
SLEEP_S = {SLOW: 0.5, HANGS: 2.0} | dict.fromkeys(NAPS, 0.1)


class TritonPythonModel:
    """The contract of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the log."""
        self._classes = int(json.loads(args["model_config"])["output"][0]["dims"][0])
        self._log = (Path(args["model_repository"]) / "began.log").open("a", buffering=1)

    def execute(self, requests: list) -> list:
        """Do what the pictures say."""
        batches = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        values = {int(image.min()) for batch in batches for image in batch if image.min() == image.max()}
        for value in sorted(values):
            self._log.write(f"{value}\n")
        time.sleep(max((SLEEP_S.get(value, 0.0) for value in values), default=0.0))
        if RAISES in values:
            raise ValueError(f"{__file__} was told to fail")
        if ANSWERS_TOO_FEW in values:
            return []
        return [self._response(batch) for batch in batches]

    def _response(self, batch: np.ndarray) -> object:
        command = int(batch[0].min()) if batch[0].min() == batch[0].max() else 0
        if command == ANSWERS_NONE:
            return None
        if command == REFUSES:
            error = pb_utils.TritonError(f"refused by {__file__}\nTraceback: line 1")
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        scores = np.zeros((len(batch), self._classes), np.float32)
        for row, image in zip(scores, batch, strict=True):
            row[_class_of(image)] = 1.0
        if command == TOO_SMALL:
            scores = scores[:, :2]
        if command == NOT_A_NUMBER:
            scores[:] = np.nan
        if command == SUM_OF_TWO:
            scores *= 2.0
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", np.ascontiguousarray(scores))])


def _class_of(image: np.ndarray) -> int:
    if image.min() == image.max():
        return int(image.min())
    side = len(image) // 8
    parts = image[: 8 * side, : 8 * side].reshape(8, side, 8, side, 3).sum(axis=(1, 3, 4), dtype=np.int64)
    return 256 + int(parts.argmax())
