"""docs/client.md does what it says: every Python example on it is run, against the real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving import Server

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
PHOTOS = ("cat.jpg", "coffee.jpg", "rocket.jpg")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory such as a reader has: photographs, and a folder of them."""
    (tmp_path / "photos").mkdir()
    for name in PHOTOS:
        shutil.copy(ROOT / "examples" / "photos" / name, tmp_path / name)
        shutil.copy(ROOT / "examples" / "photos" / name, tmp_path / "photos" / name)
    return tmp_path


def test_the_page_has_its_examples() -> None:
    """The pattern still finds them."""
    assert len(EXAMPLES) == PAGE.read_text(encoding="utf-8").count("```python") >= 7


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(served: Server, repository: Path, here: Path, example: str) -> None:
    """Only the port and the place of the models are other ones; it prints or asserts something, and never complains."""
    program = example.replace("localhost:8001", served.grpc_url).replace("model_repository", str(repository))
    assert "print(" in program or "assert " in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=here,
        env={"INCEPTION_TOKEN": served.token or "", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "print(" not in program or done.stdout.strip()
