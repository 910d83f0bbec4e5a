"""The worker's process, spoken to by something that is not the server: it ends, and its exit code says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from jitney.server.ipc.frame import HEADER
from jitney.server.ipc.memory import Region
from jitney.server.process import exits
from jitney.server.workers.channel import MessageChannel
from jitney.server.workers.messages import Stop

LIMIT_S = 60.0


def ended(speak: Callable[[socket.socket], object], parent: int | None = None) -> tuple[int, str]:
    """The exit code and stderr of a worker to which `speak` has said its part."""
    ours, theirs = socket.socketpair()
    memory = Region.create("test-worker", 1 << 16)
    with ours, theirs:
        options = [f"--fd={theirs.fileno()}", f"--arena-fd={memory.fd}", f"--reply-fd={memory.fd}"]
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "jitney.server.worker.main",
                "--name",
                "w",
                *options,
                f"--parent={parent or os.getpid()}",
            ],
            pass_fds=(theirs.fileno(), memory.fd),
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        speak(ours)
        _, told = process.communicate(timeout=LIMIT_S)
    memory.close()
    return process.returncode, told


def test_without_its_server_it_ends() -> None:
    assert ended(lambda ours: ours.close()) == (exits.PARENT_GONE, "")


def test_where_another_process_has_started_it_it_ends_at_once() -> None:
    assert ended(lambda ours: None, parent=1) == (exits.PARENT_GONE, "")


def test_the_first_message_has_to_be_what_to_load() -> None:
    code, told = ended(lambda ours: MessageChannel(ours).send(Stop()))
    assert (code, "the first message must be Load, got Stop" in told) == (exits.CRASHED, True)


@pytest.mark.parametrize("frame", [HEADER.pack(3, 0) + b"\xc1\xc1\xc1", HEADER.pack(1 << 31, 0)])
def test_bytes_that_are_no_message_end_it(frame: bytes) -> None:
    code, told = ended(lambda ours: ours.sendall(frame))
    assert (code, "BadFrame" in told) == (exits.CRASHED, True)
