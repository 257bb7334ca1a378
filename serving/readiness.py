"""From a started process to a server that has answered one inference per model, or to the reason why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from serving import server_log
from serving.errors import ModelFailed, PortInUse, ServerDied, StartTimeout
from serving.flags import Device
from serving.guarded import GuardedServer
from serving.ports import port_in_use
from serving.probe import Probe, ProbeFailed, infer_until
from serving.repository import BACKENDS

_FIRST_WAIT_S, _LONGEST_WAIT_S, _WAIT_GROWTH = 0.02, 0.25, 1.5
_QUICK_ANSWER_S = 1.0
_SETTLE_S = 2.0  # a server that failed to bind its last port needs about a second to end


@dataclass(frozen=True)
class Starting:
    """A server on its way up, and where to look.

    Without `is_log_kept` the log goes with the failed start: the errors then quote its end instead of naming it.
    """

    process: GuardedServer
    http_url: str
    token: str
    server_id: str
    metrics_url: str
    host: str
    log_path: Path
    is_log_kept: bool
    device: Device
    deadline_s: float

    def wait_until_serving(self, models: list[str]) -> dict[str, float]:
        """Seconds of the first inference of each model. Raises the `ServingError` that names the reason otherwise."""
        wait_s = _FIRST_WAIT_S
        while not self._is_answering():
            self._raise_if_failed()
            left_s = self.deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._too_late("it has not begun to answer")
            self.process.wait(min(wait_s, left_s))  # wakes at once if the server ends
            wait_s = min(wait_s * _WAIT_GROWTH, _LONGEST_WAIT_S)
        first_inference_s = {model: self._first_inference(model) for model in models}
        self._check_metrics()
        self._raise_if_failed()
        return first_inference_s

    def _is_answering(self) -> bool:
        """Whether this very server answers, rather than another one that was faster to bind the port."""
        try:
            return self._quick_probe().server_id() == self.server_id
        except ProbeFailed:
            return False

    def _quick_probe(self) -> Probe:
        """For questions that a server answers at once; another program on its port may never answer."""
        return Probe(self.http_url, self.token, _QUICK_ANSWER_S)

    def _first_inference(self, model: str) -> float:
        probe = Probe(self.http_url, self.token, max(_QUICK_ANSWER_S, self.deadline_s - time.monotonic()))
        try:
            backend = probe.model_config(model).get("backend")
            if backend != BACKENDS[self.device]:
                raise ModelFailed(
                    f"{model} is served by the backend {backend!r}, not {BACKENDS[self.device]!r} as serving on the "
                    f"{self.device} wants. Build the model again with `python -m builder build`."
                )
            return infer_until(probe, model, self.deadline_s)
        except ProbeFailed as error:
            self._raise_if_failed()
            if time.monotonic() >= self.deadline_s:
                raise self._too_late(f"{model} has not answered its first inference") from error
            raise ModelFailed(f"{model} was loaded but does not answer: {error}. {self._log_hint()}") from error

    def _check_metrics(self) -> None:
        """The metrics port is bound last, so a server that answers may still be about to fail on it."""
        while True:
            try:
                if self._quick_probe().has_metrics(self.metrics_url):
                    return
                problem = "another program answers there"
            except ProbeFailed as error:
                problem = str(error)
            if self.process.wait(min(_SETTLE_S, max(0.0, self.deadline_s - time.monotonic()))):
                self._raise_if_failed()
            if time.monotonic() >= self.deadline_s:
                raise self._too_late(f"its metrics at {self.metrics_url} do not answer ({problem})")

    def _raise_if_failed(self) -> None:
        """The reason, if the server has ended or will never be ready."""
        has_ended = self.process.wait(0)  # before the log is read, or its last words might be missed
        log = server_log.read_log(self.log_path)
        failure = server_log.load_failure(log)
        if failure is not None:
            raise ModelFailed(
                f"{failure.model or 'A model'} failed to load: {failure.reason.rstrip('.')}. {self._log_hint()}"
            )
        port = server_log.busy_port(log)
        if port is not None:
            raise PortInUse(port_in_use(self.host, port), port)
        if has_ended:
            raise self._death(log)

    def _death(self, log: str) -> ServerDied:
        code = self.process.returncode
        how = "its guard was killed" if code is None else f"exit code {code}"
        return ServerDied(
            f"tritonserver ended before it was ready ({how}): {server_log.last_error(log)}. {self._log_hint()}"
        )

    def _too_late(self, what: str) -> StartTimeout:
        log = server_log.read_log(self.log_path)
        return StartTimeout(
            f"tritonserver is not ready in the time given: {what}; last error: {server_log.last_error(log)}. "
            f"Give it longer with --ready-timeout-s. {self._log_hint()}"
        )

    def _log_hint(self) -> str:
        return f"Log: {self.log_path}" if self.is_log_kept else server_log.ending(self.log_path)
