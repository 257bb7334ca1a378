import dataclasses
import socket

import pytest

from serving.errors import PortInUse, UsageError
from serving.ports import FREE_PORTS, Ports, claim_ports, url_host


def test_free_ports_are_three_different_ones_that_can_be_bound():
    """At the moment of asking, which is all that can be promised."""
    ports = claim_ports("127.0.0.1", FREE_PORTS)
    numbers = dataclasses.astuple(ports)
    assert len(set(numbers)) == 3
    for number in numbers:
        socket.create_server(("127.0.0.1", number)).close()


def test_a_fixed_port_is_kept_and_the_others_chosen():
    """Options can be mixed."""
    free = claim_ports("127.0.0.1", FREE_PORTS).grpc
    ports = claim_ports("127.0.0.1", Ports(0, free, 0))
    assert ports.grpc == free
    assert 0 not in dataclasses.astuple(ports)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - a test's own socket
def test_a_port_in_use_is_named_with_its_option(address):
    """Also where the other program listens on every address."""
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} on 127\.0\.0\.1 is in use.*--metrics-port") as refused:
            claim_ports("127.0.0.1", Ports(0, 0, port))
    assert refused.value.port == port


def test_ports_are_different_numbers_in_range():
    """Refused before anything is tried."""
    for wrong in ((8000, 8000, 8002), (70000, 1, 2), (-1, 1, 2)):
        with pytest.raises(UsageError, match="three different ones"):
            Ports(*wrong)


def test_a_host_that_is_not_this_machine_is_a_usage_error():
    """192.0.2.0/24 is reserved for documentation."""
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        claim_ports("192.0.2.1", FREE_PORTS)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")],  # noqa: S104 - nothing is bound
)
def test_the_address_to_connect_to_is_one_that_can_be_connected_to(host, expected):
    """'Any address' is for listening only."""
    assert url_host(host) == expected
