"""One real server for the contract tests: all eight models in FP32, two in FP16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client import InceptionClient
from serving import Server, serve


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Server]:
    """The session's server, on free ports."""
    with serve(repository, ports="auto", exit_timeout_s=5) as server:
        yield server


@pytest.fixture(scope="session")
def client(served: Server) -> Iterator[InceptionClient]:
    """A client of that server."""
    with InceptionClient(served.grpc_url, token=served.token, timeout_s=60.0) as connected:
        yield connected
