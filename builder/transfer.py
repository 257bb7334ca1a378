"""One file over HTTP: resumed where it broke off, retried where that can help, bounded in size and time.

A resumed download is one file only if the server still has the same one. So the server's name for it (a strong ETag, or
Last-Modified) is kept beside the part, sent back as `If-Range`, and the answer's range is compared with the one asked
for. Without such a name, or on any doubt, the download starts over.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, ProxyError, SSLError

from builder.pdparams import MAX_FILE_BYTES

ByteProgress = Callable[[int, int | None], None]  # bytes here, bytes in all if known

_BLOCK_BYTES = 1 << 16
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class TransferLimits:
    """How hard to try. Pauses begin at `first_pause_s` and double; up to half of each is taken off at random."""

    tries: int = 5
    connect_tries: int = 2  # of those, the ones that may end without a connection: no network should be told quickly
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 3600.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    max_bytes: int = MAX_FILE_BYTES


class TransferError(Exception):
    """The file did not arrive, and trying again at once would not help."""


class _PassingError(Exception):
    """This try failed, the next one may not."""


class _UnreachableError(_PassingError):
    """No connection was made."""


class Transfer:
    """`url` into `file`, which lies at `part` and may hold the beginning from an earlier run."""

    def __init__(self, url: str, file: BinaryIO, part: Path, limits: TransferLimits, progress: ByteProgress) -> None:
        self._url, self._file, self._limits, self._progress = url, file, limits, progress
        self._validator_file = part.with_name(f"{part.name}.json")
        self._deadline = time.monotonic() + limits.total_timeout_s

    def run(self) -> None:
        """Fetch until the file is whole and on the disk. Raises `TransferError`, and `OSError` where writing fails."""
        unreachable = 0
        with _pool_for(self._url) as pool:
            for number in range(1, self._limits.tries + 1):
                try:
                    self._try_once(pool)
                    break
                except _PassingError as error:
                    unreachable += isinstance(error, _UnreachableError)
                    if number == self._limits.tries or unreachable == self._limits.connect_tries:
                        raise TransferError(f"{error} ({number} tries)") from error
                time.sleep(self._pause_s(number))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._validator_file.unlink(missing_ok=True)

    def _pause_s(self, failed_tries: int) -> float:
        pause_s = min(self._limits.longest_pause_s, self._limits.first_pause_s * 2.0 ** (failed_tries - 1))
        return pause_s * random.uniform(0.5, 1.0)

    def _try_once(self, pool: urllib3.PoolManager) -> None:
        offset, headers = self._resume_point()
        timeout = urllib3.Timeout(connect=self._limits.connect_timeout_s, read=self._limits.read_timeout_s)
        try:
            response = pool.request(
                "GET",
                self._url,
                headers={"Accept-Encoding": "identity", **headers},
                preload_content=False,
                retries=False,  # decided here: urllib3 would not resume
                redirect=False,
                timeout=timeout,
            )
            try:
                total = self._accepted_total(response, offset)
                self._receive(response, total)
            finally:
                response.close()
        except (SSLError, ProxyError, LocationValueError) as error:
            raise TransferError(str(error)) from error
        except ConnectTimeoutError as error:
            raise _UnreachableError(str(error)) from error
        except HTTPError as error:
            raise _PassingError(f"the connection broke: {error}") from error

    def _resume_point(self) -> tuple[int, dict[str, str]]:
        offset = self._file.seek(0, os.SEEK_END)
        try:
            kept = json.loads(self._validator_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0, {}
        if offset == 0 or not isinstance(kept, dict) or kept.get("url") != self._url:
            return 0, {}
        return offset, {"Range": f"bytes={offset}-", "If-Range": str(kept.get("validator"))}

    def _accepted_total(self, response: urllib3.BaseHTTPResponse, offset: int) -> int | None:
        """The size of the whole file, with `file` cut to where the answer's body begins."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise TransferError(f"the server sends the file encoded as {response.headers['Content-Encoding']}")
        if response.status == 206 and offset:
            span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != offset:
                self._start_over("the server sent another part of the file than the one asked for")
            total: int | None = int(span[2])
        elif response.status == 200:
            self._truncate()
            self._keep_validator(response)
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        elif response.status == 416 and offset:
            self._start_over("the server has no more of the file than is here")
        elif response.status in _TRANSIENT_STATUSES:
            raise _PassingError(f"the server answers HTTP {response.status}")
        else:
            raise TransferError(f"the server answers HTTP {response.status} {response.reason or ''}".rstrip())
        if total is not None and total > self._limits.max_bytes:
            raise TransferError(f"the file has {total} bytes, more than the {self._limits.max_bytes} allowed")
        return total

    def _receive(self, response: urllib3.BaseHTTPResponse, total: int | None) -> None:
        done = self._file.seek(0, os.SEEK_END)
        self._progress(done, total)
        # What is there, not a full block: a server that drips would put off the look at the clock for days.
        while block := response.read1(_BLOCK_BYTES, decode_content=False):
            done += len(block)
            if done > self._limits.max_bytes:
                self._truncate()
                raise TransferError(f"the server sends more than the {self._limits.max_bytes} bytes allowed")
            if time.monotonic() > self._deadline:
                raise TransferError(f"it took more than {self._limits.total_timeout_s:g} s; run again to resume")
            self._file.write(block)
            self._progress(done, total)
        if total is not None and done != total:
            self._start_over(f"{done} bytes arrived of {total}")

    def _keep_validator(self, response: urllib3.BaseHTTPResponse) -> None:
        etag = response.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        if validator:
            self._validator_file.write_text(json.dumps({"url": self._url, "validator": validator}), encoding="utf-8")

    def _truncate(self) -> None:
        self._validator_file.unlink(missing_ok=True)  # first: a part must never lie beside another file's validator
        self._file.truncate(0)

    def _start_over(self, why: str) -> NoReturn:
        self._truncate()
        raise _PassingError(why)


def _pool_for(url: str) -> urllib3.PoolManager:
    """Straight, or through the proxy that the environment names for this host."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy)
    return urllib3.PoolManager()
