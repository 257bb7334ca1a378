"""Start a tritonserver, know that it serves, and end it so that nothing is left.

with serve(Path("model_repository"), ports="auto") as server:
    InceptionClient(server.grpc_url)
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from serving import server_log
from serving.access import ACCESS_FILE, Access, choose_token, lock_run_dir, remove_access, write_access
from serving.binary import Binary, find_binary
from serving.errors import NotRunning, PortInUse, ServerDied, UnsupportedEnvironment
from serving.exposure import exposure_warning, is_exposed
from serving.flags import Device, FlagFacts, server_flags
from serving.guarded import GuardedServer
from serving.ports import FREE_PORTS, Ports, claim_ports, url_host
from serving.probe import Probe
from serving.readiness import Starting
from serving.repository import gpu_compute_capabilities, models_to_serve
from serving.shared_memory import prefix_of, start_time_of, sweep_dead_regions

_LOGGER = logging.getLogger(__name__)  # where nothing is configured, warnings go to stderr
_PORT_ATTEMPTS = 5
_LOG_NAME = "tritonserver.log"
_HASTY_GRACE_S = 1.0  # for a server that does not work anyway


@dataclass(frozen=True)
class ServeOptions:
    """How to serve one repository.

    `models=None` serves all of it, `device=None` takes the GPU where the binary can use one, `token=None` takes
    INCEPTION_TOKEN or a random one, `run_dir=None` keeps log and `serving.json` in a folder that goes with the server,
    also with one that failed to start (the error then quotes the log's end). The wheel's server on a `host` that other
    machines can reach has its inference restricted, whatever is asked, and a warning is logged.
    """

    repository: Path
    models: Sequence[str] | None = None
    host: str = "127.0.0.1"
    ports: Ports | Literal["auto"] = Ports()  # noqa: RUF009 - frozen
    device: Device | None = None
    token: str | None = None
    is_inference_restricted: bool = False
    run_dir: Path | None = None
    log_path: Path | None = None
    cache_dir: Path | None = None
    ready_timeout_s: float = 120.0
    exit_timeout_s: int = 10


class Server:
    """One tritonserver: started by `start`, ended by `stop` or with this process, whichever comes first.

    Once `start` has returned, every model of `models` has answered one inference: `first_inference_s` has its seconds,
    `ready_s` those of the whole start.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._wanted_ports = FREE_PORTS if options.ports == "auto" else options.ports
        self._ports = self._wanted_ports
        self._temporary_dir: Path | None = None
        self._process: GuardedServer | None = None
        self.token = choose_token(options.token)
        self.device: Device = "cpu"
        self.is_inference_restricted = options.is_inference_restricted
        self.models: list[str] = []
        self.first_inference_s: dict[str, float] = {}
        self.ready_s = math.nan
        self._place_files(options.run_dir or Path())

    @property
    def grpc_url(self) -> str:
        """HOST:PORT, as gRPC clients take it."""
        return f"{url_host(self._options.host)}:{self._ports.grpc}"

    @property
    def http_url(self) -> str:
        """The address of the HTTP API."""
        return f"http://{url_host(self._options.host)}:{self._ports.http}"

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus metrics."""
        return f"http://{url_host(self._options.host)}:{self._ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself. Raises `NotRunning` before `start` and after `stop`."""
        return self._running().pid

    def start(self) -> Self:
        """Start, and wait until every model has answered; else raise a `ServingError` and leave nothing behind.

        What stays after a failure is a `run_dir` or a log file that was asked for.
        """
        started_s = time.monotonic()
        options = self._options
        binary = find_binary(options.cache_dir)
        self.device = _device_for(binary, options.device)
        self.models = models_to_serve(options.repository, options.models, self.device)
        must_warn = is_exposed(binary, options.host)
        self.is_inference_restricted = options.is_inference_restricted or must_warn
        sweep_dead_regions()
        if options.run_dir is None and self._temporary_dir is None:
            self._temporary_dir = Path(tempfile.mkdtemp(prefix="inception-serving-"))
            self._place_files(self._temporary_dir)
        try:
            self._start_on_ports(binary, started_s + options.ready_timeout_s)
        except BaseException:
            self._remove_temporary_dir()
            raise
        if must_warn:
            _LOGGER.warning(exposure_warning(binary, options.host))
        self.ready_s = time.monotonic() - started_s
        return self

    def stop(self, grace_s: float | None = None) -> None:
        """End the server and wait for its end; requests in flight have the exit timeout, or `grace_s`."""
        self._end_process(grace_s)
        self._remove_temporary_dir()

    def restart(self) -> Self:
        """End what is left of the server and start it on the same ports with the same token."""
        self._end_process(_HASTY_GRACE_S)
        self._wanted_ports = self._ports
        return self.start()

    def wait(self, timeout_s: float) -> bool:
        """True once the server has ended by itself or by `serving down`, False if it lives after `timeout_s`."""
        return self._running().wait(timeout_s)

    def was_asked_to_stop(self) -> bool:
        """Whether a server that has ended was told to, rather than dead."""
        return self._running().was_asked

    def probe(self, timeout_s: float = 5.0) -> Probe:
        """A probe of this server."""
        return Probe(self.http_url, self.token, timeout_s)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _place_files(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.log_path = self._options.log_path or run_dir / _LOG_NAME
        self.access_path = run_dir / ACCESS_FILE

    def _remove_temporary_dir(self) -> None:
        if self._temporary_dir is not None:
            shutil.rmtree(self._temporary_dir, ignore_errors=True)
            self._temporary_dir = None

    def _is_log_kept(self) -> bool:
        """Whether the log is still there after a failed start."""
        return self._temporary_dir is None or self._options.log_path is not None

    def _running(self) -> GuardedServer:
        if self._process is None:
            raise NotRunning("This server is not running: start it first.")
        return self._process

    def _end_process(self, grace_s: float | None) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop(grace_s)

    def _start_on_ports(self, binary: Binary, deadline_s: float) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._ports = claim_ports(self._options.host, self._wanted_ports)
            try:
                self._start_once(binary, deadline_s)
            except PortInUse as error:  # taken between our look and the server's bind
                if attempt == _PORT_ATTEMPTS or error.port is None or self._wanted_ports.is_fixed(error.port):
                    raise
            else:
                return

    def _start_once(self, binary: Binary, deadline_s: float) -> None:
        lock = lock_run_dir(self.run_dir)
        try:
            process = GuardedServer(self.log_path, lock)
        finally:
            os.close(lock)  # the guard has its own copy
        try:
            shm_prefix = prefix_of(process.guard_pid)
            process.launch(
                command=[str(binary.path), *server_flags(self._flag_facts(binary, shm_prefix))],
                environment=dict(binary.environment),
                shm_prefix=shm_prefix,
                access_path=self.access_path,
                exit_timeout_s=self._options.exit_timeout_s,
            )
            starting = Starting(
                process=process,
                http_url=self.http_url,
                token=self.token,
                server_id=shm_prefix,
                metrics_url=self.metrics_url,
                host=self._options.host,
                log_path=self.log_path,
                is_log_kept=self._is_log_kept(),
                device=self.device,
                deadline_s=deadline_s,
            )
            self.first_inference_s = starting.wait_until_serving(self.models)
            self._publish_access(process)
        except BaseException:  # a Ctrl-C must not leave a server either
            process.stop(_HASTY_GRACE_S)
            raise
        self._process = process

    def _flag_facts(self, binary: Binary, shm_prefix: str) -> FlagFacts:
        options = self._options
        return FlagFacts(
            repository=options.repository.resolve(),
            device=self.device,
            host=options.host,
            ports=self._ports,
            token=self.token,
            server_id=shm_prefix,
            shm_prefix=shm_prefix,
            exit_timeout_s=options.exit_timeout_s,
            release=binary.release,
            backend_directory=binary.backend_directory,
            models=self.models if options.models else None,
            is_inference_restricted=self.is_inference_restricted,
        )

    def _publish_access(self, process: GuardedServer) -> None:
        access = Access(
            grpc_url=self.grpc_url,
            http_url=self.http_url,
            metrics_url=self.metrics_url,
            token=self.token,
            pid=process.pid,
            guard_pid=process.guard_pid,
            guard_started=start_time_of(process.guard_pid) or 0,
        )
        write_access(self.run_dir, access)
        if process.wait(0):  # its guard may have ended before there was a file to remove
            remove_access(self.run_dir, process.guard_pid)
            raise ServerDied(f"tritonserver ended right after it was ready. {server_log.ending(self.log_path)}")


def serve(
    repository: Path,
    *,
    models: Sequence[str] | None = None,
    ports: Ports | Literal["auto"] = Ports(),  # noqa: B008 - frozen
    host: str = "127.0.0.1",
    device: Device | None = None,
    token: str | None = None,
    is_inference_restricted: bool = False,
    run_dir: Path | None = None,
    log_path: Path | None = None,
    cache_dir: Path | None = None,
    ready_timeout_s: float = 120.0,
    exit_timeout_s: int = 10,
) -> Server:
    """A running server whose every model has answered; stop it with `stop()`, or by leaving its `with` block.

    The arguments are those of `ServeOptions`. Raises a `ServingError`; then nothing is left running and,
    without `run_dir`, no folder: the message carries what the log said.
    """
    return Server(
        ServeOptions(
            repository=Path(repository),
            models=models,
            ports=ports,
            host=host,
            device=device,
            token=token,
            is_inference_restricted=is_inference_restricted,
            run_dir=run_dir,
            log_path=log_path,
            cache_dir=cache_dir,
            ready_timeout_s=ready_timeout_s,
            exit_timeout_s=exit_timeout_s,
        )
    ).start()


def _device_for(binary: Binary, wanted: Device | None) -> Device:
    if binary.source == "wheel":
        if wanted == "gpu":
            raise UnsupportedEnvironment(
                "The tritonserver of the nvidia-pytriton wheel has no TensorRT backend. "
                "To serve on the GPU, run inside a tritonserver image; otherwise take --device cpu."
            )
        return "cpu"
    has_gpu = wanted != "cpu" and bool(gpu_compute_capabilities())
    if wanted == "gpu" and not has_gpu:
        raise UnsupportedEnvironment(
            "No NVIDIA GPU is visible (nvidia-smi lists none). Take --device cpu, or repair that."
        )
    return "gpu" if has_gpu else "cpu"
