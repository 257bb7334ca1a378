"""The embedded server of `InceptionClient.local`: what cannot be started says so in the client's own words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from client import InceptionClient
from client.errors import InvalidRequest, ServerUnavailable


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """As what was asked for, with the way to get one."""
    with pytest.raises(InvalidRequest, match=r"did not start: .*nowhere is not a directory"):
        InceptionClient.local(tmp_path / "nowhere")


def test_without_the_extra_the_line_that_installs_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client alone needs no server."""
    monkeypatch.setitem(sys.modules, "serving", None)
    with pytest.raises(ServerUnavailable, match=r"pip install 'inception-triton\[serving\]'"):
        InceptionClient.local(tmp_path)
