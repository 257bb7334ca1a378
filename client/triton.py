"""What Triton's words mean, whichever protocol they come in."""

from __future__ import annotations

from collections.abc import Sequence

from client.mapping import cleaned
from client.operations import IndexEntry

# `python -m serving up` has Triton expect its token in this header; over gRPC Triton puts its own prefix before it.
HTTP_TOKEN_HEADER = "inception-token"  # noqa: S105 - the header's name, not a token
GRPC_TOKEN_HEADER = f"triton-grpc-protocol-{HTTP_TOKEN_HEADER}"


def index_entry(name: str, state: str, reason: str) -> IndexEntry:
    """One line of the repository index.

    In explicit mode Triton lists a model that was never loaded without a state, and one that was taken off as
    UNAVAILABLE with this very reason; a model that failed to load is UNAVAILABLE with the reason of the failure.
    """
    is_unloaded = not state or (state == "UNAVAILABLE" and reason == "unloaded")
    return IndexEntry(name, state == "READY", cleaned(reason or state), is_unloaded)


def highest_version(versions: Sequence[str]) -> str:
    """The version that is served where none is named; empty where there is none."""
    return max(versions, key=lambda version: int(version) if version.isdecimal() else -1, default="")
