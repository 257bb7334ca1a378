"""What a type checker must see in a user's program: never run, only checked, by `make check` and a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client import (
    AsyncInceptionClient,
    Classification,
    InceptionClient,
    InceptionError,
    ModelContract,
    ModelHealth,
    ModelStatistics,
    Prediction,
    RetryPolicy,
    Tls,
)
from client.testing import AsyncFakeServer, FakeModel, FakeServer


def sync(array: NDArray[np.uint8]) -> None:
    with InceptionClient(
        ["10.0.0.1:8001", "10.0.0.2:8001"], token="t", headers={"x-team": "a"}, tls=Tls("ca.pem"), keepalive_s=60
    ) as client:
        assert_type(client, InceptionClient)
        for image in ("cat.jpg", Path("cat.jpg"), b"bytes", BytesIO(), Image.new("RGB", (9, 9)), array):
            assert_type(client.classify(image), Classification)
        result = client.classify("cat.jpg", "InceptionV3", "fp16", 3, probabilities=True, timeout_s=1.0)
        assert_type(result.best, Prediction)
        assert_type(result.predictions, tuple[Prediction, ...])
        assert_type(result.probabilities, NDArray[np.float32] | None)
        assert_type(result.to_dict(), dict[str, Any])
        assert_type(client.classify_batch(["a.jpg", b"b"]), list[Classification])
        assert_type(client.classify_batch(["a.jpg"], on_error="return"), list[Classification | InceptionError])
        assert_type(client.classify_many(["a.jpg"], window=8, batch_size=1), Iterator[Classification])
        assert_type(client.classify_many(["a.jpg"], on_error="return"), Iterator[Classification | InceptionError])
        assert_type(client.models(), tuple[ModelContract, ...])
        assert_type(client.server_statistics(), tuple[ModelStatistics, ...])
        assert_type(client.wait_until_ready(5), tuple[ModelHealth, ...])
        with client.shared_memory() as fast:
            assert_type(fast, InceptionClient)
    assert_type(InceptionClient.local("model_repository", models=["googlenet_fp32"]), InceptionClient)
    fake = FakeServer(FakeModel("InceptionV3"))
    assert_type(InceptionClient.over(fake, retries=RetryPolicy(max_retries=0)), InceptionClient)


async def asynchronous() -> None:
    async with AsyncInceptionClient("https://gpu.example.org") as client:
        assert_type(client, AsyncInceptionClient)
        assert_type(await client.classify("cat.jpg"), Classification)
        assert_type(await client.classify_batch(["a.jpg"]), list[Classification])
        assert_type(await client.classify_batch(["a.jpg"], on_error="return"), list[Classification | InceptionError])
        assert_type(client.classify_many(["a.jpg"]), AsyncIterator[Classification])
        assert_type(client.classify_many(["a.jpg"], on_error="return"), AsyncIterator[Classification | InceptionError])
        assert_type(await client.models(), tuple[ModelContract, ...])
        async with client.shared_memory() as fast:
            assert_type(fast, AsyncInceptionClient)
    AsyncInceptionClient.over(AsyncFakeServer(FakeServer()))


def mistakes(client: InceptionClient) -> None:
    client.classify(3.5)  # type: ignore[arg-type]
    client.classify("cat.jpg", on_error="return")  # type: ignore[call-arg]
    client.classify_batch(["a.jpg"], on_error="ignore")  # type: ignore[call-overload]
    client.classify("cat.jpg").best.score = 1.0  # type: ignore[misc]
