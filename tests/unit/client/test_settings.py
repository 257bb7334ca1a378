"""Command line, then environment, then run/serving.json, then localhost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.errors import InvalidRequest
from client.settings import DEFAULT_URL, Settings, settings_from

SERVED = {
    "grpc_url": "127.0.0.1:9001",
    "http_url": "http://127.0.0.1:9000",
    "metrics_url": "127.0.0.1:9002",
    "token": "file-token",
    "pid": 7,
}


def write(directory: Path, content: object) -> Path:
    (directory / "run").mkdir()
    (directory / "run" / "serving.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def test_the_default_is_localhost_without_a_token(tmp_path: Path) -> None:
    """Nothing given anywhere."""
    assert settings_from(None, None, {}, tmp_path) == Settings(DEFAULT_URL, None, "the default")


def test_the_running_servers_file_gives_address_and_token(tmp_path: Path) -> None:
    """`python -m serving up` and then `python -m client classify` need no options."""
    found = settings_from(None, None, {}, write(tmp_path, SERVED))
    assert (found.url, found.token) == ("127.0.0.1:9001", "file-token")
    assert found.url_origin.endswith("serving.json")


def test_a_server_without_a_token_is_fine(tmp_path: Path) -> None:
    """null is what the file says then."""
    assert settings_from(None, None, {}, write(tmp_path, SERVED | {"token": None})).token is None


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    """Both values."""
    environment = {"INCEPTION_URL": "gpu:8001", "INCEPTION_TOKEN": "environment-token"}
    found = settings_from(None, None, environment, write(tmp_path, SERVED))
    assert (found.url, found.token) == ("gpu:8001", "environment-token")


def test_the_command_line_goes_before_the_environment(tmp_path: Path) -> None:
    """Both values."""
    environment = {"INCEPTION_URL": "gpu:8001", "INCEPTION_TOKEN": "environment-token"}
    found = settings_from("here:1", "given", environment, write(tmp_path, SERVED))
    assert (found.url, found.token) == ("here:1", "given")


def test_an_empty_variable_is_no_variable(tmp_path: Path) -> None:
    """`INCEPTION_TOKEN= python -m client` must not send an empty token."""
    found = settings_from(None, None, {"INCEPTION_URL": "", "INCEPTION_TOKEN": ""}, tmp_path)
    assert (found.url, found.token) == (DEFAULT_URL, None)


def test_the_files_token_goes_to_no_other_server(tmp_path: Path) -> None:
    """Whoever names another address must not hand it this server's token."""
    write(tmp_path, SERVED)
    assert settings_from("elsewhere:8001", None, {}, tmp_path).token is None
    assert settings_from(None, None, {"INCEPTION_URL": "elsewhere:8001"}, tmp_path).token is None
    assert settings_from("127.0.0.1:9001", None, {}, tmp_path).token == SERVED["token"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"grpc_url": 7}', '{"grpc_url": "a:1", "token": 7}', "[" * 90_000]
)
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    """It is not passed over: the user expects that server."""
    write(tmp_path, content)
    with pytest.raises(InvalidRequest, match=r"serving\.json .*--url"):
        settings_from(None, None, {}, tmp_path)


def test_a_damaged_file_does_not_matter_when_nothing_is_needed_from_it(tmp_path: Path) -> None:
    """Address and token were given."""
    assert settings_from("a:1", "t", {}, write(tmp_path, "{")).url == "a:1"


def test_a_token_is_not_printed_with_its_settings(tmp_path: Path) -> None:
    """repr ends up in logs."""
    assert "file-token" not in repr(settings_from(None, None, {}, write(tmp_path, SERVED)))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9001", "grpc://127.0.0.1:9001", "grpc://127.0.0.1:9001/", "http://127.0.0.1:9000"]
)
def test_the_files_token_goes_to_the_files_server_however_it_is_named(tmp_path: Path, url: str) -> None:
    """With a scheme or without, by gRPC or by HTTP."""
    assert settings_from(url, None, {}, write(tmp_path, SERVED)).token == SERVED["token"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9001", "127.0.0.1:9002", "grpcs://127.0.0.1:9001", "localhost:9001"])
def test_the_files_token_goes_to_no_other_protocol_or_port(tmp_path: Path, url: str) -> None:
    """Another port is another server, and another name might be."""
    assert settings_from(url, None, {}, write(tmp_path, SERVED)).token is None
