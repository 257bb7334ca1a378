"""What it means to listen beyond this machine: nothing for a current server, a closed door for the wheel's old one."""

from __future__ import annotations

import ipaddress
import socket

from serving.binary import Binary


def is_loopback(host: str) -> bool:
    """Whether a server that listens on this address or name is reached from this machine only; in doubt, no."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:  # what is wrong with the name is said where it is bound
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def is_exposed(binary: Binary, host: str) -> bool:
    """Whether the wheel's server, which is old, would be open to other machines."""
    return binary.source == "wheel" and not is_loopback(host)


def exposure_warning(binary: Binary, host: str) -> str:
    """The one line for a server that `is_exposed`."""
    return (
        f"WARNING: other machines can reach this server on {host}, and it is the wheel's old tritonserver "
        f"(release {binary.release or 'unknown'}, known CVEs, see SECURITY.md). Inference was put behind the token, "
        "which does not mend them: use --host 127.0.0.1 with a tunnel, or a current tritonserver image."
    )
