"""A front end's process, spoken to by something that is not the scheduler: it ends, and says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from jitney.server.frontends.messages import Drain, encode, pack
from jitney.server.process import exits

LIMIT_S = 60.0
MODULES = ("jitney.server.frontends.child.main", "jitney.server.grpc.front_end")


def ended(module: str, speak: Callable[[socket.socket], object]) -> tuple[int, str]:
    """The exit code and stderr of a front end to which `speak` has said its part."""
    ours, theirs = socket.socketpair()
    door, others = socket.socketpair()
    with ours, theirs, door, others:
        fds = dict.fromkeys(("request-fd", "reply-fd", "counters-fd", "listen-fd"), others.fileno())
        options = [f"--{name}={fd}" for name, fd in {"fd": theirs.fileno(), "door-fd": others.fileno(), **fds}.items()]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, "--name", "front", *options, f"--parent={os.getpid()}"],
            pass_fds=(theirs.fileno(), others.fileno()),
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        speak(ours)
        _, told = process.communicate(timeout=LIMIT_S)
    return process.returncode, told


@pytest.mark.parametrize("module", MODULES)
def test_without_its_scheduler_it_ends(module: str) -> None:
    assert ended(module, lambda ours: ours.close()) == (exits.PARENT_GONE, "")


@pytest.mark.parametrize("module", MODULES)
def test_the_first_message_has_to_be_the_scheduler_s_hello(module: str) -> None:
    code, told = ended(module, lambda ours: ours.sendall(pack([encode(Drain(1.0))])))
    assert (code, "the first message must be Hello" in told) == (exits.CRASHED, True)
