"""`AsyncInceptionClient`: the same on an event loop. Thin: `core` knows what is done, this module awaits it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Literal, TypeVar, overload

from client.arena import Arena
from client.classification import Outcome, Wanted
from client.connect import async_transport_for
from client.connection import Tls, connection_from_urls
from client.contract import ModelContract
from client.core import Core
from client.errors import ClientClosed, InceptionError, InvalidRequest, SomeFailed
from client.images import ImageLike
from client.mapping import closed
from client.results import Classification, ModelHealth, ModelStatistics
from client.retries import Call, RetryPolicy
from client.steps import Steps, run_async
from client.stream import OnError, check_several, check_sizes, checked_on_error, stream_async, window_of, with_index
from client.transport import AsyncTransport

T = TypeVar("T")


class AsyncInceptionClient:
    """`InceptionClient` for asyncio: the same options, methods, answers and errors, awaited.

    It belongs to the event loop and the process of its first call. Images are decoded in threads, so that the loop goes
    on; cancelling a call ends it at once.

        async with AsyncInceptionClient("localhost:8001") as client:
            print((await client.classify("cat.jpg", model="InceptionV3")).best.label)
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        keepalive_s: float | None = None,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    ) -> None:
        connection = connection_from_urls(url, token=token, headers=headers, tls=tls, keepalive_s=keepalive_s)
        transport = async_transport_for(connection)
        self._begin(transport, Core(connection.shown, timeout_s, retries), transport.close)

    def _begin(self, transport: AsyncTransport, core: Core, *closing: Callable[[], Awaitable[None]]) -> None:
        """`closing` is what `close` awaits, in this order, once."""
        self._transport, self._core, self._closing = transport, core, closing
        self._pid, self._is_closed = os.getpid(), False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="inception-client")

    @classmethod
    def over(
        cls,
        transport: AsyncTransport,
        *,
        timeout_s: float = 30.0,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    ) -> AsyncInceptionClient:
        """A client of any `AsyncTransport`, such as `client.testing.AsyncFakeServer`."""
        client = cls.__new__(cls)
        client._begin(transport, Core(transport.address, timeout_s, retries), transport.close)
        return client

    async def classify(
        self,
        image: ImageLike,
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
    ) -> Classification:
        """The `top_k` most probable classes of one image, see `InceptionClient.classify`."""
        wanted = Wanted(model, precision, top_k, probabilities)
        return await self._run(lambda call: self._core.classify(image, wanted, call), timeout_s)

    @overload
    async def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Classification]: ...

    @overload
    async def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: Literal["return"],
    ) -> list[Outcome]: ...

    async def classify_batch(
        self,
        images: Iterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        probabilities: bool = False,
        timeout_s: float | None = None,
        on_error: OnError = "raise",
    ) -> list[Classification] | list[Outcome]:
        """Several images, in their order, within one deadline, see `InceptionClient.classify_batch`."""
        is_raised = checked_on_error(on_error)
        check_several(images)
        wanted, listed = Wanted(model, precision, top_k, probabilities), list(images)
        if not listed:
            return []
        call = self._core.call(timeout_s)
        outcomes = [each async for each in self._stream(listed, wanted, None, None, lambda: call)]
        if is_raised and any(isinstance(outcome, InceptionError) for outcome in outcomes):
            raise SomeFailed(outcomes)
        return outcomes

    @overload
    def classify_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> AsyncIterator[Classification]: ...

    @overload
    def classify_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: Literal["return"],
    ) -> AsyncIterator[Outcome]: ...

    def classify_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        model: str | None = None,
        precision: str | None = None,
        top_k: int = 5,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        probabilities: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Classification] | AsyncIterator[Outcome]:
        """Any number of images, in their order, as they come, see `InceptionClient.classify_many`.

        `images` may be an asynchronous iterable too; an ordinary one is pulled on the event loop, so it must not wait.
        """
        is_raised = checked_on_error(on_error)
        check_sizes(window, batch_size)
        check_several(images)
        wanted = Wanted(model, precision, top_k, probabilities)
        outcomes = self._stream(images, wanted, window, batch_size, self._core.call)
        return _raising(outcomes) if is_raised else outcomes

    async def models(self) -> tuple[ModelContract, ...]:
        """Every model of this project that is served, see `InceptionClient.models`."""
        return await self._run(self._core.models)

    async def server_statistics(self) -> tuple[ModelStatistics, ...]:
        """What each model has done since it was loaded, see `InceptionClient.server_statistics`."""
        return await self._run(self._core.statistics)

    async def health(self) -> tuple[ModelHealth, ...]:
        """One real inference on every model, see `InceptionClient.health`."""
        return await self._run(lambda _call: self._core.health())

    async def wait_until_ready(self, timeout_s: float) -> tuple[ModelHealth, ...]:
        """Wait until every model answered a real inference, see `InceptionClient.wait_until_ready`."""
        return await self._run(lambda _call: self._core.ready(timeout_s))

    @asynccontextmanager
    async def shared_memory(self) -> AsyncIterator[AsyncInceptionClient]:
        """The same client over memory shared with a server on this machine, see `InceptionClient.shared_memory`."""
        arena = Arena(self._core.address)
        fast = type(self).__new__(type(self))
        fast._begin(self._transport, self._core.with_buffers(arena))
        try:
            await self._run(arena.open)
            yield fast
        finally:
            await self._run(arena.close)
            fast._pool.shutdown(wait=False)

    async def close(self) -> None:
        """Close the connection; closing twice is harmless, any other use afterwards raises `ClientClosed`."""
        closing, self._closing = self._closing, ()
        self._is_closed = True
        if self._pid == os.getpid():
            for close in closing:
                await close()
            self._pool.shutdown(wait=False)  # what is begun or waits goes on, and finds the connection closed

    async def __aenter__(self) -> AsyncInceptionClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncInceptionClient of {self._core.address}>"

    async def _run(self, steps_of: Callable[[Call], Steps[T]], timeout_s: float | None = None) -> T:
        self._check_place()
        return await run_async(steps_of(self._core.call(timeout_s)), self._transport, self._pool)

    async def _stream(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        wanted: Wanted,
        window: int | None,
        batch_size: int | None,
        new_call: Callable[[], Call],
    ) -> AsyncGenerator[Outcome, None]:
        """The outcomes of `images`; each group of them is a call of its own, unless `new_call` gives the same one."""
        self._check_place()

        async def answer(group: Sequence[ImageLike], first: int) -> list[Outcome]:
            steps = self._core.outcomes(group, wanted, new_call())
            outcomes = await run_async(steps, self._transport, self._pool)
            return [with_index(outcome, first + place) for place, outcome in enumerate(outcomes)]

        largest = await run_async(self._core.max_batch_size(wanted, new_call()), self._transport, self._pool)
        async for outcome in stream_async(images, window_of(window, batch_size, largest), answer):
            yield outcome

    def _check_place(self) -> None:
        """Raise where this client cannot work: another process than its own, or another event loop."""
        if self._pid != os.getpid():
            raise ClientClosed(
                f"the client of {self._core.address} belongs to the process this one was forked from: make one here"
            )
        if self._is_closed:
            raise closed(self._core.address)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise InvalidRequest(
                f"the client of {self._core.address} belongs to another event loop, that of its first call: make one "
                "for this loop"
            )


async def _raising(outcomes: AsyncGenerator[Outcome, None]) -> AsyncIterator[Classification]:
    async with aclosing(outcomes):  # an error that is kept must not keep the stream
        async for outcome in outcomes:
            if isinstance(outcome, InceptionError):
                raise outcome
            yield outcome
