"""The public surface, as a type checker of a user's program sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import client

ROOT = Path(__file__).resolve().parents[3]


def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    """Every right use has the right type, every wrong one is found: an ignored error that is none fails, too."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "tests/typing/client_usage.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    """Without this file a type checker takes everything for Any."""
    assert (Path(client.__file__).parent / "py.typed").is_file()
