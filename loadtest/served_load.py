"""A closed loop on one served model: a fixed number of requests in flight, pixels made ready beforehand."""

from __future__ import annotations

import queue
import time
from types import TracebackType
from typing import Any, Self

import tritonclient.grpc as grpcclient

from client.triton import GRPC_TOKEN_HEADER
from loadtest.errors import MeasurementFailed
from loadtest.inprocess import Images


class ClosedLoop:
    """Keeps `concurrency` requests of one image each in flight at a served model.

    The requests go out through tritonclient directly: what is measured is the server's path, not image decoding.
    """

    def __init__(self, grpc_url: str, token: str, served_name: str, images: Images, concurrency: int) -> None:
        self._client = grpcclient.InferenceServerClient(grpc_url)
        self._headers = {GRPC_TOKEN_HEADER: token}
        self._served_name, self._concurrency = served_name, concurrency
        self._inputs = [
            [grpcclient.InferInput("image", [1, *image.shape], "UINT8").set_data_from_numpy(image[None])]
            for image in images
        ]
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def images_per_s(self, warm_up: int, counted: int, timeout_s: float) -> float:
        """Completed images per second over `counted` completions, after `warm_up` that are not.

        Both should be multiples of the batch size: completions come in batches, and the clock runs from the last of
        the warm-up to the last counted. The loop stays full until then. Raises `MeasurementFailed` when a request
        fails or `timeout_s` passes between two completions.
        """
        sent = 0
        total = warm_up + counted + self._concurrency  # the loop is still full at the last counted completion
        for _ in range(self._concurrency):
            self._send(sent)
            sent += 1
        started = ended = 0.0
        for completed in range(1, total + 1):
            self._next(timeout_s)
            if completed == warm_up:
                started = time.perf_counter()
            elif completed == warm_up + counted:
                ended = time.perf_counter()
            if sent < total:
                self._send(sent)
                sent += 1
        return counted / (ended - started)

    def _send(self, number: int) -> None:
        inputs = self._inputs[number % len(self._inputs)]
        self._client.async_infer(self._served_name, inputs, callback=self._answered, headers=self._headers)

    def _answered(self, result: Any, error: BaseException | None) -> None:
        self._answers.put(error)

    def _next(self, timeout_s: float) -> None:
        try:
            error = self._answers.get(timeout=timeout_s)
        except queue.Empty as nothing:
            raise MeasurementFailed(f"{self._served_name} completed nothing for {timeout_s:g} s") from nothing
        if error is not None:
            raise MeasurementFailed(f"{self._served_name} failed a request while measured: {error}") from error
