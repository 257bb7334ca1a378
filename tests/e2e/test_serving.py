"""`serving` against the real tritonserver, on models that answer at once."""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from serving import ServeOptions, Server, probe, read_access, serve
from serving.down import stop_server
from serving.errors import (
    AlreadyRunning,
    ModelFailed,
    NotRunning,
    RepositoryInvalid,
    ServerDied,
    StartTimeout,
    UnsupportedEnvironment,
    UsageError,
)
from serving.guard import SHARED_MEMORY
from serving.ports import Ports
from serving.probe import ProbeFailed
from serving.process import claim_ports
from serving.supervise import WatchPolicy, failure_of, supervise

EXIT_TIMEOUT_S = 5
END_WITHIN_S = 15.0
BROKEN_MODEL = "class TritonPythonModel:\n    def initialize(self, args):\n        import no_such_module\n"
SHORT_QUEUE = "dynamic_batching { default_queue_policy { timeout_action: REJECT max_queue_size: 2 } }\n"
CONSTANT_MODEL = """\
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        output = pb_utils.Tensor("probabilities", numpy.array({values}, numpy.float32))
        return [pb_utils.InferenceResponse([output]) for _ in requests]
"""
SLOW_MODEL = (
    CONSTANT_MODEL.replace("import numpy\n", "import time, numpy\n", 1)
    .format(values="[[0.5, 0.5]]")
    .replace("        output", "        time.sleep(0.2)\n        output")
)
STUCK_MODEL = SLOW_MODEL.replace(
    "time.sleep(0.2)", "self.calls = getattr(self, 'calls', 0) + 1\n        time.sleep(60 if self.calls > 1 else 0)"
)
FORKING_MODEL = (
    CONSTANT_MODEL.format(values="[[0.5, 0.5]]")
    + """
    def initialize(self, args):
        import subprocess
        subprocess.Popen(["sh", "-c", "sleep 600; exit", args["model_repository"]], start_new_session=True)
"""
)
STUBBORN_MODEL = """\
import os, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(60)
"""


def start(repository: Path, run_dir: Path, **options: object) -> Server:
    return serve(repository, ports="auto", run_dir=run_dir, exit_timeout_s=EXIT_TIMEOUT_S, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(write_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests that only look."""
    folder = tmp_path_factory.mktemp("shared")
    with start(write_tiny_model(folder / "repository"), folder / "run") as running:
        yield running


@pytest.fixture
def own_server(add_tiny_model: Callable[..., Path], tmp_path: Path) -> Iterator[Server]:
    """One for a test that breaks it."""
    with start(add_tiny_model(), tmp_path / "run") as running:
        yield running


def processes_mentioning(text: str) -> list[int]:
    """Live processes, this one apart, whose command line contains the text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if text.encode() in command:
                found.append(int(folder.name))
    return found


def wait_until(is_true: Callable[[], bool], within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)  # a pause between two looks
    return True


def regions_of(prefix: str) -> list[str]:
    return [region.name for region in SHARED_MEMORY.glob(f"{prefix}*")]


def region_prefix(server: Server) -> str:
    return server.probe().server_id()


def children_of(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def post(server: Server, path: str, token: str | None = None) -> int:
    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=5)
    connection.request("POST", path, "{}", {"inception-token": token} if token else {})
    status = connection.getresponse().status
    connection.close()
    return status


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def start_cli(repository: Path, run_dir: Path, *arguments: object) -> tuple[subprocess.Popen[str], dict[str, object]]:
    """`serving up` in a process of its own; returns it with its ready message."""
    command = [sys.executable, "-m", "serving", "up", "--repository", str(repository), "--run-dir", str(run_dir)]
    command += ["--ports", "auto", "--exit-timeout-s", str(EXIT_TIMEOUT_S), "--json", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_a_started_server_answers_and_a_stopped_one_leaves_nothing(add_tiny_model, tmp_path):
    """Between start and stop the model answers rightly; afterwards there is no process, no region, no access file."""
    repository = add_tiny_model()
    with start(repository, tmp_path / "run") as server:
        prefix = region_prefix(server)
        assert regions_of(prefix), "the model's process talks through shared memory of our name"
        assert server.first_inference_s.keys() == {"tiny"}
        client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        image = tritonclient.grpc.InferInput("image", [1, 4, 4, 3], "UINT8")
        image.set_data_from_numpy(numpy.full((1, 4, 4, 3), 51, numpy.uint8))
        probabilities = client.infer("tiny", [image], client_timeout=10).as_numpy("probabilities")
        client.close()
        numpy.testing.assert_allclose(probabilities, [[0.8, 0.2]], atol=1e-6)
    assert processes_mentioning(str(repository)) == []
    assert regions_of(prefix) == []
    assert not server.access_path.exists()


def test_ready_means_that_every_model_has_answered(add_tiny_model, tmp_path):
    """Before anybody has asked for anything, the server itself counts an answer of each model; both have their time."""
    add_tiny_model("first")
    with start(add_tiny_model("second"), tmp_path / "run") as server:
        assert server.first_inference_s.keys() == {"first", "second"} == set(server.models)
        assert all(server.probe().successes(server.metrics_url, model) > 0 for model in server.models)
        assert server.ready_s >= sum(server.first_inference_s.values()) > 0


@pytest.mark.parametrize(
    ("last_command", "error", "says"),
    [("exit 3", ServerDied, "exit code 3"), ("exec sleep 60", StartTimeout, "not begun to answer")],
)
def test_a_failed_start_without_a_run_dir_leaves_no_folder_and_loses_no_reason(
    add_tiny_model, tmp_path, monkeypatch, *, last_command, error, says
):
    """The log goes with its folder, so the message quotes its end and names no file that is gone."""
    programs, temporary = tmp_path / "bin", tmp_path / "temporary"
    programs.mkdir()
    temporary.mkdir()
    (programs / "tritonserver").write_text(f"#!/bin/sh\necho the disk is on fire\n{last_command}\n")
    (programs / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(error, match=f"{says}.*the disk is on fire") as failed:
        serve(add_tiny_model(), ports="auto", device="cpu", ready_timeout_s=5.0, exit_timeout_s=EXIT_TIMEOUT_S)
    assert list(temporary.iterdir()) == []
    assert str(temporary) not in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_model_that_fails_to_load_leaves_no_temporary_folder(add_tiny_model, tmp_path, monkeypatch):
    """The same server can be started once more, mended, with a folder that then goes with it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    repository = add_tiny_model("broken", BROKEN_MODEL)
    server = Server(ServeOptions(repository, ports="auto", exit_timeout_s=EXIT_TIMEOUT_S))
    with pytest.raises(ModelFailed, match="no_such_module") as failed:
        server.start()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert str(tmp_path / "temporary") not in str(failed.value)
    (repository / "broken" / "1" / "model.py").write_text(CONSTANT_MODEL.format(values="[[0.5, 0.5]]"))
    with server:
        assert server.log_path.is_file()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_wheels_server_on_a_host_for_others_warns_and_restricts_inference(add_tiny_model, tmp_path):
    """It is old: without the token nothing can be asked of its models, and one line on stderr says why."""
    process, ready = start_cli(add_tiny_model(), tmp_path / "run", "--host", "0.0.0.0")  # noqa: S104
    token = read_access(tmp_path / "run").token
    with pytest.raises(ProbeFailed, match="403"):
        probe.Probe(str(ready["http_url"])).infer("tiny")
    assert probe.Probe(str(ready["http_url"]), token).infer("tiny") > 0
    process.terminate()
    _, messages = process.communicate(timeout=END_WITHIN_S)
    (warning,) = [line for line in messages.splitlines() if "WARNING" in line]
    for part in ("0.0.0.0", "24.10", "CVEs", "SECURITY.md"):  # noqa: S104
        assert part in warning


def test_the_access_file_is_for_its_owner_only_and_tells_all(server):
    """Mode 0600; addresses, token and pid are those of the server."""
    assert stat.S_IMODE(server.access_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.log_path.stat().st_mode) == 0o600
    access = read_access(server.run_dir)
    assert (access.grpc_url, access.http_url) == (server.grpc_url, server.http_url)
    assert (access.token, access.pid) == (server.token, server.pid)
    assert Path(f"/proc/{access.pid}/exe").resolve().name == "tritonserver"


def test_every_port_listens_on_loopback_only(server):
    """No listening socket of the server's process is bound to another address than 127.0.0.1."""
    links = [str(fd.readlink()) for fd in Path(f"/proc/{server.pid}/fd").iterdir() if fd.is_symlink()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    addresses, ports = set(), set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:  # listening
                addresses.add(local.partition(":")[0])
                ports.add(int(local.partition(":")[2], 16))
    loopback = "0100007F"
    mapped_into_ipv6 = "0000000000000000FFFF0000" + loopback  # how gRPC's dual-stack socket spells 127.0.0.1
    assert addresses <= {loopback, mapped_into_ipv6}
    urls = (server.grpc_url, server.http_url, server.metrics_url)
    assert ports == {int(url.rpartition(":")[2].partition("/")[0]) for url in urls}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/tiny/load",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
def test_restricted_http_apis_want_the_token(server, path):
    """Without it 403, with it another answer; inference stays open."""
    assert post(server, path) == http.client.FORBIDDEN
    assert post(server, path, "wrong-token") == http.client.FORBIDDEN
    assert post(server, path, server.token) != http.client.FORBIDDEN
    assert probe.Probe(server.http_url).infer("tiny") > 0


def test_restricted_grpc_apis_want_the_token(server):
    """Without it UNAVAILABLE and the word 'restricted', with it an answer."""
    client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    with pytest.raises(InferenceServerException, match="restricted") as refused:
        client.get_model_repository_index(client_timeout=10)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    headers = {"triton-grpc-protocol-inception-token": server.token}
    assert [m.name for m in client.get_model_repository_index(headers, client_timeout=10).models] == ["tiny"]
    client.close()


def test_inference_can_be_put_behind_the_token_too(add_tiny_model, tmp_path):
    """Then a call without it is refused, and our own probe still gets through."""
    with start(add_tiny_model(), tmp_path / "run", is_inference_restricted=True) as server:
        with pytest.raises(ProbeFailed, match="403"):
            probe.Probe(server.http_url).infer("tiny")
        assert server.probe().infer("tiny") > 0


def test_only_the_models_asked_for_are_loaded(add_tiny_model, tmp_path):
    """The others are in the repository, but not served; a name that is not there is refused with those that are."""
    add_tiny_model("first")
    repository = add_tiny_model("second")
    with start(repository, tmp_path / "run", models=["second"]) as server:
        assert server.models == ["second"]
        assert server.probe().served_models() == ["second"]
        with pytest.raises(ProbeFailed, match="first"):
            server.probe().infer("first")
    with pytest.raises(UsageError, match="holds no model named third; it holds first, second"):
        start(repository, tmp_path / "run", models=["third"])


def test_a_port_in_use_is_one_line_exit_code_1_and_nothing_left(add_tiny_model, tmp_path):
    """The message names the port and the option."""
    repository = add_tiny_model()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_cli(
            "up", "--repository", repository, "--run-dir", tmp_path / "run",
            "--http-port", 0, "--grpc-port", port, "--metrics-port", 0,
        )  # fmt: skip
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"Port {port} on 127.0.0.1 is in use" in result.stderr
    assert "--grpc-port" in result.stderr
    assert processes_mentioning(str(repository)) == []


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_chosen_port_lost_to_another_program_is_chosen_again(add_tiny_model, tmp_path, monkeypatch, name):
    """Between our look and the server's bind a port may be taken: the server ends, and is started on other ports."""
    lost: list[Ports] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def lose_the_first(host: str, wanted: Ports) -> Ports:
            ports = claim_ports(host, wanted)
            if not lost:
                lost.append(ports)
                ports = Ports(**{**vars(ports), name: taken.getsockname()[1]})
            return ports

        monkeypatch.setattr("serving.process.claim_ports", lose_the_first)
        with start(add_tiny_model(), tmp_path / "run") as server:
            assert lost
            assert server.probe().infer("tiny") > 0
            assert str(taken.getsockname()[1]) not in server.grpc_url + server.http_url + server.metrics_url


def test_a_broken_model_is_one_line_with_its_reason_and_nothing_left(add_tiny_model, tmp_path):
    """The reason is the model's own exception with its place, not a page of log."""
    add_tiny_model("works")
    repository = add_tiny_model("broken", BROKEN_MODEL)
    with pytest.raises(ModelFailed) as failed:
        start(repository, tmp_path / "run")
    assert "broken failed to load" in str(failed.value)
    assert "ModuleNotFoundError: No module named 'no_such_module' (model.py, line 3)" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert processes_mentioning(str(repository)) == []
    assert not (tmp_path / "run" / "serving.json").exists()


def test_a_model_without_cpu_config_is_refused_by_name_before_the_start(add_tiny_model, tmp_path):
    """tritonserver would fall back to the GPU config; here nothing is started, not even a log."""
    add_tiny_model("fine")
    repository = add_tiny_model("gpu_only", has_cpu_config=False)
    with pytest.raises(RepositoryInvalid, match=r"gpu_only has no .*configs/cpu\.pbtxt"):
        start(repository, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_backend_than_asked_for_is_refused(add_tiny_model, tmp_path):
    """A CPU config that names another backend does not pass for CPU serving."""
    repository = add_tiny_model()
    config = repository / "tiny" / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text().replace('"python"', '"onnxruntime"'))
    with pytest.raises(ModelFailed, match="onnxruntime"):
        start(repository, tmp_path / "run")


def test_a_model_that_does_not_answer_is_a_timeout_not_ready(add_tiny_model, tmp_path):
    """Loaded is not ready: the first inference must be answered within the time given, and then nothing is left."""
    repository = add_tiny_model("stubborn", STUBBORN_MODEL)
    with pytest.raises(StartTimeout, match="stubborn"):
        start(repository, tmp_path / "run", ready_timeout_s=6.0)  # enough to load it
    assert processes_mentioning(str(repository)) == []


@pytest.mark.parametrize(
    ("values", "message"), [("[[0.5, float('nan')]]", "not finite"), ("[[1.0]]", r"FP32 \[1, 1\], not FP32 \[2\]")]
)
def test_a_model_that_breaks_its_own_configuration_is_not_ready(add_tiny_model, tmp_path, values, message):
    """tritonserver passes such answers on with 200; the first inference looks at them."""
    with pytest.raises(ModelFailed, match=message):
        start(add_tiny_model("wrong", CONSTANT_MODEL.format(values=values)), tmp_path / "run")


def test_the_wheel_is_not_asked_to_serve_on_a_gpu(add_tiny_model, tmp_path):
    """It has no TensorRT backend: said before anything is started."""
    with pytest.raises(UnsupportedEnvironment, match="no TensorRT backend"):
        start(add_tiny_model(), tmp_path / "run", device="gpu")


def test_a_run_directory_serves_one_server_at_a_time(server):
    """A second one is refused; the first goes on."""
    with pytest.raises(AlreadyRunning, match="serving down"):
        start(server.run_dir.parent / "repository", server.run_dir)
    assert server.probe().infer("tiny") > 0


def test_a_dead_server_is_noticed_and_can_be_restarted(own_server):
    """SIGKILL of tritonserver: stubs and shared memory go at once; a restart serves on the same address and token."""
    prefix, address, token = region_prefix(own_server), own_server.http_url, own_server.token
    os.kill(own_server.pid, signal.SIGKILL)
    assert own_server.wait(END_WITHIN_S)
    assert not own_server.was_asked_to_stop()
    assert regions_of(prefix) == []
    own_server.restart()
    assert (own_server.http_url, own_server.token) == (address, token)
    assert own_server.probe().infer("tiny") > 0


def test_a_process_that_a_model_detached_ends_too(add_tiny_model, tmp_path):
    """Also one in a session of its own, which no signal to the server's group would reach."""
    repository = add_tiny_model("forking", FORKING_MODEL)
    with start(repository, tmp_path / "run") as server:
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(END_WITHIN_S)
        assert processes_mentioning(str(repository)) == []


def test_ctrl_c_ends_serving_up_cleanly(add_tiny_model, tmp_path):
    """Exit code 0, and no process, region or access file."""
    repository = add_tiny_model()
    process, ready = start_cli(repository, tmp_path / "run")
    prefix = probe.Probe(str(ready["http_url"])).server_id()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=END_WITHIN_S)
    assert process.returncode == 0
    assert processes_mentioning(str(repository)) == []
    assert regions_of(prefix) == []
    assert not (tmp_path / "run" / "serving.json").exists()


def test_sigkill_of_serving_up_ends_server_stubs_and_shared_memory(add_tiny_model, tmp_path):
    """Nobody is left to clean up but the guard, which does."""
    repository = add_tiny_model()
    process, ready = start_cli(repository, tmp_path / "run")
    prefix = probe.Probe(str(ready["http_url"])).server_id()
    assert len(processes_mentioning(str(repository))) == 3, "serving up, tritonserver and its stub"
    process.kill()
    process.communicate(timeout=END_WITHIN_S)
    assert wait_until(lambda: processes_mentioning(str(repository)) == [], END_WITHIN_S)
    assert wait_until(lambda: regions_of(prefix) == [], END_WITHIN_S)
    assert not (tmp_path / "run" / "serving.json").exists()


def test_sigkill_of_the_guard_ends_the_server_and_what_is_left_is_swept(own_server):
    """The kernel ends the server and its stub follows; shared memory that is left is removed later, here by `down`."""
    prefix = region_prefix(own_server)
    os.kill(read_access(own_server.run_dir).guard_pid, signal.SIGKILL)
    assert own_server.wait(END_WITHIN_S)
    assert not own_server.was_asked_to_stop()
    repository = str(own_server.run_dir.parent / "repository")
    assert wait_until(lambda: processes_mentioning(repository) == [], END_WITHIN_S)
    (SHARED_MEMORY / f"{prefix}left-over").touch()
    with pytest.raises(NotRunning, match="gone already"):
        stop_server(own_server.run_dir)
    assert regions_of(prefix) == []


def test_serving_up_restarts_a_server_whose_model_process_died(add_tiny_model, tmp_path):
    """tritonserver goes on saying that it is ready; one inference in turn finds out, and the service comes back."""
    repository = add_tiny_model()
    process, ready = start_cli(repository, tmp_path / "run", "--watch-s", 1)
    asking = probe.Probe(str(ready["http_url"]))
    first_id = asking.server_id()
    for stub in children_of(int(str(ready["pid"]))):
        os.kill(stub, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return asking.server_id() != first_id and asking.infer("tiny") > 0
        except ProbeFailed:
            return False

    assert wait_until(is_back, 30.0)
    process.terminate()
    _, messages = process.communicate(timeout=END_WITHIN_S)
    assert process.returncode == 0
    assert "restarting the server" in messages
    assert processes_mentioning(str(repository)) == []


def test_a_busy_model_is_not_taken_for_a_dead_one(add_tiny_model, tmp_path):
    """Under a load that sheds most calls it still answers some, and is left alone."""
    repository = add_tiny_model("busy", SLOW_MODEL)
    config = repository / "busy" / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text() + SHORT_QUEUE)
    stop = threading.Event()

    def hammer(url: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(ProbeFailed):  # shed
                probe.Probe(url).infer("busy")

    with start(repository, tmp_path / "run") as server:
        threads = [threading.Thread(target=hammer, args=[server.http_url]) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            assert [failure_of(server, "busy", 1.0) for _ in range(3)] == [None] * 3
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_model_that_hangs_later_is_taken_for_dead(add_tiny_model, tmp_path):
    """Ready once is not ready for ever."""
    with start(add_tiny_model("stuck", STUCK_MODEL), tmp_path / "run") as server:
        assert "stuck does not answer" in str(failure_of(server, "stuck", 0.5))


def test_a_server_that_keeps_failing_is_given_up(own_server):
    """Restarts are counted, and the last word says what failed."""
    os.kill(own_server.pid, signal.SIGKILL)
    with pytest.raises(ServerDied, match="tritonserver ended without being asked, after 0 restarts"):
        supervise(own_server, WatchPolicy(cycle_s=0, max_restarts=0), print)


def test_health_and_down_find_the_server_by_its_run_directory(add_tiny_model, tmp_path):
    """`health` asks every model, `down` stops exactly this server, and both say plainly when there is none."""
    run_dir = tmp_path / "run"
    process, _ = start_cli(add_tiny_model(), run_dir)
    health = run_cli("health", "--run-dir", run_dir, "--json")
    assert health.returncode == 0, health.stderr
    assert json.loads(health.stdout)["models"]["tiny"]["is_well"]
    assert run_cli("health", "--run-dir", run_dir, "--model", "absent").returncode == 4
    assert run_cli("down", "--run-dir", run_dir).returncode == 0
    _, messages = process.communicate(timeout=END_WITHIN_S)
    assert process.returncode == 0
    assert "stopped on request" in messages
    assert run_cli("down", "--run-dir", run_dir).returncode == 1
    assert run_cli("health", "--run-dir", run_dir).returncode == 1


def test_the_probe_runs_alone_as_a_container_health_check(own_server, tmp_path):
    """One mounted file, no package, no environment: exit code 0, and 1 once the model's process is dead."""
    alone = tmp_path / "probe.py"
    alone.write_bytes(Path(probe.__file__).read_bytes())

    def check(*arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(alone), "--url", own_server.http_url, "--timeout-s", "3", *arguments]
        environment = {"INCEPTION_TOKEN": token} if token else {}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    assert check("--model", "tiny").returncode == 0
    assert check(token=own_server.token).stdout.startswith("ok     tiny")
    assert "name them with --model" in check().stderr
    for stub in children_of(own_server.pid):
        os.kill(stub, signal.SIGKILL)
    dead = check("--model", "tiny")
    assert (dead.returncode, "FAILED tiny" in dead.stderr) == (1, True)


def test_a_server_started_from_a_thread_outlives_the_thread(add_tiny_model, tmp_path):
    """The server is tied to the process that asked for it, not to the thread."""
    server = Server(
        ServeOptions(add_tiny_model(), ports="auto", run_dir=tmp_path / "run", exit_timeout_s=EXIT_TIMEOUT_S)
    )
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert not server.wait(1.0)
        assert server.probe().infer("tiny") > 0
    finally:
        server.stop()
