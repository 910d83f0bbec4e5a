"""Loopback ports for servers whose configuration must name them before they listen.

A port of the kernel's own choice (bind to 0, close, use later) can be given to any connection that begins in between: every
client of every other server takes its own end from the same range. So these come from below that range, and each is given to one
process at a time: the process holds a lock on one byte of a file which all share, until it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import random
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

FIRST = 10_240
#: Where Linux begins to choose ports for connections, unless /proc says otherwise.
EPHEMERAL = 32_768


class PortsTaken(RuntimeError):
    """No port is left below those that the kernel gives to connections."""


class Ports:
    """The ports that this process was given.

    path        the file of locks; processes that must not be given the same port name the same file
    candidates  those that may be given
    """

    def __init__(self, path: Path, candidates: Iterable[int]) -> None:
        # POSIX drops a process' locks as soon as it closes any descriptor of the file, so it is opened once.
        self._locks = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._left = list(candidates)
        random.shuffle(self._left)

    def next(self) -> int:
        """A port that nobody listens on. `PortsTaken` where there is none."""
        while self._left:
            port = self._left.pop()
            with contextlib.suppress(OSError), socket.socket() as probe:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                probe.bind(("127.0.0.1", port))
                return port
        raise PortsTaken("no port is free of those that may be given; end servers that are not needed any more")


def first_ephemeral() -> int:
    """The first port that the kernel gives to connections, or, where it leaves hardly any below, `EPHEMERAL`."""
    with contextlib.suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        return first if first >= FIRST + 1000 else EPHEMERAL
    return EPHEMERAL


@functools.cache
def _of_this_process() -> Ports:
    return Ports(Path(tempfile.gettempdir()) / f"jitney-ports-{os.getuid()}", range(FIRST, first_ephemeral()))


def free_port() -> int:
    """A loopback port that nobody listens on, that no connection is given, and that no other process got from here. `PortsTaken`
    where there is none."""
    return _of_this_process().next()
