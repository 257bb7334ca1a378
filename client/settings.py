"""Where the server is and what opens it: command line, then environment, then run/serving.json, then localhost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.errors import InvalidRequest

DEFAULT_URL = "localhost:8001"
URL_VARIABLE = "INCEPTION_URL"
TOKEN_VARIABLE = "INCEPTION_TOKEN"  # noqa: S105 - the variable's name, not a token
SERVING_FILE = Path("run") / "serving.json"  # written by `python -m serving up`
MAX_SERVING_FILE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Settings:
    """A server's gRPC address and token, and `url_origin`: where the address came from, for messages."""

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
        served_url, served_token = _serving_file(directory / SERVING_FILE)
        if url is None:
            url, origin = (served_url, str(SERVING_FILE)) if served_url else (DEFAULT_URL, "the default")
        if token is None and url == served_url:
            token = served_token
    return Settings(url, token, origin)


def _serving_file(path: Path) -> tuple[str | None, str | None]:
    """grpc_url and token of the file, each None where there is none."""
    try:
        with path.open("rb") as file:
            content: Any = json.loads(file.read(MAX_SERVING_FILE_BYTES))
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{path} cannot be read ({error}); give --url, or start the server again to have it written anew"
        ) from error
    url = content.get("grpc_url") if isinstance(content, dict) else None
    token = content.get("token") if isinstance(content, dict) else None
    if not isinstance(url, str) or not (token is None or isinstance(token, str)):
        raise InvalidRequest(
            f'{path} is not what `python -m serving up` writes (expected "grpc_url" and "token"); give --url, or start '
            "the server again to have it written anew"
        )
    return url, token
