import os
import stat

import pytest

from serving.access import Access, choose_token, lock_run_dir, read_access, write_access
from serving.errors import AlreadyRunning, NotRunning, UsageError

ACCESS = Access(
    grpc_url="127.0.0.1:8001",
    http_url="http://127.0.0.1:8000",
    metrics_url="http://127.0.0.1:8002/metrics",
    token="secret-secret",  # noqa: S106
    pid=2,
    guard_pid=1,
    guard_started=3,
)


def test_what_is_written_is_what_is_read_by_the_owner_alone(tmp_path):
    """Mode 0600 whatever the umask, and no other file is left."""
    before = os.umask(0)
    try:
        path = write_access(tmp_path, ACCESS)
    finally:
        os.umask(before)
    assert read_access(tmp_path) == ACCESS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["serving.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"grpc_url": "127.0.0.1:8001"}'])
def test_no_file_or_another_file_is_not_running(tmp_path, content):
    """A reader gets one kind of error, which says what to do."""
    if content is not None:
        (tmp_path / "serving.json").write_text(content)
    with pytest.raises(NotRunning, match=r"serving\.json"):
        read_access(tmp_path)


def test_a_token_comes_from_the_option_then_the_environment_then_chance():
    """And two random ones differ."""
    environment = {"INCEPTION_TOKEN": "from-environment"}
    assert choose_token("from-option", environment) == "from-option"
    assert choose_token(None, environment) == "from-environment"
    assert choose_token(None, {}) != choose_token(None, {})


def test_every_random_token_passes_the_flags():
    """token_urlsafe may begin with '-', which a command line option would not survive."""
    for _ in range(2000):
        assert not choose_token(None, {}).startswith("-")


@pytest.mark.parametrize(
    "token", ["short", "with space", "a:b=c,d-long", "-begins-with-dash", "umlaut-ä-long", "x" * 257]
)
def test_a_token_that_the_flags_would_change_is_refused(token):
    """The message does not repeat the token."""
    with pytest.raises(UsageError) as refused:
        choose_token(token, {})
    assert token not in str(refused.value)


def test_a_run_directory_has_one_holder_at_a_time(tmp_path):
    """And is free again as soon as the holder is gone."""
    held = lock_run_dir(tmp_path)
    with pytest.raises(AlreadyRunning, match="serving down"):
        lock_run_dir(tmp_path)
    os.close(held)
    os.close(lock_run_dir(tmp_path))
