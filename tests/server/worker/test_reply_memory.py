from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from jitney.server.ipc.memory import Region
from jitney.server.worker.reply_memory import ReplyMemory
from jitney.server.workers.channel import MessageChannel
from jitney.server.workers.messages import Results

SIZE = 1 << 20


@pytest.fixture
def channels() -> Iterator[tuple[MessageChannel, MessageChannel]]:
    ours, theirs = socket.socketpair()
    yield MessageChannel(ours), MessageChannel(theirs)
    ours.close()
    theirs.close()


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create("reply", SIZE)
    yield made
    made.close()


def results(batch: int) -> Results:
    return Results(batch, [], True)


def test_a_place_is_used_again_once_its_message_was_copied(
    region: Region, channels: tuple[MessageChannel, MessageChannel]
) -> None:
    memory = ReplyMemory(region)
    first, second = memory.put(b"a" * 5000), memory.put(b"b" * 5000)
    memory.send(channels[0], results(1), [first])
    memory.send(channels[0], results(2), [second])
    memory.copied(0)
    third = memory.put(b"c" * 5000)
    assert len({first.offset, second.offset, third.offset}) == 3
    memory.copied(1)
    assert memory.put(b"d" * 5000).offset == first.offset
    assert bytes(region.view(second.offset, 5000)) == b"b" * 5000
    assert [channels[1].receive() for _ in range(2)] == [results(1), results(2)]


def test_what_does_not_fit_waits_until_something_was_copied(
    region: Region, channels: tuple[MessageChannel, MessageChannel]
) -> None:
    asked = threading.Event()
    memory = ReplyMemory(region, asked.set)
    memory.send(channels[0], results(1), [memory.put(bytes(SIZE // 2)), memory.put(bytes(SIZE // 4))])
    placed: list[int] = []
    thread = threading.Thread(target=lambda: placed.append(memory.put(bytes(SIZE // 2)).nbytes))
    thread.start()
    assert asked.wait(10)
    assert memory.waiting()
    memory.copied(1)
    thread.join(10)
    assert (placed, memory.waiting()) == ([SIZE // 2], False)


@pytest.mark.parametrize("size", [SIZE + 1, 8 * SIZE])
def test_what_can_never_fit_is_refused(region: Region, size: int) -> None:
    with pytest.raises(ValueError, match=f"do not fit into the {SIZE} bytes"):
        ReplyMemory(region).put(bytes(size))


def test_what_was_copied_is_heard_while_a_message_waits_for_its_reader(
    region: Region, channels: tuple[MessageChannel, MessageChannel]
) -> None:
    """Else a server that waits to send, and a worker that waits to send, wait for each other."""
    memory = ReplyMemory(region)
    memory.send(channels[0], results(1), [memory.put(bytes(5000))])
    big = Results(2, [(0, msgspec.Raw(msgspec.msgpack.encode(bytes(4 << 20))))], True)
    sending = threading.Thread(target=memory.send, args=(channels[0], big, [memory.put(bytes(5000))]))
    sending.start()
    sending.join(0.1)
    assert sending.is_alive()  # nobody reads
    heard = threading.Thread(target=memory.copied, args=(1,), daemon=True)
    heard.start()
    heard.join(5)
    assert not heard.is_alive()
    channels[1].receive()
    channels[1].receive()
    sending.join(10)


def test_who_waits_for_room_hears_when_the_server_has_left(
    region: Region, channels: tuple[MessageChannel, MessageChannel]
) -> None:
    asked, heard = threading.Event(), []
    memory = ReplyMemory(region, asked.set)
    memory.send(channels[0], results(1), [memory.put(bytes(SIZE // 2)), memory.put(bytes(SIZE // 4))])

    def wait() -> None:
        with pytest.raises(ValueError, match="the server takes no answers any more"):
            memory.put(bytes(SIZE // 2))
        heard.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    assert asked.wait(10)
    memory.abandon()
    thread.join(10)
    assert heard == [True]
