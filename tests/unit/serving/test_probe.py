import contextlib
import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.probe import DEFAULT_TOTAL_S, Probe, ProbeFailed, main

CONFIG = {
    "max_batch_size": 1,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["1"]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["1"]}],
}


class BusyServer(BaseHTTPRequestHandler):
    """What the probe asks of Triton, each inference after `delay_s`."""

    delay_s = 0.2
    models = 16

    def do_GET(self):
        self._send(json.dumps(CONFIG | {"name": self.path.split("/")[3]}).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/index"):
            rows = [{"name": f"m{number:02}", "state": "READY"} for number in range(self.models)]
            return self._send(json.dumps(rows).encode())
        time.sleep(self.delay_s)  # what is being tested
        parameters = {"binary_data_size": 4}
        output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "parameters": parameters}
        header = json.dumps({"outputs": [output]}).encode()
        return self._send(header + struct.pack("<f", 0.5), {"Inference-Header-Content-Length": str(len(header))})

    def _send(self, body, headers=None):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The test's output stays ours."""


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A probe that gives up hangs up."""


@pytest.fixture
def url():
    """Of a server with sixteen busy models."""
    server = QuietServer(("127.0.0.1", 0), BusyServer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("url", ["https://host:8000", "http://", "http://host:99999", "http://[::1"])
def test_an_address_that_is_none_is_told_so(url):
    """No traceback, and nothing is asked."""
    with pytest.raises(ProbeFailed, match="is not the address of a server"):
        Probe(url)


def test_a_server_that_is_not_there_is_exit_code_1(capsys):
    """Port 9 of this machine: nobody listens there."""
    assert main(["--url", "http://127.0.0.1:9", "--model", "m", "--timeout-s", "1"]) == 1
    assert "FAILED m: http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_every_model_answers_in_the_time_for_all(url, capsys):
    """One line a model."""
    assert main(["--url", url, "--total-timeout-s", "30"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["ok", f"m{number:02}"] for number in range(16)
    ]


def test_models_that_were_not_reached_are_named(url, capsys):
    """Each would get its own time-out; together they get less, and what is over is said rather than cut off."""
    begun = time.monotonic()
    assert main(["--url", url, "--timeout-s", "10", "--total-timeout-s", "0.5"]) == 1
    assert time.monotonic() - begun < 2
    captured = capsys.readouterr()
    assert captured.out.startswith("ok     m00")
    answered, failed = captured.out.splitlines(), captured.err.splitlines()
    assert len(answered) + len(failed) == 16
    assert failed[-1] == "FAILED m15: not reached, the models before it took all the time"
    assert all("not reached" in line for line in failed[1:])


def test_a_model_that_is_stuck_ends_with_the_time_for_all(url, monkeypatch, capsys):
    """Not with its own time-out, which is longer."""
    monkeypatch.setattr(BusyServer, "delay_s", 5)
    begun = time.monotonic()
    assert main(["--url", url, "--timeout-s", "10", "--total-timeout-s", "0.5"]) == 1
    assert time.monotonic() - begun < 2
    stuck, *others = capsys.readouterr().err.splitlines()
    assert stuck.startswith("FAILED m00: no answer from ")
    assert ["not reached" in line for line in others] == [True] * 15


def test_a_model_gets_no_more_than_what_is_left(url, monkeypatch):
    """Its configuration and its inference too: both end with the deadline, not each with a time-out of its own."""
    monkeypatch.setattr(BusyServer, "delay_s", 5)
    begun = time.monotonic()
    with pytest.raises(ProbeFailed, match=r"no answer from .*/infer within 0\.[0-9]+ s"):
        Probe(url, timeout_s=10, deadline_s=begun + 0.3).infer("m00")
    assert time.monotonic() - begun < 2
    with pytest.raises(ProbeFailed, match="no time was left"):
        Probe(url, timeout_s=10, deadline_s=begun).infer("m00")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"])
def test_a_server_that_drips_its_answer_does_not_hold_the_probe(answer):
    """A socket's time-out is for each byte that comes; the probe's is for the whole of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(answer)
                for _ in range(200):
                    connection.sendall(b"1")
                    gone.wait(0.1)

        gone = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(ProbeFailed, match=r"no answer from .* within 0\.5 s"):
            Probe(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.5).server_id()
        assert time.monotonic() - begun < 5
        gone.set()
        thread.join(timeout=30)


def test_the_probe_ends_before_the_container_engine_loses_patience():
    """What docker-compose.yml gives the health check, which asks with the default."""
    compose = (Path(__file__).parents[3] / "docker-compose.yml").read_text()
    (given_s,) = re.findall(r"^    timeout: ([0-9]+)s$", compose, re.MULTILINE)
    assert int(given_s) > DEFAULT_TOTAL_S
