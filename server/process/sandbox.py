"""What the operating system keeps a worker from, where the operator asks for it: limits, and files that it may not write.

`announce` leaves in the server's environment what its workers are to do, and `enter` does it in a worker, before a model's code
is imported. Nothing but the standard library, since a worker may run in an environment of its own.

    worker_max_memory  bytes of memory of its own (RLIMIT_DATA): beyond it Python's MemoryError. What it shares with the server
                       (tensors in flight) does not count
    worker_max_files   open files (RLIMIT_NOFILE)
    worker_sandbox     off, files or network. `files`: it writes below the temporary folder, /dev and /proc only, and changes
                       nothing elsewhere. `network`: the same, and it neither connects nor listens over TCP. (Landlock of
                       Linux 5.13, and of 6.7.)

This limits what goes wrong and what a stolen model can do to files; it is no wall against code that is out to get through: such
code runs with the rights of the server's user, reads what that user may read, and needs a machine or a container of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

#: The variable in which workers find their limits; no setting, so it does not begin as those do.
VARIABLE = "_JITNEY_WORKER_LIMITS"
#: System calls of Landlock; the numbers are the same on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38
_VERSION_FLAG, _PATH_BENEATH = 1, 1
#: Accesses to files (linux/landlock.h): what the first version knows, and what later ones added.
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a folder
_WRITE_FILE = 1 << 1
_ALL_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
#: Accesses to TCP: bind, connect.
_TCP, _TCP_SINCE = 3, 4
#: What a process may always write to: devices, its own settings in /proc.
_WRITABLE = ("/dev", "/proc")


@dataclass(frozen=True)
class WorkerLimits:
    """0 = no limit."""

    memory: int = 0
    files: int = 0
    sandbox: str = "off"


def announce(limits: WorkerLimits) -> None:
    """Has all workers that this process starts from now on keep the limits."""
    if limits == WorkerLimits():
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = json.dumps(asdict(limits))


def enter(environment: Mapping[str, str] = os.environ) -> None:
    """Puts this process, and what it starts, under the limits that were announced. OSError where the system cannot."""
    text = environment.get(VARIABLE)
    if not text:
        return
    limits = WorkerLimits(**json.loads(text))
    if limits.memory:
        _limit(resource.RLIMIT_DATA, limits.memory)
    if limits.files:
        _limit(resource.RLIMIT_NOFILE, limits.files)
    if limits.sandbox != "off":
        restrict(network=limits.sandbox == "network")


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def problem(sandbox: str) -> str:
    """Why this system does not offer such a sandbox, "" where it does."""
    version = _version()
    if sandbox == "off" or version >= (_TCP_SINCE if sandbox == "network" else 1):
        return ""
    if version == 0:
        return "this system has no Landlock (Linux 5.13 or later, with landlock among the kernel's security modules)"
    return f"this system's Landlock, version {version}, knows nothing of TCP (Linux 6.7 does); worker_sandbox=files works"


def restrict(network: bool = False) -> None:
    """From now on this process writes in the temporary folder only; for good. OSError where the system has no Landlock."""
    version = _version()
    if not version:
        raise OSError(problem("files"))
    handled = _ALL_FILES[min(version, max(_ALL_FILES))]
    attributes = struct.pack("=QQ", handled, _TCP if network else 0)
    size = len(attributes) if version >= _TCP_SINCE else 8
    rules = _call(_CREATE, attributes[:size], size, 0)
    try:
        _allow(rules, "/", _READ)
        for folder in (tempfile.gettempdir(), *_WRITABLE):
            if Path(folder).is_dir():
                _allow(rules, folder, handled)
        _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, folder: str, access: int) -> None:
    beneath = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", access, beneath), 0)
    finally:
        os.close(beneath)


def _version() -> int:
    """The version of the system's Landlock, 0 where it has none."""
    try:
        return _call(_CREATE, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return _check(libc.syscall(ctypes.c_long(number), *arguments))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
