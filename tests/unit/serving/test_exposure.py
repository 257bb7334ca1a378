from pathlib import Path

import pytest

from serving.binary import Binary
from serving.exposure import exposure_warning, is_exposed, is_loopback

WHEEL = Binary(Path("/wheel/tritonserver"), "wheel", "24.10", {})
IMAGE = Binary(Path("/opt/tritonserver/bin/tritonserver"), "path", "26.08", {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("fe80::1%1", False), ("no-such-name.invalid", False),  # noqa: S104
    ],
)  # fmt: skip
def test_only_what_stays_on_this_machine_is_loopback(host, expected):
    """Names are looked up; one that cannot be is not trusted."""
    assert is_loopback(host) is expected


def test_only_the_wheels_server_is_called_exposed():
    """Inside an image the server is the user's choice, and usually has to be reached from outside the container."""
    assert is_exposed(WHEEL, "0.0.0.0")  # noqa: S104 - nothing is bound
    assert not is_exposed(WHEEL, "127.0.0.1")
    assert not is_exposed(IMAGE, "0.0.0.0")  # noqa: S104


def test_the_warning_is_one_line_with_age_reason_and_way_out():
    """What it is, why that matters, what was done about it and what to do."""
    warning = exposure_warning(WHEEL, "192.0.2.1")
    for part in ("192.0.2.1", "24.10", "CVEs", "SECURITY.md", "behind the token", "--host 127.0.0.1"):
        assert part in warning
    assert "\n" not in warning
