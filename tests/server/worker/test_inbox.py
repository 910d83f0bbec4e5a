"""`Inbox` over a socketpair: which thread reads what, and when. The server's end and whole processes: test_pool, test_process."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from jitney.server.ipc.frame import BadFrame
from jitney.server.process import exits
from jitney.server.worker import inbox
from jitney.server.worker.inbox import Inbox
from jitney.server.workers.channel import MessageChannel
from jitney.server.workers.messages import Cancel, Execute, HostReply, Stop

from ..workers.conftest import LIMIT_S


class Desk:
    """The server's end, the inbox, and which thread dispatched what."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.server = MessageChannel(self.ours)
        self.seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.waits = False
        self.inbox = self.make()
        self.inbox.start()

    def make(self) -> Inbox:
        return Inbox(MessageChannel(self.theirs), self.dispatch, lambda: self.waits)

    def dispatch(self, message: Any) -> None:
        if isinstance(message, HostReply):
            self.waits = False
        if isinstance(message, Cancel) and message.batch < 0:
            raise BadFrame("not for a worker")
        self.seen.put((message, threading.current_thread().name))

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.server.send(message)

    def begin(self, batch: int) -> None:
        """The main thread gets this batch."""
        self.send(Execute(batch, []))
        assert self.inbox.get() == Execute(batch, [])

    def next(self) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self.seen.get(timeout=LIMIT_S)
        return found


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[Any]:
    """Exit codes with which the process would have ended; the thread that ends it then ends itself."""
    codes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def leave(code: int) -> None:
        codes.put(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    return codes


@pytest.fixture
def desk(left: SimpleQueue[Any]) -> Iterator[Desk]:
    made = Desk()
    yield made
    threads = [thread for thread in threading.enumerate() if thread.name == "jitney-watch"]
    made.ours.close()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "the end of the server was not seen"
    made.theirs.close()
    os.close(made.inbox._bell)


MAIN, WATCH = threading.main_thread().name, "jitney-watch"


def test_while_the_model_loads_messages_are_read(desk: Desk) -> None:
    desk.send(HostReply(1))
    assert desk.next() == (HostReply(1), WATCH)
    desk.begin(1)


def test_while_no_batch_runs_the_main_thread_reads(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOMENT_S", 600)  # the watching thread takes nothing over
    desk.begin(1)
    desk.send(Cancel(1, 0), HostReply(1))
    desk.begin(2)
    assert [desk.next(), desk.next()] == [(Cancel(1, 0), MAIN), (HostReply(1), MAIN)]
    for batch in range(3, 50):
        desk.begin(batch)
    desk.send(Stop())
    assert isinstance(desk.inbox.get(), Stop)


def test_a_batch_that_takes_long_hears_of_cancellations(desk: Desk) -> None:
    for batch in (1, 2, 3):
        desk.begin(batch)
        desk.send(Cancel(batch, 5))
        assert desk.next() == (Cancel(batch, 5), WATCH)
    desk.send(Execute(4, []), Stop())
    assert [type(desk.inbox.get()) for _ in range(2)] == [Execute, Stop]


def test_a_batch_that_waits_behind_another_one_is_given_back_and_what_has_begun_is_not(desk: Desk) -> None:
    desk.begin(1)
    desk.send(Execute(2, []), Execute(3, [], copied=5), Execute(4, []), Cancel(1, 0))
    assert desk.next() == (Cancel(1, 0), WATCH)  # so the others have been read
    assert [desk.inbox.recall(batch) for batch in (1, 3, 3, 5)] == [None, Execute(3, [], copied=5), None, None]
    assert [desk.inbox.get() for _ in range(2)] == [Execute(2, []), Execute(4, [])]
    assert desk.inbox.recall(4) is None


def test_while_batches_are_recalled_none_is_lost_and_none_comes_twice(desk: Desk) -> None:
    numbers, began = range(2, 600), list[int]()
    desk.begin(1)
    sender = threading.Thread(target=lambda: desk.send(*(Execute(number, []) for number in numbers)))
    given_back: list[int] = []
    recaller = threading.Thread(target=lambda: given_back.extend(n for n in reversed(numbers) if desk.inbox.recall(n)))
    for thread in (sender, recaller):
        thread.start()
    recaller.join(LIMIT_S)
    sender.join(LIMIT_S)
    desk.send(Stop())
    while not isinstance(message := desk.inbox.get(), Stop):
        began.append(message.batch)
    assert sorted(began + given_back) == list(numbers)
    assert began == sorted(began)


def test_after_a_pause_too(desk: Desk) -> None:
    desk.begin(1)
    arrived = threading.Thread(target=lambda: (parked(desk), desk.send(Execute(2, []))))
    arrived.start()
    message: Any = desk.inbox.get()
    assert message.batch == 2
    arrived.join()
    desk.send(Cancel(2, 0))
    assert desk.next() == (Cancel(2, 0), WATCH)


def parked(desk: Desk) -> None:
    """Waits until the watching thread sleeps without an end."""
    while not desk.inbox._parked:
        select.select([], [], [], 0.002)


def test_a_reply_that_the_model_waits_for_is_read_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.begin(1)
    monkeypatch.setattr(inbox, "MOMENT_S", 600)
    for batch in range(2, 20):
        desk.begin(batch)
        desk.waits = True
        desk.inbox.expect()
        desk.send(HostReply(batch))
        assert desk.next() == (HostReply(batch), WATCH)


def test_a_reply_that_a_thread_of_the_model_waits_for_when_a_batch_begins(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.begin(1)
    monkeypatch.setattr(inbox, "MOMENT_S", 600)
    desk.waits = True
    desk.begin(2)
    desk.send(HostReply(7))
    assert desk.next() == (HostReply(7), WATCH)


def test_the_server_can_always_go_on_sending(desk: Desk) -> None:
    desk.begin(1)
    desk.ours.settimeout(LIMIT_S)
    desk.send(*(Cancel(1, index) for index in range(20_000)))
    assert [desk.next()[0].index for _ in range(20_000)] == list(range(20_000))


@pytest.mark.parametrize("moment", [0.001, 600])
def test_the_end_of_the_server_ends_a_process_that_is_busy(
    desk: Desk, left: SimpleQueue[Any], monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    desk.begin(1)
    monkeypatch.setattr(inbox, "MOMENT_S", moment)
    desk.begin(2)
    desk.ours.close()
    assert left.get(timeout=LIMIT_S) == exits.PARENT_GONE


def test_the_end_of_the_server_ends_a_process_that_is_idle(desk: Desk, left: SimpleQueue[Any]) -> None:
    desk.begin(1)
    waits = threading.Thread(target=desk.inbox.get)
    waits.start()
    desk.ours.shutdown(socket.SHUT_WR)
    assert left.get(timeout=LIMIT_S) == exits.PARENT_GONE
    desk.inbox._handed.put(Stop())  # where the watching thread saw it first, the process would have ended by now
    waits.join(LIMIT_S)
    assert not waits.is_alive()


def test_a_message_that_nobody_understands_ends_the_process(
    desk: Desk, left: SimpleQueue[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    desk.begin(1)
    desk.send(Cancel(-1, 0))
    assert left.get(timeout=LIMIT_S) == exits.PROTOCOL
    assert "not for a worker" in capsys.readouterr().err


# -- where something else than a message is waited for


def test_what_is_there_comes_first_and_nothing_is_waited_for_when_it_is_over(desk: Desk) -> None:
    desk.begin(1)
    desk.send(Cancel(1, 0), Execute(2, []))
    assert desk.inbox.before(lambda: True) == Execute(2, [])
    assert desk.next() == (Cancel(1, 0), MAIN)
    assert desk.inbox.before(lambda: True) is None
    desk.send(Cancel(2, 0))
    assert desk.inbox.before(lambda: True) is None
    assert desk.next() == (Cancel(2, 0), MAIN)
    desk.send(Stop())
    assert isinstance(desk.inbox.before(lambda: False), Stop)


@pytest.mark.parametrize("moment_s", [0.001, 600])
@pytest.mark.parametrize("delay_s", [0.0001, 0.01, 0.06])
def test_a_batch_that_comes_meanwhile_is_found_whoever_reads(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, moment_s: float, delay_s: float
) -> None:
    desk.begin(1)
    monkeypatch.setattr(inbox, "MOMENT_S", moment_s)
    desk.begin(2)
    threading.Timer(delay_s, desk.send, (Execute(3, []),)).start()
    assert desk.inbox.before(lambda: False) == Execute(3, [])
    threading.Timer(delay_s, desk.send, (Execute(4, []),)).start()
    assert desk.inbox.get() == Execute(4, [])


def test_the_end_of_the_wait_is_found_without_a_message(desk: Desk) -> None:
    desk.begin(1)
    over = threading.Event()
    threading.Timer(0.03, over.set).start()
    assert desk.inbox.before(over.is_set) is None
    desk.begin(2)


def test_a_launched_batch_that_takes_long_hears_of_cancellations(desk: Desk) -> None:
    desk.begin(1)
    heard = threading.Event()
    threading.Timer(0.1, desk.send, (Cancel(1, 5),)).start()
    threading.Thread(target=lambda: (desk.next(), heard.set())).start()
    assert desk.inbox.before(heard.is_set) is None


def test_the_end_of_the_server_is_seen_meanwhile(desk: Desk, left: SimpleQueue[Any]) -> None:
    desk.begin(1)
    desk.ours.shutdown(socket.SHUT_WR)
    try:
        desk.inbox.before(lambda: not left.empty())
    except SystemExit:
        pass  # it was this thread that saw it
    assert left.get(timeout=LIMIT_S) == exits.PARENT_GONE


# -- where others live in the process


class Shared(Desk):
    """Its end is not that of the process."""

    def __init__(self) -> None:
        self.lost: queue.SimpleQueue[int] = queue.SimpleQueue()
        super().__init__()

    def make(self) -> Inbox:
        return Inbox(MessageChannel(self.theirs), self.dispatch, lambda: self.waits, self.lost.put)


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.inbox.close()
    assert not made.inbox._watcher.is_alive()
    made.ours.close()
    made.theirs.close()


@pytest.mark.parametrize("moment_s", [0.02, 600])
def test_the_end_of_the_server_is_told_to_a_thread_that_waits_for_a_batch(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, moment_s: float
) -> None:
    monkeypatch.setattr(inbox, "MOMENT_S", moment_s)
    shared.begin(1)
    threading.Timer(0.05, shared.ours.shutdown, (socket.SHUT_WR,)).start()
    assert isinstance(shared.inbox.get(), Stop)
    assert shared.lost.get(timeout=LIMIT_S) == exits.PARENT_GONE


def test_the_end_of_the_server_is_told_to_a_thread_that_is_busy(shared: Shared) -> None:
    shared.begin(1)
    shared.ours.shutdown(socket.SHUT_WR)
    assert shared.lost.get(timeout=LIMIT_S) == exits.PARENT_GONE
    assert isinstance(shared.inbox.get(), Stop)


def test_the_end_of_the_server_is_told_to_a_thread_that_loads(shared: Shared) -> None:
    shared.ours.shutdown(socket.SHUT_WR)
    assert shared.lost.get(timeout=LIMIT_S) == exits.PARENT_GONE
    assert isinstance(shared.inbox.get(), Stop)


def test_what_cannot_be_understood_ends_the_worker_alone(shared: Shared) -> None:
    shared.begin(1)
    shared.send(Cancel(-1, 0))
    assert shared.lost.get(timeout=LIMIT_S) == exits.PROTOCOL
    assert isinstance(shared.inbox.get(), Stop)


def test_after_the_word_to_stop_nothing_is_left(shared: Shared) -> None:
    shared.begin(1)
    shared.send(Stop())
    assert isinstance(shared.inbox.get(), Stop)
