"""Any number of images, a bounded number at a time, answered in their order: the waiting of `classify_many`.

    images --pull--> groups of up to a batch --answer, several at once--> outcomes, in order

What was pulled and not yet handed on never exceeds the window, so a slow consumer slows the source. An error of the
source itself is raised when everything pulled before it has been handed on.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from client.classification import Outcome
from client.errors import InceptionError, InvalidRequest
from client.images import ImageLike

OnError: TypeAlias = Literal["raise", "return"]


@dataclass(frozen=True)
class Window:
    """At most `images` under way, in groups of `group`."""

    images: int
    group: int

    @property
    def groups(self) -> int:
        """How many groups may be under way."""
        return max(1, self.images // self.group)


def window_of(images: int | None, batch_size: int | None, max_batch_size: int) -> Window:
    """The window for a model that takes `max_batch_size` images at once; `batch_size` None means all of them.

    `images` None means a group for each core that may decode, and two for the server and the wire: more threads than
    that cost a fast server up to a quarter of its throughput.
    """
    group = min(batch_size or max_batch_size, max_batch_size)
    if images is None:
        return Window((_cores() + 2) * group, group)
    return Window(images, min(group, images))


def _cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_sizes(window: int | None, batch_size: int | None) -> None:
    """`InvalidRequest` for numbers that make no window."""
    for name, value in (("window", window), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidRequest(f"{name} is {value!r}; expected a whole number of images, at least 1")


def check_several(images: object) -> None:
    """`InvalidRequest` for one image where several are wanted: a text would be taken for many one-letter paths."""
    is_one = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(images, "read")
    is_one = is_one or getattr(images, "ndim", 0) == 3
    if is_one or not isinstance(images, Iterable | AsyncIterable):
        raise InvalidRequest(
            f"images is a {type(images).__name__}; expected several, such as a list: one is for classify(), or goes "
            "into a list of one"
        )


def checked_on_error(on_error: str) -> bool:
    """Whether errors are to be raised; `InvalidRequest` for another word."""
    if on_error not in ("raise", "return"):
        raise InvalidRequest(f"on_error is {on_error!r}; expected 'raise' or 'return'")
    return on_error == "raise"


def with_index(outcome: Outcome, index: int) -> Outcome:
    """An error that says which image it is of; an answer as it is."""
    if not isinstance(outcome, InceptionError):
        return outcome
    error = type(outcome)(f"image {index}: {outcome}")
    error.index = index
    error.__cause__ = outcome
    return error


def stream(
    images: Iterable[ImageLike], window: Window, answer: Callable[[Sequence[ImageLike], int], list[Outcome]]
) -> Iterator[Outcome]:
    """The outcomes of `images`; `answer` is given a group and the index of its first, in one of several threads."""
    source = _Source(window.group)
    iterator = iter(images)
    under_way: deque[Future[list[Outcome]]] = deque()
    pool = ThreadPoolExecutor(window.groups, thread_name_prefix="inception-client")
    try:
        while True:
            while not source.is_at_end and len(under_way) < window.groups and not (under_way and under_way[0].done()):
                group, first = source.pull(iterator)
                if group:
                    under_way.append(pool.submit(answer, group, first))
            if not under_way:
                break
            yield from under_way.popleft().result()
        source.raise_its_error()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def stream_async(
    images: Iterable[ImageLike] | AsyncIterable[ImageLike],
    window: Window,
    answer: Callable[[Sequence[ImageLike], int], Awaitable[list[Outcome]]],
) -> AsyncIterator[Outcome]:
    """The same on an event loop."""
    source = _Source(window.group)
    iterator: Any = aiter(images) if isinstance(images, AsyncIterable) else iter(images)
    under_way: deque[asyncio.Future[list[Outcome]]] = deque()
    try:
        while True:
            while not source.is_at_end and len(under_way) < window.groups and not (under_way and under_way[0].done()):
                group, first = await source.pull_async(iterator)
                if group:
                    under_way.append(asyncio.ensure_future(answer(group, first)))
                    await asyncio.sleep(0)  # let it begin: the source may never await
            if not under_way:
                break
            for outcome in await under_way.popleft():
                yield outcome
        source.raise_its_error()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class _Source:
    """The user's images, in groups; an error while pulling ends them and is kept until it may be raised."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pulled = 0
        self._error: Exception | None = None
        self.is_at_end = False

    def pull(self, iterator: Iterator[ImageLike]) -> tuple[list[ImageLike], int]:
        """The next group, empty at the end, and the index of its first image."""
        group: list[ImageLike] = []
        try:
            while len(group) < self._size:
                group.append(next(iterator))
        except StopIteration:
            self.is_at_end = True
        except Exception as error:  # noqa: BLE001 - the user's own, raised again in its turn
            self._error, self.is_at_end = error, True
        return group, self._counted(group)

    async def pull_async(self, iterator: Any) -> tuple[list[ImageLike], int]:
        """The same from an asynchronous iterator, or from an ordinary one."""
        if not hasattr(iterator, "__anext__"):
            return self.pull(iterator)
        group: list[ImageLike] = []
        try:
            while len(group) < self._size:
                group.append(await anext(iterator))
        except StopAsyncIteration:
            self.is_at_end = True
        except Exception as error:  # noqa: BLE001 - the user's own, raised again in its turn
            self._error, self.is_at_end = error, True
        return group, self._counted(group)

    def _counted(self, group: list[ImageLike]) -> int:
        first = self._pulled
        self._pulled += len(group)
        return first

    def raise_its_error(self) -> None:
        """Raise what ended the images early."""
        if self._error is not None:
            raise self._error
