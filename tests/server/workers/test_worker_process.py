"""What a worker's process is started with. The processes themselves: test_pool."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from jitney.core.model_config import ModelConfig
from jitney.core.request import Instance
from jitney.server.ipc.io_context import IoContext
from jitney.server.ipc.messages import Message
from jitney.server.workers.channel import MessageChannel, ServerChannel
from jitney.server.workers.messages import Event, Execute
from jitney.server.workers.own_process import environment
from jitney.server.workers.worker_process import WorkerProcess


def of(config: ModelConfig) -> dict[str, str]:
    return environment(config, Instance("m_0", threads=3))


def test_a_worker_gets_the_servers_environment_and_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SETTING", "kept")
    found = of(ModelConfig("m", "1", "handler", environment={"EXTRA": "more"}))
    assert (found["A_SETTING"], found["OMP_NUM_THREADS"], found["EXTRA"]) == ("kept", "3", "more")


def test_a_worker_keeps_memory_that_it_used_once_unless_the_server_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    found = of(ModelConfig("m", "1", "handler"))
    assert (found["MALLOC_MMAP_MAX_"], found["MALLOC_TRIM_THRESHOLD_"]) == ("0", "1")


def test_the_servers_token_stays_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_TOKEN", "a-secret-of-the-server")
    assert "JITNEY_TOKEN" not in of(ModelConfig("m", "1", "handler"))


def test_withheld_names_match_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET", "AWS_REGION_NAME", "MY_AWS_SECRET", "DB_PASSWORD"):
        monkeypatch.setenv(name, "x")
    found = of(ModelConfig("m", "1", "handler", withheld_environment="AWS_.*|DB_PASSWORD"))
    assert "MY_AWS_SECRET" in found
    assert not {"AWS_SECRET", "AWS_REGION_NAME", "DB_PASSWORD"} & set(found)


class Sleeper:
    """A reactor that takes a socket and never reads from it."""

    def __init__(self) -> None:
        self.lent = threading.Event()
        self.lost: Callable[[], None] = lambda: None

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        self.lost = lost
        self.lent.set()
        return True


def test_what_was_read_already_is_handled_before_the_reactor_gets_the_socket() -> None:
    """It would wait for more to come, while the worker waits for its next batch."""
    ours, theirs = socket.socketpair()
    seen: list[Message] = []
    ended = threading.Event()
    child: Any = WorkerProcess.__new__(WorkerProcess)
    child.name, child.loaded, child._socket, child._channel = "w", True, ours, MessageChannel(ours)
    child._left_over, child._failure, child._returns = None, None, False
    child._on_message, child._on_exit, child._finish = lambda _, message: seen.append(message), lambda _: None, ended.set
    sleeper, sender = Sleeper(), MessageChannel(theirs)
    child._io = IoContext()
    child._io.reactors.offer(sleeper)
    child._io.threads.acquire("this test")
    try:
        with ours, theirs:
            for number in range(3):
                sender.send(Event(str(number), {}))
            child._read()
            assert sleeper.lent.wait(5)
            assert [message.kind for message in seen if isinstance(message, Event)] == ["0", "1", "2"]
            child._io.reactors.withdraw(sleeper)
            sleeper.lost()  # the reactor ends: the shared loop waits for what comes next
            sender.send(Event("3", {}))
            theirs.close()
            assert ended.wait(5)
            assert seen[-1] == Event("3", {})
    finally:
        child._io.threads.release()


def test_a_worker_that_answers_without_end_leaves_the_loop_to_others_in_between() -> None:
    """Of which each message is followed by the next before it is handled, two in one piece at times."""
    ours, theirs = socket.socketpair()
    seen: list[Message] = []
    sender = MessageChannel(theirs)

    def handle(_: object, message: Message) -> None:
        seen.append(message)
        if len(seen) % 3 == 0:
            sender.hold(Event("held", {}))
        if len(seen) < 10_000:
            sender.send(Event("more", {}))

    child: Any = WorkerProcess.__new__(WorkerProcess)
    child._channel, child._on_message, child._io = MessageChannel(ours), handle, IoContext()
    with ours, theirs:
        sender.send(Event("first", {}))
        handled = []
        for _ in range(3):
            assert child._serve() and not child._channel.holds_frame
            handled.append(len(seen))
    assert 0 < handled[0] < handled[1] < handled[2] < 1000


def test_a_worker_that_nobody_can_wait_for_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its requests would wait for ever."""
    ours, theirs = socket.socketpair()
    ended, causes = threading.Event(), list[str]()
    child: Any = WorkerProcess.__new__(WorkerProcess)
    child.name, child.loaded, child._socket, child._channel = "w", True, ours, MessageChannel(ours)
    child._left_over, child._failure, child._returns = None, None, False
    child._on_exit, child._finish, child.kill = lambda _: None, ended.set, lambda cause: causes.append(str(cause))
    child._io = IoContext()
    child._io.threads.acquire("this test")
    try:
        with ours, theirs, monkeypatch.context() as patched:

            def watch(*_: object) -> bool:
                raise OSError("no space left on device")

            patched.setattr(child._io.threads.loop, "watch", watch)
            child._returned()
            assert ended.wait(5)
    finally:
        child._io.threads.release()
    assert causes == ["worker 'w' was ended: OSError: no space left on device"]


def test_what_a_worker_does_not_take_at_once_is_sent_by_a_helper() -> None:
    """Also what is sent while the helper is about to be done."""
    ours, theirs = socket.socketpair()
    child: Any = WorkerProcess.__new__(WorkerProcess)
    child.name, child.loaded, child._channel = "w", True, ServerChannel(ours)
    child._io, child._flushing = IoContext(), threading.Lock()
    receiver = MessageChannel(theirs)
    child._io.threads.acquire("this test")
    try:
        with ours, theirs:
            for number in range(200):
                child.send(Event(str(number), {"data": bytes(10_000 if number % 50 else 1 << 20)}))
                if number >= 100:
                    assert receiver.receive().kind == str(number - 100)  # type: ignore[attr-defined]
            for number in range(100, 200):
                assert receiver.receive().kind == str(number)  # type: ignore[attr-defined]
    finally:
        child._io.threads.release()
    assert child._channel.sent() == []


def test_one_helper_is_enough_for_a_worker_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """Others need them too. What waits to be sent is given back when the worker is gone."""
    ours, theirs = socket.socketpair()
    told: list[bool] = []

    def broken(_: bool) -> None:
        raise RuntimeError("a defect")

    child: Any = WorkerProcess.__new__(WorkerProcess)
    child.name, child.loaded, child._channel = "w", True, ServerChannel(ours)
    child._copied = child._untold = 0
    child._io, child._flushing = IoContext(), threading.Lock()
    child._io.threads.acquire("this test")
    try:
        with ours:
            for number in range(40):
                message = Execute(number, [msgspec.Raw(msgspec.msgpack.encode(bytes(1 << 20)))])
                assert not child.execute(message, told.append if number else broken)
            free = threading.Event()
            child._io.threads.helpers.submit(free.set)
            assert free.wait(5) and not told
            theirs.close()
            child._io.threads.release()
    finally:
        theirs.close()
    assert told == [False] * 39 and "a defect" in caplog.text
    with pytest.raises(ConnectionError):
        child.execute(message, told.append)
