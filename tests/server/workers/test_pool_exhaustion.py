"""A system that has no descriptor or thread left for a moment, and a process that ends in the worst one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jitney.core.errors import JitneyError, TooFewThreads
from jitney.server.ipc.frame import BadFrame
from jitney.server.workers.delivery import Delivery

from .conftest import LIMIT_S, call_to, eventually


def test_a_worker_without_descriptors_is_tried_again(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    dup, calls = os.dup, []

    def second_fails(fd: int) -> int:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(fd)

    monkeypatch.setattr(os, "dup", second_fails)
    b = bench()
    b.pool.start(1, retry=True)
    eventually(b.pool.ready)
    assert b.pool.workers()[0].restarts == 1
    assert b.ask("echo", tensors=[[1.0]]).final


def refuse_once(monkeypatch: pytest.MonkeyPatch, which: str) -> list[str]:
    """Lets the system have no thread left when the first one whose name ends so is started."""
    start = threading.Thread.start
    refused: list[str] = []

    def start_but_once(thread: Any) -> None:
        if thread.name.endswith(which) and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_once)
    return refused


def test_a_worker_without_a_thread_for_what_it_prints_is_tried_again(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refuse_once(monkeypatch, "-logs")
    b = bench()
    b.pool.start(1, retry=True)
    eventually(b.pool.ready)
    assert refused and b.pool.workers()[0].restarts == 1
    assert b.ask("echo", tensors=[[1.0]]).final


@pytest.mark.parametrize("which", ["-read", "-alarms", "-start-0"])
def test_a_pool_without_threads_says_so_and_may_be_started_later(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    refused = refuse_once(monkeypatch, which)
    b = bench()
    with pytest.raises(TooFewThreads, match="no thread left for model 'm'"):
        b.pool.start(1)
    assert refused
    b.up()
    assert b.ask("echo", tensors=[[1.0]]).final


def test_without_a_helper_the_loop_does_the_work(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refuse_once(monkeypatch, "-help-0")
    b = bench().up()
    assert refused
    assert b.ask("echo", tensors=[[1.0]]).final


def test_a_worker_that_dies_while_a_batch_is_refused_is_not_idle(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench().up()
    (worker,) = b.pool._roster.members
    process, known, lost = worker.child, threading.Event(), Delivery.lost

    def heard(delivery: Delivery, *arguments: Any) -> None:
        lost(delivery, *arguments)
        known.set()

    def refuse(*message: Any) -> bool:
        process.kill()
        assert known.wait(LIMIT_S)
        raise BadFrame("too large")

    monkeypatch.setattr(Delivery, "lost", heard)
    monkeypatch.setattr(process, "execute", refuse)
    (call,) = b.send(call_to("echo"))
    with pytest.raises(JitneyError, match="too large"):
        call.result(LIMIT_S)
    assert worker not in b.pool._roster.idle
    eventually(lambda: b.pool.ready() == 1)
    assert b.pool._roster.idle == [worker]
    assert len(b.reports) == 1
    assert b.ask("echo", tensors=[[1.0]]).final
