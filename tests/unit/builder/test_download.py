"""Downloads against a real HTTP server on loopback: resume, retry, pins."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from builder.catalog import MODELS, ModelSpec
from builder.download import pretrained_file
from builder.errors import WeightsRejected, WeightsUnavailable
from builder.hashing import sha256_of_file
from builder.transfer import TransferLimits

_QUICK = TransferLimits(first_pause_s=0.01, longest_pause_s=0.02, connect_timeout_s=2, read_timeout_s=2)
_CUT_BYTES = 200_000  # more than one block of the transfer


def _weights(seed: int) -> bytes:
    return pickle.dumps({"w": np.random.default_rng(seed).random(100_000, dtype=np.float32)}, 4)


class FileServer(ThreadingHTTPServer):
    """Serves `content`; each request first takes one answer from `script`, and its Range header is kept."""

    daemon_threads = False

    def __init__(self) -> None:
        self.content = _weights(1)
        self.etag: str | None = '"one"'
        self.script: list[Callable[[Handler], None]] = []
        self.ranges: list[str | None] = []
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dygraph/GoogLeNet_pretrained.pdparams"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        (self.server.script.pop(0) if self.server.script else whole)(self)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, sent_bytes: int | None = None):
        self.send_response(status)
        defaults = {"Content-Length": str(len(body)), "Connection": "close"}
        if self.server.etag:
            defaults["ETag"] = self.server.etag
        for name, value in (defaults | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent_bytes])

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


def whole(handler: Handler) -> None:
    """As a file server does: the range if the validator fits, otherwise all of it."""
    content, wanted = handler.server.content, handler.headers["Range"]
    if wanted is None or handler.headers["If-Range"] != handler.server.etag:
        return handler.answer(200, content)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return handler.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return handler.answer(206, content[start:], {"Content-Range": span})


def cut(handler: Handler) -> None:
    """The whole file is announced, and the connection ends in its middle."""
    handler.answer(200, handler.server.content, sent_bytes=_CUT_BYTES)


def drip(handler: Handler) -> None:
    """The whole file is announced, and comes in small pieces: less than one block of the transfer in seconds."""
    handler.answer(200, handler.server.content, sent_bytes=0)
    for start in range(0, 20_000, 100):
        try:
            handler.wfile.write(handler.server.content[start : start + 100])
        except ConnectionError:  # the client has had enough
            return
        if handler.server.stopping.wait(timeout=0.02):
            return


def chunked(handler: Handler, sent_bytes: int | None = None) -> None:
    """As a server does that does not know the size beforehand; cut off after `sent_bytes`, if given."""
    content = handler.server.content
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Connection", "close")
    handler.end_headers()
    chunks = [content[start : start + 70_000] for start in range(0, len(content), 70_000)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    handler.wfile.write(body[:sent_bytes])


def status(code: int, headers: dict[str, str] | None = None) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(code, b"", headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopping.set()
        running.shutdown()
        thread.join()


@dataclasses.dataclass
class Room:
    """One user's cache and lock file."""

    folder: Path
    spec: ModelSpec

    @property
    def cached(self) -> Path:
        return self.folder / "cache" / "GoogLeNet_pretrained.pdparams"

    @property
    def part(self) -> Path:
        return self.cached.with_name(f"{self.cached.name}.part")

    @property
    def rejected(self) -> Path:
        return self.cached.with_name(f"{self.cached.name}.rejected")

    @property
    def lock_file(self) -> Path:
        return self.folder / "weights.lock.json"

    def fetch(self, **options: object) -> Path:
        options = {"limits": _QUICK} | options
        return pretrained_file(self.spec, cache_dir=self.folder / "cache", lock_file=self.lock_file, **options)


@pytest.fixture
def room(tmp_path: Path, server: FileServer) -> Room:
    return Room(tmp_path, dataclasses.replace(MODELS["GoogLeNet"], weights_url=server.url))


def test_the_first_download_is_cached_and_pinned(server: FileServer, room: Room) -> None:
    """The lock file holds url, SHA-256 and size; nothing but the file stays in the cache."""
    seen: list[tuple[int, int | None]] = []
    path = room.fetch(progress=lambda done, total: seen.append((done, total)))
    assert path == room.cached
    assert path.read_bytes() == server.content
    pin = {"url": server.url, "sha256": sha256_of_file(path), "size": len(server.content)}
    assert json.loads(room.lock_file.read_text()) == {"GoogLeNet": pin}
    assert list(path.parent.iterdir()) == [path]
    assert seen[0] == (0, len(server.content))
    assert seen[-1] == (len(server.content), len(server.content))
    assert seen == sorted(seen)


def test_a_cached_file_needs_no_network(server: FileServer, room: Room) -> None:
    """A second build does not ask the server, not even whether there is something new."""
    room.fetch()
    server.ranges.clear()
    assert room.fetch() == room.cached
    assert server.ranges == []


def test_a_cached_file_without_a_pin_is_pinned(server: FileServer, room: Room) -> None:
    """A lost lock file is written again from the cache, after the file was read."""
    room.fetch()
    room.lock_file.unlink()
    server.ranges.clear()
    room.fetch()
    assert json.loads(room.lock_file.read_text())["GoogLeNet"]["sha256"] == sha256_of_file(room.cached)
    assert server.ranges == []


def test_pins_of_other_models_stay(room: Room) -> None:
    """One entry is added, the rest of the lock file is kept."""
    other = {"url": "https://example.org/x", "sha256": "0" * 64, "size": 1}
    room.lock_file.write_text(json.dumps({"Xception41": other}))
    room.fetch()
    pins = json.loads(room.lock_file.read_text())
    assert pins.keys() == {"GoogLeNet", "Xception41"}
    assert pins["Xception41"] == other


def test_a_cut_connection_is_resumed_where_it_broke(server: FileServer, room: Room) -> None:
    """The second request asks for the rest only, and the whole is the file."""
    server.script = [cut]
    assert room.fetch().read_bytes() == server.content
    assert server.ranges[0] is None
    assert int(server.ranges[1].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_later_run_resumes_an_earlier_one(server: FileServer, room: Room) -> None:
    """The part and the server's name for it survive the process."""
    server.script = [cut]
    with pytest.raises(WeightsUnavailable, match="connection broke"):
        room.fetch(limits=dataclasses.replace(_QUICK, tries=1))
    kept_bytes = room.part.stat().st_size
    assert 0 < kept_bytes <= _CUT_BYTES
    assert not room.cached.exists()
    assert not room.lock_file.exists()
    assert room.fetch().read_bytes() == server.content
    assert server.ranges == [None, f"bytes={kept_bytes}-"]


def test_content_that_changed_meanwhile_is_fetched_from_its_beginning(server: FileServer, room: Room) -> None:
    """Two halves of two files are never joined: `If-Range` makes the server send the new one whole."""
    server.script = [cut]
    with pytest.raises(WeightsUnavailable):
        room.fetch(limits=dataclasses.replace(_QUICK, tries=1))
    server.content, server.etag = _weights(2), '"two"'
    assert room.fetch().read_bytes() == server.content


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.answer(
            206, handler.server.content[5:], {"Content-Range": f"bytes 5-9/{len(handler.server.content)}"}
        ),
        lambda handler: handler.answer(206, handler.server.content[5:]),
        status(416),
        lambda handler: handler.answer(200, handler.server.content),
    ],
)
def test_a_server_that_does_not_honour_the_range_is_noticed(
    server: FileServer, room: Room, answer: Callable[[Handler], None]
) -> None:
    """Another range, none at all, a refusal, or the whole file: in each case the download starts over."""
    server.script = [cut, answer]
    assert room.fetch().read_bytes() == server.content


def test_without_a_validator_the_download_starts_over(server: FileServer, room: Room) -> None:
    """Where the server has no name for the file, nothing says that its rest belongs to what is here."""
    server.etag = None
    server.script = [cut]
    assert room.fetch().read_bytes() == server.content
    assert server.ranges == [None, None]


@pytest.mark.parametrize("sent_bytes", [70_009, 100_000], ids=["between two chunks", "within a chunk"])
def test_a_file_in_chunks_is_taken_whole_or_not_at_all(server: FileServer, room: Room, sent_bytes: int) -> None:
    """Where no size is announced, a cut shows in the chunks; it is no end of the file."""
    server.script = [lambda handler: chunked(handler, sent_bytes), chunked]
    assert room.fetch().read_bytes() == server.content
    assert len(server.ranges) == 2


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_retried(server: FileServer, room: Room, code: int) -> None:
    """Twice refused, then answered."""
    server.script = [status(code), status(code)]
    assert room.fetch().read_bytes() == server.content
    assert len(server.ranges) == 3


def test_retries_end(server: FileServer, room: Room) -> None:
    """After the last try the error says what the server answered, and what else can be done."""
    server.script = [status(503)] * 9
    with pytest.raises(WeightsUnavailable, match=r"HTTP 503.*5 tries.*--weights FILE.*--weights seeded"):
        room.fetch()
    assert len(server.ranges) == 5


@pytest.mark.parametrize("code", [301, 302, 401, 403, 404, 410])
def test_lasting_failures_are_not_retried(server: FileServer, room: Room, code: int) -> None:
    """Asking again would not help; a redirection (as login pages do) is not followed."""
    server.script = [status(code, {"Location": server.url})]
    with pytest.raises(WeightsUnavailable, match=f"HTTP {code}"):
        room.fetch()
    assert len(server.ranges) == 1


def test_a_web_page_instead_of_weights_is_not_pinned(server: FileServer, room: Room) -> None:
    """HTTP 200 does not make a weight file: it has to read as a dict of float arrays first."""
    server.content = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(WeightsRejected, match=r"is no weight file.*<!DOCTYPE") as caught:
        room.fetch()
    assert server.url in str(caught.value)
    assert not room.lock_file.exists()
    assert not room.cached.exists()
    assert room.rejected.read_bytes() == server.content


def test_content_other_than_the_pinned_is_rejected_with_both_hashes(server: FileServer, room: Room) -> None:
    """The new file is set aside, the lock file stays as it is, and nothing is cached."""
    room.fetch()
    pinned = room.lock_file.read_bytes()
    room.cached.unlink()
    server.content, server.etag = _weights(2), '"two"'
    with pytest.raises(WeightsRejected) as caught:
        room.fetch()
    assert json.loads(pinned)["GoogLeNet"]["sha256"] in str(caught.value)
    assert sha256_of_file(room.rejected) in str(caught.value)
    assert room.rejected.read_bytes() == server.content
    assert room.lock_file.read_bytes() == pinned
    assert not room.cached.exists()


def test_a_cached_file_with_one_flipped_bit_is_set_aside_and_fetched_anew(server: FileServer, room: Room) -> None:
    """The flip is noticed although the file still loads; the run after that heals it."""
    room.fetch()
    damaged = bytearray(server.content)
    damaged[len(damaged) // 2] ^= 1
    room.cached.write_bytes(damaged)
    with pytest.raises(WeightsRejected, match=sha256_of_file(room.cached)):
        room.fetch()
    assert room.fetch().read_bytes() == server.content


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_file_over_the_limit_is_not_stored(server: FileServer, room: Room, is_announced: bool) -> None:
    """Whether the server says how much is coming or just goes on sending."""
    if not is_announced:

        def endless(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(handler.server.content)

        server.script = [endless]
    with pytest.raises(WeightsUnavailable, match="100000"):
        room.fetch(limits=dataclasses.replace(_QUICK, max_bytes=100_000))
    assert room.part.stat().st_size <= 100_000
    assert not room.cached.exists()


def test_an_encoded_answer_is_refused(server: FileServer, room: Room) -> None:
    """A body that has to be unpacked has no size that can be trusted."""
    server.script = [status(200, {"Content-Encoding": "gzip"})]
    with pytest.raises(WeightsUnavailable, match="gzip"):
        room.fetch()


def test_a_transfer_that_takes_too_long_ends(server: FileServer, room: Room) -> None:
    """A server that drips is not waited for for ever; what came stays, for the next run to go on from."""
    server.script = [drip]
    with pytest.raises(WeightsUnavailable, match="run again to resume"):
        room.fetch(limits=dataclasses.replace(_QUICK, total_timeout_s=0.5))
    kept_bytes = room.part.stat().st_size
    assert 0 < kept_bytes < 20_000
    assert room.fetch().read_bytes() == server.content
    assert server.ranges == [None, f"bytes={kept_bytes}-"]


def test_no_server_is_told_after_two_tries_and_with_a_way_out(room: Room) -> None:
    """A refused connection: two tries, and the options that need no network."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        room.spec = dataclasses.replace(room.spec, weights_url=f"http://127.0.0.1:{port}/x.pdparams")
        with pytest.raises(WeightsUnavailable, match=r"2 tries.*--weights FILE.*--weights seeded"):
            room.fetch(limits=TransferLimits())


def test_an_unknown_host_is_told_by_name(room: Room) -> None:
    """No name, no network: `.invalid` never resolves."""
    room.spec = dataclasses.replace(room.spec, weights_url="https://weights.invalid/x.pdparams")
    with pytest.raises(WeightsUnavailable, match=r"weights\.invalid"):
        room.fetch()


def test_two_downloads_of_one_file_do_not_mix(room: Room) -> None:
    """The second process is told that the first is at it."""
    room.part.parent.mkdir()
    with room.part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WeightsUnavailable, match="another process"):
            room.fetch()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"GoogLeNet": 1}', '{"GoogLeNet": {"url": "", "sha256": "abc", "size": 1}}', "\udcff"]
)
def test_a_damaged_lock_file_is_refused_and_not_overwritten(room: Room, content: str) -> None:
    """A lock file that cannot be understood is a reason to stop, not to pin anew."""
    data = content.encode("utf-8", "surrogateescape")
    room.lock_file.write_bytes(data)
    with pytest.raises(WeightsRejected, match="lock file"):
        room.fetch()
    assert room.lock_file.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_told(room: Room) -> None:
    """Here a file lies where the folder should be."""
    (room.folder / "cache").write_text("in the way")
    with pytest.raises(WeightsUnavailable, match="cannot be stored"):
        room.fetch()
