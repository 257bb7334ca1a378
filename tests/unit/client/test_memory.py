"""What a request's memory costs once the client has been made."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Four threads, each with three blocks of a request of eight crops at once, a hundred times.
PROGRAM = """
import resource, sys, threading
import client.memory
if sys.argv[1] == "kept":
    client.memory.keep_freed_memory()

def work():
    for _ in range(100):
        blocks = [bytearray(2_145_000) for _ in range(3)]
        del blocks

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's has other habits")
def test_freed_memory_is_used_again_instead_of_being_mapped_anew() -> None:
    """600,000 page faults without, 5,000 with; and whoever has fixed the threshold keeps it."""
    given_back = page_faults("given back")
    assert page_faults("kept") < given_back / 10
    assert page_faults("kept", MALLOC_MMAP_THRESHOLD_="131072") > given_back / 2
