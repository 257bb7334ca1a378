"""A model that answers at once, or after a stated time: what is left of a call's time is the serving path."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The contract of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        classes = int(config["output"][0]["dims"][0])
        ramp = np.arange(classes, 0, -1, dtype=np.float32)
        self._probabilities = ramp / ramp.sum(dtype=np.float64).astype(np.float32)
        self._sleep_s = float(config["parameters"].get("sleep_ms", {}).get("string_value", 0.0)) / 1e3

    def execute(self, requests: list) -> list:
        """The lower a class's index, the likelier it is, for every image: no two classes are equal, as in life."""
        if self._sleep_s:
            time.sleep(self._sleep_s)
        return [self._answer(pb_utils.get_input_tensor_by_name(request, "image")) for request in requests]

    def _answer(self, images: object) -> object:
        answer = np.tile(self._probabilities, (images.shape()[0], 1))
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", answer)])
