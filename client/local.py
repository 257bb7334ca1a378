"""The embedded server of `InceptionClient.local`: the one place where the client meets `serving`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import InvalidRequest, ServerUnavailable

if TYPE_CHECKING:
    from serving import Server

# serving's "wrong usage" and "that is no sound repository".
_EXIT_CODES_OF_WHAT_WAS_ASKED = (2, 4)


def started(repository: str | PathLike[str], models: Sequence[str] | None) -> Server:
    """A server of the model folders in `repository` (of `models` only, where given), ready, on free loopback ports.

    Whoever takes it must `stop` it; it also ends with this process. Raises `ServerUnavailable` when it does not start,
    `InvalidRequest` for a repository or a model that is not there.
    """
    try:
        from serving import serve
        from serving.errors import ServingError
    except ModuleNotFoundError as error:
        raise ServerUnavailable(
            f"there is no server to start here ({error}): pip install 'inception-triton[serving]'"
        ) from error
    try:
        return serve(Path(repository), ports="auto", models=None if models is None else list(models))
    except ServingError as error:
        is_what_was_asked = error.exit_code in _EXIT_CODES_OF_WHAT_WAS_ASKED
        kind = InvalidRequest if is_what_was_asked else ServerUnavailable
        raise kind(f"the embedded server did not start: {error}") from error
