"""One worker's life in a shared process, without the process. Whole processes: workers/test_shared_process."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from jitney.server.ipc.board import Board
from jitney.server.process import exits
from jitney.server.worker import shared
from jitney.server.worker.shared import Cleaner, live
from jitney.server.workers.channel import MessageChannel
from jitney.server.workers.messages import Join, Left, Stop


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The threads that gave memory back."""
    found: list[str] = []
    monkeypatch.setattr(shared, "MOMENT_S", 0.1)
    monkeypatch.setattr(shared, "trim", lambda: found.append(threading.current_thread().name))
    yield found
    gc.unfreeze()


@pytest.mark.parametrize(("first", "code"), [(None, exits.STOPPED), (Stop(), exits.CRASHED)])
def test_a_worker_that_ends_before_it_loads_keeps_nothing_open(
    trims: list[str], capfd: pytest.CaptureFixture[str], first: Stop | None, code: int
) -> None:
    ours, theirs = socket.socketpair()
    memory = [os.memfd_create("arena"), os.memfd_create("reply")]
    board = Board.create()
    with ours:
        if first is not None:
            MessageChannel(ours).send(first)
        ours.shutdown(socket.SHUT_WR)
        live(Join(3, "m_0_0"), theirs, memory, board, Cleaner())
        assert MessageChannel(ours).receive() == Left(code)
        assert ours.recv(1) == b""
    for fd in memory:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert board.working([3]) == set()
    assert trims == [threading.current_thread().name]
    assert ("the first message must be Load" in capfd.readouterr().err) is (first is not None)
    board.close()


def test_memory_is_given_back_once_for_all_that_leave_within_a_moment(trims: list[str]) -> None:
    cleaner = Cleaner()
    threads = [threading.Thread(target=cleaner.clean) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(trims) < 8
    cleaner.clean()
    assert trims[-1] == threading.current_thread().name
