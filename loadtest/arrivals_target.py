"""The server that arrivals are sent to: which model, with which pictures, through the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np

from client import AsyncInceptionClient, DeadlineExceeded, ModelContract, Overloaded, SomeFailed
from client.connection import connection_from_urls
from client.images import Rgb, crop_from_rgb, rgb_from_image
from client.retries import NO_RETRIES
from client.settings import Settings
from loadtest.errors import MeasurementFailed, UsageError
from loadtest.workload import Photograph, WantedModel, weighted_models

SETTLE_S = 60.0  # for a server that still works on what a run before this one left
WARM_UP_REQUESTS = 12
_WARM_UP_TOGETHER = 4


@dataclass(frozen=True)
class TargetOptions:
    """Where the server is and what each request carries: `batch_size` pictures, in memory shared with the server where
    `is_memory_shared`; no call takes longer than `timeout_s`.
    """

    settings: Settings
    photographs: tuple[Photograph, ...]
    model: str | None = None
    batch_size: int = 1
    timeout_s: float = 30.0
    is_memory_shared: bool = False


def check_address(settings: Settings, *, is_remote_allowed: bool) -> None:
    """Raise `UsageError` for a server on another machine, unless that is allowed: load must not get away."""
    connection = connection_from_urls(settings.url)
    if not connection.is_loopback and not is_remote_allowed:
        raise UsageError(
            f"{connection.shown} (from {settings.url_origin}) is not this machine, and a load test can take a server "
            "down for everybody; give --allow-remote if it is yours to load"
        )


class Target:
    """One served model and the pictures it is asked about."""

    def __init__(
        self, client: AsyncInceptionClient, contract: ModelContract, pictures: Sequence[Rgb], batch_size: int = 1
    ) -> None:
        self.contract, self.batch_size = contract, batch_size
        self._client, self._pictures = client, tuple(pictures)

    async def send(self, number: int) -> None:
        """Ask for the pictures of request `number`, always the same ones; raises an `InceptionError`."""
        if self.batch_size == 1:
            await self._client.classify(self._pictures[number % len(self._pictures)], self.contract.served_name)
            return
        pictures = [self._pictures[(number + more) % len(self._pictures)] for more in range(self.batch_size)]
        try:
            await self._client.classify_batch(pictures, self.contract.served_name)
        except SomeFailed as failed:
            raise next(each for each in failed.results if isinstance(each, Exception)) from failed

    async def warm_up(self, requests: int = WARM_UP_REQUESTS) -> None:
        """Send `requests` that nobody counts, once the server has time for them."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            try:
                await self.send(0)
                break
            except (Overloaded, DeadlineExceeded) as error:
                if loop.time() - began_s > SETTLE_S:
                    raise MeasurementFailed(
                        f"{self.contract.served_name} answered nothing in the {SETTLE_S:g} s before the load: {error}"
                    ) from error
                await asyncio.sleep(0.1)
        for first in range(0, requests, _WARM_UP_TOGETHER):
            await asyncio.gather(*(self.send(number) for number in range(first, first + _WARM_UP_TOGETHER)))


@asynccontextmanager
async def opened(options: TargetOptions) -> AsyncIterator[Target]:
    """The target, with nothing tried again: every failure is one sample.

    Photographs are decoded and resized here, so that of the client's work on a picture only the crop's copy is left in
    a call. Raises `InceptionError` where the server cannot be asked, and `UsageError` where it has no such model.
    """
    async with AsyncExitStack() as stack:
        settings = options.settings
        client = await stack.enter_async_context(
            AsyncInceptionClient(settings.url, token=settings.token, timeout_s=options.timeout_s, retries=NO_RETRIES)
        )
        contract = chosen_model(await client.models(), options.model)
        if options.batch_size > contract.max_batch_size:
            raise UsageError(
                f"--batch-size {options.batch_size}: {contract.served_name} takes at most {contract.max_batch_size}"
            )
        if options.is_memory_shared:
            client = await stack.enter_async_context(client.shared_memory())
        pictures = [resized(photograph, contract) for photograph in options.photographs]
        yield Target(client, contract, pictures, options.batch_size)


def chosen_model(served: Sequence[ModelContract], name: str | None) -> ModelContract:
    """The one model that is meant; `UsageError` where it is not served, or where several are and none is named."""
    chosen = weighted_models(served, () if name is None else (WantedModel(name, 1.0),))
    if len(chosen) > 1:
        listed = ", ".join(model.contract.served_name for model in chosen)
        raise UsageError(f"several models are served ({listed}); name the one to load with --model")
    return chosen[0].contract


def resized(photograph: Photograph, contract: ModelContract) -> Rgb:
    """The photograph as the middle square of what the model's own preprocessing resizes it to."""
    rule = replace(contract.preprocessing, crop=contract.preprocessing.resize_short)
    return np.ascontiguousarray(crop_from_rgb(rgb_from_image(photograph.jpeg), rule))
