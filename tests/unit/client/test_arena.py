"""Memory shared with a server on the same machine: what lies where, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import AsyncInceptionClient, Classification, InceptionClient, arena
from client.arena import DIRECTORY, PREFIX, sweep
from client.errors import ClientClosed, InvalidRequest, NotAllowed, RegionLost
from client.operations import Infer, ListRegions, Region, RegisterRegion, UnregisterRegion
from client.steps import run
from client.testing import AsyncFakeServer, FakeModel, FakeServer

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def files() -> set[str]:
    """What lies in /dev/shm under the client's prefix, hidden or not."""
    return {path.name for pattern in (PREFIX, f".{PREFIX}") for path in DIRECTORY.glob(f"{pattern}*")}


class Mapping(FakeServer):
    """A server that reads pixels from the memory of its registered regions, and from nowhere else."""

    def __init__(self) -> None:
        model = FakeModel("InceptionV3", labels=[str(value) for value in range(256)], answer=self._mean_pixel)
        super().__init__(model)
        self.regions: dict[str, Region] = {}

    @staticmethod
    def _mean_pixel(images: Any) -> Any:
        return np.eye(256, dtype=np.float32)[[round(float(image.mean())) for image in images]]

    def _answered(self, operation: Any) -> Any:
        match operation:
            case RegisterRegion(region):
                if not (DIRECTORY / region.key.lstrip("/")).exists():
                    raise InvalidRequest(f"Unable to open shared memory region: {region.key}")
                self.regions[region.name] = region
                answer: Any = None
            case UnregisterRegion(name):
                answer = self.regions.pop(name, None)
            case ListRegions():
                answer = tuple(self.regions.values())
            case Infer():
                slot = operation.slot
                assert slot is not None
                if slot.name not in self.regions:
                    raise RegionLost(f"Unable to find shared memory region: {slot.name}")
                memory = np.memmap(DIRECTORY / self.regions[slot.name].key.lstrip("/"), np.uint8, mode="r")
                pixels = memory[slot.offset : slot.offset + slot.byte_size].reshape(-1, 299, 299, 3)
                answer = self._inferred(Infer(operation.name, operation.input_name, pixels[: len(operation.batch)]))
            case _:
                answer = super()._answered(operation)
        return answer


@pytest.fixture
def server() -> Any:
    before = files()
    yield Mapping()
    assert files() <= before


def picture(value: int) -> np.ndarray:
    return np.full((320, 320, 3), value, dtype=np.uint8)


def test_the_server_finds_each_image_where_the_client_wrote_it(server: Mapping) -> None:
    """In regions that it was told of, and is told to forget."""
    with InceptionClient.over(server) as client, client.shared_memory() as fast:
        assert fast.classify(picture(7)).best.index == 7
        assert [each.best.index for each in fast.classify_many(map(picture, range(200)))] == list(range(200))
        assert {f"/{name}" for name in files()} >= {region.key for region in server.regions.values()}
    assert server.regions == {}


def test_the_memory_grows_with_what_is_under_way(server: Mapping) -> None:
    """A wide window needs more than the first region; what was given back is used again."""
    with InceptionClient.over(server) as client, client.shared_memory() as fast:
        for _ in range(3):
            assert sum(1 for _ in fast.classify_many(map(picture, range(250)), window=160)) == 250
            assert 1 <= len(server.regions) <= 4  # nine batches fit into the first, four into each other


def test_async_clients_share_memory_too(server: Mapping) -> None:
    """The same steps, awaited."""

    async def call() -> list[int]:
        async with AsyncInceptionClient.over(AsyncFakeServer(server)) as client, client.shared_memory() as fast:
            return [each.best.index async for each in fast.classify_many(map(picture, range(100)))]

    assert asyncio.run(call()) == list(range(100))
    assert server.regions == {}


def test_what_dead_processes_left_is_removed_and_what_lives_is_not(server: Mapping, tmp_path: Path) -> None:
    """A lock tells them apart: it ends with its process, however that ended."""
    left, held = DIRECTORY / f"{PREFIX}left", DIRECTORY / f"{PREFIX}held"
    left.write_bytes(b"pixels")
    server.regions[left.name] = Region(left.name, f"/{left.name}", 4096)
    server.regions["somebody-else"] = Region("somebody-else", "/somebody-else", 4096)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with InceptionClient.over(server) as client, client.shared_memory():
            assert not left.exists()
            assert held.exists()
            assert left.name not in server.regions
            assert "somebody-else" in server.regions
        holder.kill()
    assert sweep() == (held.name,)


def test_where_the_server_restricts_it_that_is_said_and_nothing_is_left(server: Mapping) -> None:
    """The token opens it."""
    with InceptionClient.over(server) as client:
        server.fail_next(NotAllowed("restricted"))
        with pytest.raises(NotAllowed, match="restricts shared memory, which needs the token"), client.shared_memory():
            pass
        assert server.regions == {}


def test_a_server_elsewhere_is_told_apart(server: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot open what lies in this machine's memory."""
    with InceptionClient.over(server) as client:
        original = server._answered

        def refuse(operation: Any) -> Any:
            if isinstance(operation, RegisterRegion):
                raise InvalidRequest("Unable to open shared memory region")
            return original(operation)

        monkeypatch.setattr(server, "_answered", refuse)
        with pytest.raises(InvalidRequest, match="cannot use shared memory of this machine"), client.shared_memory():
            pass


def test_memory_that_is_not_there_is_an_error_now_not_a_crash_later(
    server: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full /dev/shm would otherwise end the process with SIGBUS at the first write."""
    monkeypatch.setattr(arena, "FIRST_REGION_BYTES", 1 << 50)
    refused = pytest.raises(InvalidRequest, match=r"has no room for .* bytes")
    with InceptionClient.over(server) as client, refused, client.shared_memory():
        pass


def test_a_server_that_was_started_anew_is_told_again(server: Mapping) -> None:
    """It has forgotten every region; the call that finds out is answered."""
    with InceptionClient.over(server) as client, client.shared_memory() as fast:
        fast.classify(picture(1))
        server.regions.clear()
        assert fast.classify(picture(2)).best.index == 2
        assert server.regions != {}


def test_memory_that_was_closed_says_so(server: Mapping) -> None:
    """The client itself goes on."""
    with InceptionClient.over(server) as client:
        with client.shared_memory() as fast:
            fast.classify(picture(1))
        with pytest.raises(ClientClosed, match="shared memory was closed"):
            fast.classify(picture(1))
        server._answered = FakeServer._answered.__get__(server)
        assert isinstance(client.classify(picture(1)), Classification)


def test_a_forked_process_is_refused_the_memory_of_its_parent(server: Mapping) -> None:
    """Both would write into the same places."""
    with InceptionClient.over(server) as client, client.shared_memory() as fast:
        fast.classify(picture(1))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                fast.classify(picture(2))
                told = "answered"
            except BaseException as error:  # noqa: BLE001 - the parent is told what it was
                told = type(error).__name__
            os.write(writer, told.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"ClientClosed"
        os.close(reader)
        os.close(writer)
        assert fast.classify(picture(3)).best.index == 3


def test_a_forked_process_that_leaves_the_block_takes_nothing_from_its_parent(server: Mapping) -> None:
    """The files and their registration are the parent's."""
    with InceptionClient.over(server) as client, client.shared_memory() as fast:
        fast.classify(picture(1))
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                for step in fast._core._classifier._buffers.close(fast._core.call()):
                    del step
            os._exit(0)
        os.waitpid(child, 0)
        assert fast.classify(picture(3)).best.index == 3


def test_memory_that_is_made_while_the_block_ends_is_taken_back(server: Mapping) -> None:
    """A stream that was abandoned may still be asking for more."""
    opened = arena.Arena("fake")
    client = InceptionClient.over(server)
    run(opened.open(client._core.call()), server)
    growing = opened.grow(8, 299, client._core.call())
    step = next(growing)
    server.send(step.operation, step.timeout_s)
    run(opened.close(client._core.call()), server)
    step = growing.send(None)
    server.send(step.operation, step.timeout_s)
    with pytest.raises(ClientClosed):
        growing.send(None)
    assert server.regions == {}


def test_regions_of_clients_elsewhere_are_left_alone(server: Mapping) -> None:
    """What lies in another container's /dev/shm is not there to be seen, and lives all the same."""
    elsewhere = Region("inception-client-elsewhere", "/inception-client-elsewhere", 4096)
    server.regions[elsewhere.name] = elsewhere
    with InceptionClient.over(server) as client, client.shared_memory():
        assert elsewhere.name in server.regions
