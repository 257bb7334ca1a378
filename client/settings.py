"""Where the server is and what opens it: command line, then environment, then run/serving.json, then localhost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.connection import connection_from_urls
from client.errors import InvalidRequest

DEFAULT_URL = "localhost:8001"
URL_VARIABLE = "INCEPTION_URL"
TOKEN_VARIABLE = "INCEPTION_TOKEN"  # noqa: S105 - the variable's name, not a token
SERVING_FILE = Path("run") / "serving.json"  # written by `python -m serving up`
MAX_SERVING_FILE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Settings:
    """A server's address and token, and `url_origin`: where the address came from, for messages."""

    url: str
    token: str | None = field(repr=False)
    url_origin: str


def settings_from(url: str | None, token: str | None, environment: Mapping[str, str], directory: Path) -> Settings:
    """The settings in force, where `url` and `token` are the command line's and None means not given.

    The token in `run/serving.json` belongs to the server in that file and goes to no other address. Raises
    `InvalidRequest` when that file is needed and cannot be understood.
    """
    url = url or environment.get(URL_VARIABLE) or None
    token = token or environment.get(TOKEN_VARIABLE) or None
    origin = "--url or " + URL_VARIABLE
    if url is None or token is None:
        served = _served(directory / SERVING_FILE)
        if url is None:
            url, origin = (served.urls[0], str(SERVING_FILE)) if served.urls else (DEFAULT_URL, "the default")
        if token is None and _shown(url) in map(_shown, served.urls):
            token = served.token
    return Settings(url, token, origin)


@dataclass(frozen=True)
class _Served:
    """The server of a serving file: its gRPC and HTTP addresses, none where there is no file."""

    urls: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)


def _shown(url: str) -> str:
    """One spelling for each address."""
    return connection_from_urls(url).shown


def _served(path: Path) -> _Served:
    """The server that the file tells of."""
    try:
        with path.open("rb") as file:
            content: Any = json.loads(file.read(MAX_SERVING_FILE_BYTES))
    except FileNotFoundError:
        return _Served()
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{path} cannot be read ({error}); give --url, or start the server again to have it written anew"
        ) from error
    told = content if isinstance(content, dict) else {}
    grpc_url, http_url, token = told.get("grpc_url"), told.get("http_url"), told.get("token")
    if not isinstance(grpc_url, str) or not isinstance(http_url, str | None) or not isinstance(token, str | None):
        raise InvalidRequest(
            f'{path} is not what `python -m serving up` writes (expected "grpc_url" and "token"); give --url, or start '
            "the server again to have it written anew"
        )
    return _Served((grpc_url,) if http_url is None else (grpc_url, http_url), token)
