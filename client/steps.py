"""What a client does, written once as generators, and the two ways to run them: waiting, or awaiting.

def something(...) -> Steps[Answer]:          # everything but the waiting
reply = yield Send(operation, timeout_s)  # a driver performs it and sends the answer in
yield Pause(0.1)
return yield Work(decode)

run(something(), transport)                   # performs each step in this thread
await run_async(something(), transport, pool) # the same steps on an event loop
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from client.errors import InceptionError
from client.mapping import closed
from client.operations import Operation
from client.transport import AsyncTransport, Transport

T = TypeVar("T")


@dataclass(slots=True)
class Send:
    """Send `operation`; the answer to this step is the operation's, or its `InceptionError` is raised in the steps."""

    operation: Operation[Any]
    timeout_s: float


@dataclass(slots=True)
class Pause:
    """Let `duration_s` seconds pass."""

    duration_s: float


@dataclass(slots=True)
class Work:
    """Compute `function()`; on an event loop, in a thread.

    A task that is cancelled does not stop the thread: then `is_left` says that it goes on, and `when_left` is called at
    its end.
    """

    function: Callable[[], Any]
    when_left: Callable[[], object] = lambda: None
    is_left: bool = False


Steps: TypeAlias = Generator[Send | Pause | Work, Any, T]


def run(steps: Steps[T], transport: Transport) -> T:
    """Perform every step in this thread and return what the steps return."""
    try:
        step = next(steps)
        while True:
            try:
                answer = _performed(step, transport)
            except InceptionError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


async def run_async(steps: Steps[T], transport: AsyncTransport, pool: Executor) -> T:
    """Perform every step on the running event loop, `Work` in `pool`, and return what the steps return."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await _performed_async(step, transport, pool)
            except InceptionError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def _performed(step: Send | Pause | Work, transport: Transport) -> Any:
    if isinstance(step, Send):
        return transport.send(step.operation, step.timeout_s)
    if isinstance(step, Work):
        return step.function()
    return time.sleep(step.duration_s)


async def _performed_async(step: Send | Pause | Work, transport: AsyncTransport, pool: Executor) -> Any:
    if isinstance(step, Send):
        return await transport.send(step.operation, step.timeout_s)
    if isinstance(step, Pause):
        return await asyncio.sleep(step.duration_s)
    return await _worked(step, transport.address, pool)


async def _worked(step: Work, address: str, pool: Executor) -> Any:
    try:
        work = pool.submit(step.function)
    except RuntimeError as error:  # the pool was shut down
        raise closed(address) from error
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        if not work.cancelled():
            step.is_left = True
            work.add_done_callback(lambda _: step.when_left())
        raise
