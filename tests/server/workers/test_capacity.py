"""What this machine can hold, with limits written into a folder that stands for its root."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.process.cores import usable_cores
from jitney.server.workers import capacity
from jitney.server.workers.capacity import WORKER_BYTES, WORKER_TASKS, WORKERS_PER_CORE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine whose cgroup (version 2) is called /box."""
    write(tmp_path, "proc/self/cgroup", "0::/box\n")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def limit_memory(root: Path, limit: int, used: int, cached: int = 0) -> None:
    write(root, "sys/fs/cgroup/box/memory.max", f"{limit}\n")
    write(root, "sys/fs/cgroup/box/memory.current", f"{used}\n")
    write(root, "sys/fs/cgroup/box/memory.stat", f"anon 1\ninactive_file {cached}\n")


@pytest.mark.parametrize("wanted", [100_000, 2**31 - 1])
def test_a_slip_of_the_pen_is_refused_with_what_the_machine_can_hold(wanted: int) -> None:
    with pytest.raises(InvalidConfig, match=f"'m' is to have {wanted} workers, .* room for at most .*: lower the count"):
        capacity.check("m", wanted, 0)


def test_the_cores_bound_how_many_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_bounds", lambda root: [])
    most = usable_cores() * WORKERS_PER_CORE
    capacity.check("m", most, 0)
    capacity.check("m", most, most - 1)
    with pytest.raises(InvalidConfig, match=f"at most {most} .{WORKERS_PER_CORE} for each of"):
        capacity.check("m", most + 1, most - 1)


def test_the_memory_of_the_cgroup_counts_and_file_pages_are_free(root: Path) -> None:
    limit_memory(root, 30 * WORKER_BYTES, 15 * WORKER_BYTES, cached=5 * WORKER_BYTES)
    assert capacity.available_memory(root) == 20 * WORKER_BYTES
    capacity.check("m", 20, 0, root)
    with pytest.raises(InvalidConfig, match=r"at most 20 .0\.8 GiB of memory are available"):
        capacity.check("m", 21, 0, root)
    capacity.check("m", 25, 5, root)  # five of them are there, and in the figure


def test_the_memory_of_the_older_cgroups_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n")
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{9 * WORKER_BYTES}")
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{4 * WORKER_BYTES}")
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.stat", f"total_inactive_file {WORKER_BYTES}\n")
    assert capacity.available_memory(tmp_path) == 6 * WORKER_BYTES


def test_without_a_limit_of_the_cgroup_the_machine_counts(root: Path) -> None:
    write(root, "sys/fs/cgroup/box/memory.max", "max\n")
    write(root, "sys/fs/cgroup/box/memory.current", "1\n")
    assert capacity.available_memory(root) > 0.5 * psutil.virtual_memory().available


def test_the_processes_that_the_cgroup_may_have_count(root: Path) -> None:
    write(root, "sys/fs/cgroup/box/pids.max", f"{100 + 9 * WORKER_TASKS}\n")
    write(root, "sys/fs/cgroup/box/pids.current", "100\n")
    with pytest.raises(InvalidConfig, match=r"at most 9 .* pids\.max"):
        capacity.check("m", 10, 0, root)


def test_the_processes_of_the_machine_count(root: Path) -> None:
    write(root, "proc/sys/kernel/pid_max", f"{500 + 8 * WORKER_TASKS}\n")
    write(root, "proc/loadavg", "0.1 0.2 0.3 2/500 12345\n")
    with pytest.raises(InvalidConfig, match=r"at most 8 .* kernel\.pid_max"):
        capacity.check("m", 9, 0, root)


def test_one_worker_for_each_core_is_always_tried(root: Path) -> None:
    limit_memory(root, 100, 100)
    capacity.check("m", usable_cores(root), 0, root)
    capacity.check("m", 50, 50, root)  # and those that are there may stay


def test_memory_is_short_where_what_loads_and_one_more_do_not_fit(root: Path) -> None:
    limit_memory(root, 4 * WORKER_BYTES, WORKER_BYTES)
    assert capacity.shortage(None, 2, root) == ""
    assert "memory are available, and each worker of this model takes" in capacity.shortage(None, 3, root)


def test_a_worker_that_has_loaded_shows_what_one_takes(root: Path) -> None:
    own = psutil.Process().memory_full_info().uss
    assert own > WORKER_BYTES, "this process is too small to stand for a worker with a model"
    limit_memory(root, own // 2 + WORKER_BYTES // 2, 0)  # the process may give memory back meanwhile
    assert capacity.shortage(None, 0, root) == ""
    assert capacity.shortage(os.getpid(), 0, root)


def test_a_worker_that_has_just_ended_tells_nothing(root: Path) -> None:
    limit_memory(root, 4 * WORKER_BYTES, 0)
    assert capacity.shortage(2**22 - 1, 0, root) == ""
