"""What one connection does to the others. The rest of a channel: test_listener."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from waitress.buffers import OverflowableBuffer

from jitney.core.holding import Unsent
from jitney.server.http.engine.channel import SENT_AT_ONCE, Channel

LONG = 10 * SENT_AT_ONCE


class Thirsty:
    """A socket whose client takes whatever it is sent."""

    def __init__(self) -> None:
        self.taken = 0

    def send(self, data: memoryview) -> int:
        self.taken += len(data)
        return len(data)


@pytest.fixture
def channel() -> Any:
    """One with a long answer that the socket did not take at once."""
    made: Any = Channel.__new__(Channel)
    made.socket, made.connected, made.requests, made.sendbuf_len = Thirsty(), True, [], 1 << 18
    made.adj = SimpleNamespace(send_bytes=1)
    made.outbufs, made.total_outbufs_len = [Unsent(memoryview(bytes(LONG))), OverflowableBuffer(1 << 20)], LONG
    made.will_close = made.close_when_flushed = False
    return made


def test_a_client_that_takes_a_long_answer_as_fast_as_it_is_sent_leaves_the_loop_to_others(channel: Any) -> None:
    """However quick it is: it would have all of the answer before anybody else is served."""
    turns = 0
    while channel.total_outbufs_len:
        before = channel.socket.taken
        channel.handle_write()
        assert 0 < channel.socket.taken - before <= SENT_AT_ONCE + channel.sendbuf_len
        turns += 1
    assert (channel.socket.taken, turns) == (LONG, 10)


def test_a_thread_of_the_pool_sends_what_is_taken(channel: Any) -> None:
    """It has nobody else to serve."""
    channel.handle_write()
    assert channel._flush_some(do_close=False)
    assert (channel.socket.taken, channel.total_outbufs_len) == (LONG, 0)
