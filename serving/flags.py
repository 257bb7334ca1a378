"""tritonserver's command line as data: one row a flag, closed and locked down.

The rows follow NVIDIA's secure deployment guide (server repository, docs/customization_guide/deploy.md); each was
tried on tritonserver 2.51.0 (24.10), except those with a later `since`, which are left out for older or unknown
releases.

The token stands in two flags, because tritonserver takes it from nowhere else (no file, no variable). Flags can be
read by other users of the same machine in /proc/PID/cmdline, unless /proc is mounted with hidepid=2: on a machine
shared with people you do not trust, the token keeps out the network, not them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.ports import Ports

Device = Literal["cpu", "gpu"]

TOKEN_KEY = "inception-token"  # noqa: S105 - the HTTP header's name; gRPC's is `triton-grpc-protocol-inception-token`
OPEN_CATEGORIES = ("health", "metadata", "model-config", "inference")
RESTRICTED_CATEGORIES = ("shared-memory", "model-repository", "statistics", "trace", "logging")

# One request of eight 299 x 299 x 3 uint8 images is 2.1 MB; a region grows beyond this by itself.
_SHARED_MEMORY_BYTES = 4 * 1024 * 1024
# Eight 1024 x 1024 x 3 uint8 images, the largest batch the catalog allows, are 25 MB.
_MAX_HTTP_INPUT_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class FlagFacts:
    """What the rows' values are made from. `release` is YY.MM, None if unknown."""

    repository: Path
    device: Device
    host: str
    ports: Ports
    token: str
    server_id: str
    shm_prefix: str
    exit_timeout_s: int
    release: str | None = None
    backend_directory: Path | None = None
    models: Sequence[str] | None = None
    is_inference_restricted: bool = False


@dataclass(frozen=True)
class Flag:
    """One flag: a value of None is a switch, `only` names the case it belongs to, `since` its first release."""

    name: str
    value: str | None
    only: Literal["cpu", "gpu", "wheel", "all models", "some models"] | None = None
    since: str | None = None


FLAGS: tuple[Flag, ...] = (
    Flag("--id", "{server_id}"),  # the probe makes sure that it is this server that answers
    Flag("--model-repository", "{repository}"),
    Flag("--backend-directory", "{backend_directory}", only="wheel"),
    # What is loaded, and that nothing can be guessed, changed or half loaded.
    Flag("--model-control-mode", "none", only="all models"),
    Flag("--model-control-mode", "explicit", only="some models"),  # load and unload are behind the token
    Flag("--model-config-name", "cpu", only="cpu"),
    Flag("--disable-auto-complete-config", None),
    Flag("--strict-readiness", "true"),
    Flag("--exit-on-error", "true"),
    Flag("--exit-timeout-secs", "{exit_timeout_s}"),
    # Who may talk to it.
    Flag("--http-address", "{host}"),
    Flag("--http-port", "{ports.http}"),
    Flag("--grpc-address", "{host}"),
    Flag("--grpc-port", "{ports.grpc}"),
    Flag("--metrics-address", "{host}"),
    Flag("--metrics-port", "{ports.metrics}"),
    Flag("--http-restricted-api", "{restricted}:{token_key}={token}"),
    Flag("--grpc-restricted-protocol", "{restricted}:{token_key}={token}"),
    Flag("--allow-sagemaker", "false"),
    Flag("--allow-vertex-ai", "false"),
    Flag("--http-max-input-size", "{max_http_input_bytes}", since="25.06"),
    Flag("--allow-client-shm", "false", since="26.04"),
    # What it measures.
    Flag("--metrics-config", "summary_latencies=true"),
    Flag("--metrics-config", "summary_quantiles=0.5:0.05,0.9:0.01,0.99:0.001"),
    Flag("--allow-gpu-metrics", "false", only="cpu"),  # it would look for NVML and complain
    # Memory.
    Flag("--pinned-memory-pool-byte-size", "0", only="cpu"),  # it would look for CUDA and complain
    Flag("--backend-config", "python,shm-default-byte-size={shared_memory_bytes}"),
    Flag("--backend-config", "python,shm-region-prefix-name={shm_prefix}"),
)


def server_flags(facts: FlagFacts) -> list[str]:
    """The arguments for one server, in the order of the table."""
    cases = {facts.device, "some models" if facts.models else "all models"}
    if facts.backend_directory:
        cases.add("wheel")
    categories = RESTRICTED_CATEGORIES + (("inference",) if facts.is_inference_restricted else ())
    values = vars(facts) | {
        "restricted": ",".join(categories),
        "token_key": TOKEN_KEY,
        "max_http_input_bytes": _MAX_HTTP_INPUT_BYTES,
        "shared_memory_bytes": _SHARED_MEMORY_BYTES,
    }
    arguments = []
    for flag in FLAGS:
        if (flag.only is None or flag.only in cases) and exists_in(flag, facts.release):
            arguments.append(flag.name if flag.value is None else f"{flag.name}={flag.value.format(**values)}")
    return arguments + [f"--load-model={name}" for name in facts.models or ()]


def exists_in(flag: Flag, release: str | None) -> bool:
    """Whether a release (YY.MM, None if unknown) has the flag; an unknown release is taken for an old one."""
    if flag.since is None:
        return True
    return release is not None and _month(release) >= _month(flag.since)


def _month(release: str) -> tuple[int, int]:
    year, month = release.split(".")[:2]
    return int(year), int(month)
