"""After `fork`: a child of a client's process answers or raises, and never hangs. Each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

HEAD = """
import asyncio, os, sys
import numpy as np
from client import AsyncInceptionClient, ClientClosed, InceptionClient

url, token = sys.argv[1:]
picture = np.full((64, 64, 3), 21, np.uint8)

def in_child(function):
    child = os.fork()
    if child == 0:
        try:
            print(function(), flush=True)
        except ClientClosed as error:
            print("ClientClosed:", error, flush=True)
        finally:
            os._exit(0)
    print("child ended with", os.waitpid(child, 0)[1], flush=True)
"""
SYNC = (
    HEAD
    + """
with InceptionClient(url, token=token, timeout_s=10.0) as client:
    answer = lambda: client.classify(picture, "GoogLeNet").best.index
    answer()
    in_child(answer)
    print("parent", answer(), flush=True)
"""
)
ASYNC = (
    HEAD
    + """
async def main():
    async with AsyncInceptionClient(url, token=token, timeout_s=10.0) as client:
        await client.classify(picture, "GoogLeNet")
        in_child(lambda: run_in_child(client))
        print("parent", (await client.classify(picture, "GoogLeNet")).best.index, flush=True)

def run_in_child(client):
    try:
        client.classify(picture, "GoogLeNet").send(None)
    except StopIteration:
        return "answered"
    return "waits"

asyncio.run(main())
"""
)
SHARED = (
    HEAD
    + """
with InceptionClient(url, token=token, timeout_s=10.0) as client, client.shared_memory() as fast:
    answer = lambda: fast.classify(picture, "GoogLeNet").best.index
    answer()
    in_child(answer)
    print("parent", answer(), flush=True)
"""
)


def lines_of(run_python: Callable[..., Any], script: str, url: str, token: str, **environment: str) -> list[str]:
    """What parent and child printed, in order."""
    finished = run_python(script, url, token, **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_an_http_client_answers_in_a_child(obedient: Any, run_python: Callable[..., Any]) -> None:
    """It connects anew there; the parent's connection goes on."""
    lines = lines_of(run_python, SYNC, obedient.http_url, obedient.token)
    assert lines == ["21", "child ended with 0", "parent 21"]


def test_a_grpc_client_without_fork_support_is_closed_in_a_child(obedient: Any, run_python: Callable[..., Any]) -> None:
    """At once, with the ways out; the parent's goes on."""
    child, ended, parent = lines_of(run_python, SYNC, obedient.grpc_url, obedient.token, GRPC_ENABLE_FORK_SUPPORT="0")
    assert child.startswith("ClientClosed: ")
    assert "GRPC_ENABLE_FORK_SUPPORT=1" in child
    assert (ended, parent) == ("child ended with 0", "parent 21")


def test_a_grpc_client_with_fork_support_answers_in_a_child(obedient: Any, run_python: Callable[..., Any]) -> None:
    """It connects anew there; the parent's connection goes on."""
    lines = lines_of(run_python, SYNC, obedient.grpc_url, obedient.token, GRPC_ENABLE_FORK_SUPPORT="1")
    assert lines == ["21", "child ended with 0", "parent 21"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_asynchronous_client_is_closed_in_a_child(
    obedient: Any, run_python: Callable[..., Any], protocol: str
) -> None:
    """Its event loop is the parent's."""
    url = obedient.grpc_url if protocol == "grpc" else obedient.http_url
    child, ended, parent = lines_of(run_python, ASYNC, url, obedient.token)
    assert child.startswith("ClientClosed: ")
    assert (ended, parent) == ("child ended with 0", "parent 21")


def test_shared_memory_is_closed_in_a_child(obedient: Any, run_python: Callable[..., Any]) -> None:
    """Two processes would write into the same rooms; the parent's stays as it is."""
    child, ended, parent = lines_of(run_python, SHARED, obedient.http_url, obedient.token)
    assert child.startswith("ClientClosed: ")
    assert "open it here" in child
    assert (ended, parent) == ("child ended with 0", "parent 21")
