"""Case 20 against the real server: clients that are killed and calls that are given up leave nothing on it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from client import AsyncInceptionClient

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "GoogLeNet"
NAP = 100  # a tenth of a second for each execution
CALLS_OF_ONE_CLIENT, CLIENTS, CANCELLED = 50, 4, 200
# What the server keeps for good after 200 requests of 150 KB were given up: a leak of them would be 30 MB.
MAX_GROWTH_BYTES = 24 * 1024 * 1024
CLIENT = """
import asyncio, sys
import numpy as np
from client import AsyncInceptionClient

async def main(url, token, calls):
    async with AsyncInceptionClient(url, token=token) as client:
        pictures = [np.full((64, 64, 3), value, np.uint8) for value in (1, 100)]
        await client.classify(pictures[0], "GoogLeNet")
        await asyncio.gather(*(client.classify(pictures[1], "GoogLeNet") for _ in range(calls)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def memory_of(server: Any) -> int:
    """Resident bytes of tritonserver itself."""
    return psutil.Process(server.server.pid).memory_info().rss


def has_settled(server: Any, caller: Any, image: np.ndarray) -> bool:
    """Whether nothing waits on the server any more, and it answers."""
    return server.pending() == 0 and caller.classify(image, MODEL, timeout_s=20.0).best.index == 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_killed_clients_leave_nothing_on_the_server(
    obedient: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool], protocol: str, connect_sync: Any
) -> None:
    """Four processes, each killed with fifty calls under way: then nothing waits, and the memory is what it was."""
    url = obedient.grpc_url if protocol == "grpc" else obedient.http_url
    caller = connect_sync(obedient)

    def kill_one() -> None:
        before = obedient.began(NAP)
        command = [sys.executable, "-c", CLIENT, url, obedient.token, str(CALLS_OF_ONE_CLIENT)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            try:
                assert wait_until(lambda: obedient.began(NAP) > before and obedient.pending() >= 20)
            finally:
                os.kill(process.pid, signal.SIGKILL)

    kill_one()  # the first makes the server's pools grow
    assert wait_until(lambda: has_settled(obedient, caller, solid(1)), 30.0)
    baseline = memory_of(obedient)
    for _ in range(CLIENTS - 1):
        kill_one()
        assert wait_until(lambda: has_settled(obedient, caller, solid(1)), 30.0)
    assert obedient.is_alive()
    assert memory_of(obedient) - baseline < MAX_GROWTH_BYTES


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_cancelled_calls_leave_nothing_on_the_server(
    obedient: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool], protocol: str, connect_sync: Any
) -> None:
    """Two hundred calls, fifty at a time, each cancelled while it waits: nothing of them stays, here or there."""
    url = obedient.grpc_url if protocol == "grpc" else obedient.http_url
    caller = connect_sync(obedient)
    caller.classify(solid(1), MODEL)
    loop_has = []

    async def cancel_fifty(client: AsyncInceptionClient) -> None:
        before = obedient.began(NAP)
        calls = [asyncio.ensure_future(client.classify(solid(NAP), MODEL)) for _ in range(50)]
        while obedient.began(NAP) == before or not await asyncio.to_thread(obedient.pending):
            await asyncio.sleep(0.01)  # a pause between two looks
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        assert (await client.classify(solid(1), MODEL, timeout_s=20.0)).best.index == 1

    async def main() -> None:
        async with AsyncInceptionClient(url, token=obedient.token) as client:
            await client.classify(solid(1), MODEL)
            for _ in range(CANCELLED // 50):
                await cancel_fifty(client)
                loop_has.append((memory_of(obedient), len(asyncio.all_tasks())))

    asyncio.run(asyncio.wait_for(main(), 90))
    assert wait_until(lambda: has_settled(obedient, caller, solid(1)), 30.0)
    assert obedient.is_alive()
    assert memory_of(obedient) - loop_has[0][0] < MAX_GROWTH_BYTES
    assert len({tasks for _, tasks in loop_has}) == 1


def test_a_stream_that_is_left_early_leaves_nothing(
    obedient: Any, solid: Callable[[int], np.ndarray], wait_until: Callable[..., bool], connect: Any
) -> None:
    """`classify_many` over an endless generator, left after ten answers: threads, tasks and requests end."""

    class Enough(Exception):
        pass

    def endless() -> Any:
        while True:
            yield solid(1)

    seen: list[Any] = []

    def take(outcome: Any) -> None:
        seen.append(outcome)
        if len(seen) == 10:
            raise Enough

    caller = connect(obedient)
    assert type(caller.start_many(endless(), take, model=MODEL).exception(30)) is Enough
    assert len(seen) == 10
    assert wait_until(lambda: has_settled(obedient, caller, solid(1)), 30.0)
