"""PaddleClas's official weight files: fetched once, pinned on first use, and then only ever that file.

PaddleClas publishes no checksum. So the first file that arrives whole and reads as a dict of float arrays has its
SHA-256 written to a lock file, which belongs under version control; every later file has to have it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from builder.catalog import ModelSpec
from builder.errors import WeightsRejected, WeightsUnavailable
from builder.hashing import sha256_of_file
from builder.pdparams import tensors_from_pdparams
from builder.transfer import ByteProgress, Transfer, TransferError, TransferLimits

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """What the lock file holds of one model's weights."""

    url: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no lock file of ours says."""
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} is not 64 hexadecimal digits")


def pretrained_file(
    spec: ModelSpec,
    *,
    cache_dir: Path,
    lock_file: Path,
    progress: ByteProgress | None = None,
    limits: TransferLimits | None = None,
) -> Path:
    """The official weight file of `spec` in `cache_dir`, downloaded if it is not there and checked in any case.

    A file whose SHA-256 is in `lock_file` needs no network. One that differs from it is set aside under the suffix
    `.rejected` and ends in `WeightsRejected`; the lock file stays as it is. Raises `WeightsUnavailable` when the file
    cannot be fetched or stored.
    """
    cached = cache_dir / f"{spec.name}_pretrained.pdparams"
    part = cached.with_name(f"{cached.name}.part")
    pin = _pins_from_file(lock_file).get(spec.name)
    try:
        if cached.is_file():
            found = _checked(cached, spec, pin, lock_file)
        else:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with _held_open(part) as file:
                Transfer(spec.weights_url, file, part, limits or TransferLimits(), _forwarded(progress)).run()
                found = _checked(part, spec, pin, lock_file)
                part.replace(cached)
        if pin is None:
            _write_pin(lock_file, spec.name, found)
    except TransferError as error:
        raise _unavailable(spec, str(error)) from error
    except OSError as error:
        raise _unavailable(spec, f"the file or its pin cannot be stored: {error}") from error
    return cached


def _forwarded(progress: ByteProgress | None) -> ByteProgress:
    return progress or (lambda done_bytes, total_bytes: None)


def _unavailable(spec: ModelSpec, reason: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"the official weights of {spec.name} are not to be had: {reason}. They are expected at {spec.weights_url}. "
        "Fetch the file elsewhere and give --weights FILE, or build with --weights seeded (not trained)"
    )


def _checked(path: Path, spec: ModelSpec, pin: Pin | None, lock_file: Path) -> Pin:
    """What `path` is, once it is known to be the pinned file or, where none is pinned yet, a weight file."""
    found = Pin(spec.weights_url, sha256_of_file(path), path.stat().st_size)
    rejected = path.with_name(f"{spec.name}_pretrained.pdparams.rejected")
    if pin is None:
        try:
            tensors_from_pdparams(path)
        except WeightsRejected as error:
            path.replace(rejected)
            raise WeightsRejected(
                f"what came from {spec.weights_url} is no weight file. It was not pinned, and set aside as "
                f"{rejected}: {error}"
            ) from error
    elif found.sha256 != pin.sha256:
        path.replace(rejected)
        raise WeightsRejected(
            f"the weights of {spec.name} have SHA-256 {found.sha256} ({found.size} bytes), and {lock_file} pins "
            f"{pin.sha256} ({pin.size} bytes). The file was set aside as {rejected}. Run again to fetch it anew; if "
            f"PaddleClas really published another file, take {spec.name!r} out of the lock file first"
        )
    return found


@contextlib.contextmanager
def _held_open(part: Path) -> Iterator[BinaryIO]:
    """`part` opened for appending, by one process at a time."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransferError(f"another process is downloading to {part}: wait for it") from error
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            # Between opening and locking the other process finished: this handle is the finished file.
            raise TransferError(f"another process has just finished downloading {part.stem}: run again")
        yield file


def _pins_from_file(lock_file: Path) -> dict[str, Pin]:
    try:
        content = json.loads(lock_file.read_text(encoding="utf-8"))
        pins = {name: Pin(**entry) for name, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsRejected(
            f"the lock file {lock_file} is unreadable: {error}. Expected a JSON object of name -> url, sha256, size; "
            "restore it from version control"
        ) from error
    return pins


def _write_pin(lock_file: Path, name: str, pin: Pin) -> None:
    """Add one entry. The folder is locked meanwhile, so that two builds do not lose each other's pins."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with _locked_folder(lock_file.parent):
        pins = _pins_from_file(lock_file) | {name: pin}
        text = json.dumps({key: asdict(pins[key]) for key in sorted(pins)}, indent=2) + "\n"
        temporary = lock_file.with_name(f".{lock_file.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(lock_file)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
