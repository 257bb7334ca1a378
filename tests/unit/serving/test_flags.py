from dataclasses import replace
from pathlib import Path

import pytest

from serving.flags import FLAGS, OPEN_CATEGORIES, RESTRICTED_CATEGORIES, FlagFacts, exists_in, server_flags
from serving.ports import Ports

FACTS = FlagFacts(
    repository=Path("/models"),
    device="cpu",
    host="127.0.0.1",
    ports=Ports(),
    token="secret-secret",  # noqa: S106
    server_id="inception_1_2_3_",
    shm_prefix="inception_1_2_3_",
    exit_timeout_s=5,
    release="24.10",
)


def test_every_address_is_the_host_given():
    """Triton's own default is 0.0.0.0; none of the three is left to it."""
    flags = server_flags(FACTS)
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.1" in flags


def test_nothing_can_be_changed_without_the_token():
    """Every category of Triton's but the four open ones is restricted, for both protocols."""
    flags = server_flags(FACTS)
    categories = "shared-memory,model-repository,statistics,trace,logging"
    assert f"--http-restricted-api={categories}:inception-token=secret-secret" in flags
    assert f"--grpc-restricted-protocol={categories}:inception-token=secret-secret" in flags
    assert {*OPEN_CATEGORIES, *RESTRICTED_CATEGORIES} == {
        "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace",
        "logging",
    }  # fmt: skip


def test_inference_can_be_restricted_too():
    """For hosts whose release is below the security floor."""
    flags = server_flags(replace(FACTS, is_inference_restricted=True))
    assert any(flag.startswith("--http-restricted-api=") and ",inference:" in flag for flag in flags)


def test_all_models_mean_a_fixed_set_and_some_models_an_explicit_one():
    """Polling is never used: one half-written folder would freeze it."""
    assert "--model-control-mode=none" in server_flags(FACTS)
    some = server_flags(replace(FACTS, models=["a", "b"]))
    assert [flag for flag in some if "model-control" in flag or "load-model" in flag] == [
        "--model-control-mode=explicit", "--load-model=a", "--load-model=b",
    ]  # fmt: skip
    assert not [flag for flag in FLAGS if flag.value == "poll"]


def test_only_the_cpu_takes_the_cpu_configs():
    """On a GPU the same folder is served through its own config."""
    assert "--model-config-name=cpu" in server_flags(FACTS)
    assert not [flag for flag in server_flags(replace(FACTS, device="gpu")) if "model-config-name" in flag]


def test_the_backend_folder_is_named_only_where_it_was_assembled():
    """An image has its own."""
    assert not [flag for flag in server_flags(FACTS) if "backend-directory" in flag]
    assert "--backend-directory=/b" in server_flags(replace(FACTS, backend_directory=Path("/b")))


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (None, []),
        ("24.10", []),
        ("25.06", ["--http-max-input-size"]),
        ("26.08", ["--http-max-input-size", "--allow-client-shm"]),
    ],
)
def test_a_flag_is_given_only_to_a_release_that_knows_it(release, expected):
    """An unknown flag would end the server; an unknown release is taken for an old one."""
    late = [flag.name for flag in FLAGS if flag.since and exists_in(flag, release)]
    assert late == expected
