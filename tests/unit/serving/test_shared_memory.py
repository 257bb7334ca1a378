import os
import subprocess
import sys

from serving.guard import remove_regions
from serving.shared_memory import prefix_of, start_time_of, sweep_dead_regions


def dead_process() -> tuple[int, str]:
    """Pid and prefix of a process that has just ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        prefix = prefix_of(process.pid)
        assert process.stdin is not None
        process.stdin.close()
    return process.pid, prefix


def test_only_regions_of_dead_servers_of_ours_are_swept(tmp_path):
    """A live one's, another pid namespace's and other programs' regions stay."""
    pid, dead = dead_process()
    live = prefix_of(os.getpid())
    namespace = live.split("_")[1]
    other_namespace = dead.replace(namespace, "1")
    reused_pid = live.rsplit("_", 2)[0] + "_1_"  # our pid, but another start time
    for name in (f"{dead}a", f"{dead}b", f"{live}c", f"{other_namespace}d", f"{reused_pid}e", "inception_f", "psm_g"):
        (tmp_path / name).touch()
    assert sorted(sweep_dead_regions(tmp_path)) == sorted([f"{dead}a", f"{dead}b", f"{reused_pid}e"])
    assert {p.name for p in tmp_path.iterdir()} == {f"{live}c", f"{other_namespace}d", "inception_f", "psm_g"}
    assert start_time_of(pid) is None


def test_a_prefix_never_removes_another_servers_regions(tmp_path):
    """Pid 12 is not a prefix of pid 123: the separator is part of the name."""
    for name in ("inception_1_12_5_a", "inception_1_123_5_a"):
        (tmp_path / name).touch()
    assert remove_regions("inception_1_12_5_", tmp_path) == ["inception_1_12_5_a"]


def test_a_machine_without_shared_memory_has_nothing_to_sweep(tmp_path):
    """No folder is no error."""
    assert sweep_dead_regions(tmp_path / "absent") == []
    assert remove_regions("inception_", tmp_path / "absent") == []
