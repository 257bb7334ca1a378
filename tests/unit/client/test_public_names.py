"""The public surface is a list, not an accident."""

from __future__ import annotations

import subprocess
import sys
import types

import client


def test_all_names_what_can_be_imported_and_nothing_else() -> None:
    """`__all__` equals the package's public attributes, its modules aside."""
    public = {
        name
        for name, value in vars(client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(client.__all__) == public
    assert client.__all__ == sorted(client.__all__)


def test_every_public_name_has_a_promise() -> None:
    """A docstring, that is."""
    assert [name for name in client.__all__ if not getattr(client, name).__doc__] == []


def test_the_client_does_not_draw_in_the_builders_world() -> None:
    """A web service that classifies must not need torch."""
    script = (
        "import sys, client; print(*sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'builder'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
