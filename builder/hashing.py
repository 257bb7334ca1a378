"""SHA-256 of files, bytes and values: what lock files, manifests and keys hold. Standard library only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_BLOCK_BYTES = 1024 * 1024


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of the file's bytes in 64 hex digits, read in blocks. Raises `OSError` where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_text(text: str) -> str:
    """SHA-256 of the UTF-8 text, in hex."""
    return sha256_of_bytes(text.encode())


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
