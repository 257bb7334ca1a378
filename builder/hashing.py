"""SHA-256 of files: what lock files and manifests hold. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of the file's bytes in 64 hex digits, read in blocks. Raises `OSError` where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
