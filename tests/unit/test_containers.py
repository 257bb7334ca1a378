"""`docker-compose.yml`, as Compose itself reads it: which images, how locked down, which flags. No engine is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.targets import CPU, T4, TARGETS, V100, Target
from serving.flags import RESTRICTED_CATEGORIES, FlagFacts, server_flags
from serving.ports import Ports
from serving.probe import TOKEN_VARIABLE

_ROOT = Path(__file__).parents[2]
_COMPOSE = Path(sys.executable).with_name("docker-compose")
_TOKEN = "token-of-a-test"  # noqa: S105 - opens nothing
_BUILDERS: dict[str, Target] = {"build-t4": T4, "build-v100": V100}
_SERVERS: dict[str, Target] = {"serve-t4": T4, "serve-v100": V100, "serve-cpu": CPU}
_SERVICES = (*_BUILDERS, *_SERVERS, "loadtest")
_GPU_SERVICES = (*_BUILDERS, "serve-t4", "serve-v100")
_SECURITY_FLOOR = "26.07"


def _compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Compose with no engine to talk to, and nothing of this machine's environment or `.env`."""
    environment = {"PATH": os.defpath, "DOCKER_HOST": "unix:///nowhere/docker.sock"} | variables
    options = ("--project-directory", str(_ROOT), "--file", str(_ROOT / "docker-compose.yml"), "--env-file", os.devnull)
    command = [str(_COMPOSE), *options, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def _services(profile: str, **variables: str) -> dict[str, Any]:
    read = _compose("--profile", profile, "config", "--format", "json", **{TOKEN_VARIABLE: _TOKEN} | variables)
    assert read.returncode == 0, read.stderr
    services: dict[str, Any] = json.loads(read.stdout)["services"]
    return services


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Every service, each read with its own profile alone."""
    return {name: _services(name)[name] for name in _SERVICES}


def _mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in service["volumes"]}


def _seconds(duration: str) -> int:
    """Compose's `1m30s` as a number."""
    units = {"h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+)([hms])", duration)
    assert "".join(number + unit for number, unit in parts) == duration
    return sum(int(number) * units[unit] for number, unit in parts)


def _flags(service: dict[str, Any]) -> list[str]:
    program, *flags = [*service["entrypoint"], *service["command"]]
    assert program == "tritonserver"
    return flags


def _exit_timeout_s(service: dict[str, Any]) -> int:
    (value,) = (flag.partition("=")[2] for flag in _flags(service) if flag.startswith("--exit-timeout-secs="))
    return int(value)


@pytest.mark.parametrize("profile", _SERVICES)
def test_each_profile_starts_its_own_service_and_nothing_else(profile: str) -> None:
    """A profile is named like the one service that it starts; without a profile nothing starts."""
    assert list(_services(profile)) == [profile]


def test_every_target_has_its_services() -> None:
    """A row of `builder.targets` can be served, and built for where it has a GPU."""
    assert {f"serve-{name}" for name in TARGETS} == set(_SERVERS)
    assert {f"build-{name}" for name, target in TARGETS.items() if target.plan_filename} == set(_BUILDERS)


@pytest.mark.parametrize("profile", _SERVICES)
def test_nothing_is_configured_without_a_token(profile: str) -> None:
    """A missing or empty INCEPTION_TOKEN ends Compose with its name and what to do, rather than open a server."""
    for variables in ({}, {TOKEN_VARIABLE: ""}):
        refused = _compose("--profile", profile, "config", "--quiet", **variables)
        assert refused.returncode != 0
        assert f"required variable {TOKEN_VARIABLE} is missing a value: set it in .env" in refused.stderr


@pytest.mark.parametrize("name", _SERVICES)
def test_every_container_is_locked_down(services: dict[str, Any], name: str) -> None:
    """Not root, nothing to write to but /tmp and what is mounted, no capability, and no way to gain one."""
    service = services[name]
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's
    assert service["init"] is True
    for forbidden in ("privileged", "cap_add", "pid", "ipc", "devices", "userns_mode"):
        assert not service.get(forbidden)


@pytest.mark.parametrize("name", _SERVICES)
def test_what_is_published_is_published_on_loopback(services: dict[str, Any], name: str) -> None:
    """No other machine reaches a port of ours, on whatever port of this host it is."""
    variables = {f"INCEPTION_{port}_PORT": "18000" for port in ("HTTP", "GRPC", "METRICS", "LOCUST")}
    for service in (services[name], _services(name, **variables)[name]):
        assert service.get("network_mode") != "host"
        assert [port["host_ip"] for port in service.get("ports", [])] == ["127.0.0.1"] * len(service.get("ports", []))


def test_the_ports_are_those_that_the_programs_listen_on(services: dict[str, Any]) -> None:
    """8000, 8001 and 8002 of a server, 8089 of locust; a build is not reached at all."""
    inside = {name: [port["target"] for port in services[name].get("ports", [])] for name in _SERVICES}
    ports = Ports()
    builders: dict[str, list[int]] = {name: [] for name in _BUILDERS}
    servers = {name: [ports.http, ports.grpc, ports.metrics] for name in _SERVERS}
    assert inside == {**builders, **servers, "loadtest": [8089]}
    assert {services[name]["network_mode"] for name in _BUILDERS} == {"none"}


@pytest.mark.parametrize(("name", "target"), _BUILDERS.items())
def test_plans_are_built_by_the_image_of_the_target(services: dict[str, Any], name: str, target: Target) -> None:
    """Base image and constraints are of the target's month, and the default command is its plan stage."""
    service = services[name]
    build = service["build"]
    assert Path(build["context"]) == _ROOT
    assert build["dockerfile"] == "docker/builder.Dockerfile"
    constraints = f"docker/constraints-{target.triton_release}.txt"
    assert build["args"] == {"BASE_IMAGE": target.tensorrt_image, "CONSTRAINTS": constraints}
    assert (_ROOT / constraints).is_file()
    assert service["image"].endswith(f":{target.triton_release}")
    assert service["pull_policy"] == "build"
    assert service["command"][:5] == ["build", "--gpu", target.name, "--stage", "plan"]


@pytest.mark.parametrize("name", _BUILDERS)
def test_the_default_command_is_one_that_the_builder_takes(services: dict[str, Any], name: str) -> None:
    """Options are spelt as `python -m builder` spells them, and name folders of the one mount."""
    from builder.cli import _parser

    options = _parser().parse_args(services[name]["command"])
    assert options.repository == Path("/data/model_repository")
    assert options.cache_dir == Path("/data/.cache")


@pytest.mark.parametrize("name", _BUILDERS)
def test_the_builder_sees_repository_and_staging_as_one_mount(services: dict[str, Any], name: str) -> None:
    """A finished folder enters the repository by rename, which cannot cross mounts: their parent is mounted, whole."""
    assert list(_mounts(services[name])) == ["/data"]
    mount = _mounts(_services(name, INCEPTION_DATA="/srv/inception")[name])["/data"]
    assert mount["source"] == "/srv/inception"
    assert not mount.get("read_only")
    assert mount["bind"]["create_host_path"] is False


def test_files_belong_to_whom_the_user_says() -> None:
    """INCEPTION_UID and INCEPTION_GID are the owner of what is built, on the host as well."""
    assert _services("build-t4", INCEPTION_UID="1234", INCEPTION_GID="567")["build-t4"]["user"] == "1234:567"


@pytest.mark.parametrize("name", _SERVICES)
def test_only_gpu_services_ask_for_a_gpu(services: dict[str, Any], name: str) -> None:
    """A host without a GPU or NVIDIA's runtime runs `serve-cpu` and `loadtest`; the others see GPU and nvidia-smi."""
    if name not in _GPU_SERVICES:
        assert not {"deploy", "gpus", "runtime", "devices"} & set(services[name])
        return
    (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu", "compute", "utility"]}


def test_a_server_may_have_all_gpus() -> None:
    """INCEPTION_GPU_COUNT=all serves on every GPU of the host; -1 is Compose's word for all."""
    service = _services("serve-t4", INCEPTION_GPU_COUNT="all")["serve-t4"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["count"] == -1


@pytest.mark.parametrize(("name", "target"), _SERVERS.items())
def test_servers_have_exactly_the_flags_of_the_table(services: dict[str, Any], name: str, target: Target) -> None:
    """What `python -m serving` would start a server of this release with; the addresses are the container's own."""
    facts = FlagFacts(
        repository=Path("/models"),
        device="gpu" if target.compute_capability else "cpu",
        host="0.0.0.0",  # noqa: S104 - compared, not bound
        ports=Ports(),
        token=_TOKEN,
        server_id="inception",
        shm_prefix="inception",
        exit_timeout_s=_exit_timeout_s(services[name]),
        release=target.triton_release,
        is_inference_restricted=target.triton_release < _SECURITY_FLOOR,
    )
    assert sorted(_flags(services[name])) == sorted(server_flags(facts))


def test_a_server_below_the_security_floor_restricts_inference(services: dict[str, Any]) -> None:
    """24.09 cannot be raised on a V100, so there the token is wanted for everything but health and metadata."""
    categories = ",".join((*RESTRICTED_CATEGORIES, "inference"))
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        assert f"{flag}={categories}:inception-token={_TOKEN}" in _flags(services["serve-v100"])


@pytest.mark.parametrize(("name", "target"), _SERVERS.items())
def test_servers_run_the_image_of_the_target(services: dict[str, Any], name: str, target: Target) -> None:
    """The month of the builder's image: a plan loads only in the TensorRT that built it."""
    service = services[name]
    if name == "serve-cpu":
        assert service["build"]["dockerfile"] == "docker/serve-cpu.Dockerfile"
        assert service["image"].endswith(f":{target.triton_release}")
        assert service["pull_policy"] == "build"
    else:
        assert service["image"] == target.triton_image
        assert "build" not in service


@pytest.mark.parametrize("name", _SERVERS)
def test_servers_read_the_repository_and_cannot_write_it(name: str) -> None:
    """Only the builder publishes; and the mount is the folder that the builder wrote."""
    mounts = _mounts(_services(name, INCEPTION_DATA="/srv/inception")[name])
    assert mounts["/models"]["source"] == "/srv/inception/model_repository"
    assert [mount["read_only"] for mount in mounts.values()] == [True, True]
    assert [mount["bind"]["create_host_path"] for mount in mounts.values()] == [False, False]


@pytest.mark.parametrize("name", _SERVERS)
def test_a_server_has_time_to_answer_what_it_has_accepted(services: dict[str, Any], name: str) -> None:
    """Docker kills after the grace period; the server's own time-out for requests in flight has to end before."""
    assert _seconds(services[name]["stop_grace_period"]) > _exit_timeout_s(services[name])
    assert services[name]["restart"] == "unless-stopped"
    assert int(services[name]["shm_size"]) == 1 << 30


@pytest.mark.parametrize("name", _SERVERS)
def test_health_is_an_inference_of_every_model(services: dict[str, Any], name: str) -> None:
    """The mounted probe, with the token and without --model, asks every model, in less time than Docker gives it."""
    service = services[name]
    kind, program, script, *options = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python3")
    assert Path(_mounts(service)[script]["source"]) == _ROOT / "serving" / "probe.py"
    assert service["environment"][TOKEN_VARIABLE] == _TOKEN
    assert options[0] == "--timeout-s"
    assert int(options[1]) < _seconds(service["healthcheck"]["timeout"])
    assert "--model" not in options


@pytest.mark.parametrize("name", _SERVERS)
def test_the_probe_takes_the_options_of_the_health_check(services: dict[str, Any], name: str) -> None:
    """Run alone, as in the container, it reports that no server answers; a wrong option would be exit code 2."""
    _, _, script, *options = services[name]["healthcheck"]["test"]
    source = _mounts(services[name])[script]["source"]
    command = [sys.executable, "-I", source, *options, "--url", "http://127.0.0.1:1"]
    asked = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=60)
    assert asked.returncode == 1
    assert "cannot be reached" in asked.stderr


def test_load_tests_reach_whichever_server_runs(services: dict[str, Any]) -> None:
    """Every server is `triton` on the network of the load test, which has its token and asks that name over gRPC."""
    service = services["loadtest"]
    (network,) = service["networks"]
    assert [services[name]["networks"] for name in _SERVERS] == [{network: {"aliases": ["triton"]}}] * len(_SERVERS)
    assert service["environment"][TOKEN_VARIABLE] == _TOKEN
    assert service["command"][service["command"].index("--host") + 1] == f"grpc://triton:{Ports().grpc}"
    assert service["build"]["dockerfile"] == "docker/loadtest.Dockerfile"
    assert service["image"].endswith(f":{T4.triton_release}")
