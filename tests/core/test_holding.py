"""What a process holds for its clients: counted while the memory is there, and bounded."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from jitney.core import holding
from jitney.core.call import Call
from jitney.core.errors import HoldsTooMuch
from jitney.core.holding import COUNTED, SPARED, Body, Holdings, Pile, Unsent
from jitney.core.request import Request, Response
from jitney.server.settings.addresses import parse_address
from jitney.server.settings.settings import Settings
from jitney.tools.bench.served import wait_until

BIG = 10 * COUNTED
ADDRESS = parse_address("http://127.0.0.1:0")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holdings]:
    """This process', as good as new, with room for three pieces of BIG bytes."""
    fresh = Holdings(3 * BIG)
    monkeypatch.setattr(holding, "process", fresh)
    yield fresh
    gc.collect()
    assert fresh.held == 0


def test_what_would_be_too_much_is_refused_and_has_room_when_something_has_gone() -> None:
    holdings = Holdings(100)
    assert holdings.take(60) and not holdings.take(41) and holdings.take(40)
    assert holdings.held == 100 and not holdings.has_room(1)
    holdings.give(60)
    assert holdings.has_room(60) and not holdings.has_room(61)


def test_one_piece_is_always_taken_where_nothing_else_is_held() -> None:
    holdings = Holdings(100)
    assert holdings.take(1000) and not holdings.take(1)
    holdings.give(1000)
    assert holdings.take(1)


def test_what_is_there_already_counts_whatever_the_limit() -> None:
    holdings = Holdings(100)
    holdings.add(150)
    assert holdings.held == 150 and not holdings.take(1)


def test_giving_back_takes_no_lock() -> None:
    """A finalizer may run in the middle of `take`, in the same thread."""
    holdings = Holdings(100)
    holdings.take(50)
    with holdings._lock:
        holdings.give(50)
    assert holdings.held == 0


def test_memory_is_counted_until_the_last_view_of_it_is_gone(process: Holdings) -> None:
    view = holding.memory(BIG)
    array = np.frombuffer(view, np.uint8)[10:]
    del view
    assert process.held == BIG
    del array
    assert process.held == 0


def test_there_is_no_memory_beyond_the_limit(process: Holdings) -> None:
    kept = [holding.memory(BIG) for _ in range(3)]
    with pytest.raises(HoldsTooMuch, match=f"may hold {3 * BIG} .max_held_bytes."):
        holding.memory(BIG)
    assert len(kept.pop()) == BIG
    assert len(holding.memory(BIG)) == BIG


def test_a_body_is_counted_as_it_grows_and_not_while_it_is_small(process: Holdings) -> None:
    body = Body()
    body += bytes(COUNTED)
    assert body.grown() and process.held == 0
    body += b"x"
    assert body.grown() and process.held == COUNTED + 1
    others = holding.memory(3 * BIG - COUNTED - 1)
    body += b"x"
    assert not body.grown()
    view = memoryview(body)
    del body
    assert process.held == 3 * BIG
    del view, others
    assert process.held == 0


def test_an_unsent_answer_is_offered_in_pieces_without_a_copy(process: Holdings) -> None:
    data = bytes(range(256)) * 4
    rest = Unsent(memoryview(data)[1:])
    assert len(rest) == 1023 and process.held == 1023
    assert rest.get(10) == data[1:11] and rest.get(10).obj is data
    rest.skip(10, True)
    assert rest.get(5, skip=True) == data[11:16] and rest.get() == data[16:] and len(rest) == 1008
    assert process.held == 1023  # it is one piece of memory, to its end
    rest.close()
    rest.close()
    assert process.held == 0 and len(rest) == 0 and bytes(rest.get()) == b""


def test_a_stream_that_nobody_reads_ends_where_the_process_holds_too_much(process: Holdings) -> None:
    call = Call(Request())
    part = bytes(COUNTED // 2)
    sent = 0
    while call.answer(Response(body=part, final=False)):
        sent += len(part)
        assert sent < 2 * process.limit
    assert sent > SPARED // 2 and isinstance(call.error, HoldsTooMuch)
    assert [len(response.body or b"") for response in _until_error(call)] == [len(part)] * (sent // len(part))


def _until_error(call: Call) -> Iterator[Response]:
    with pytest.raises(HoldsTooMuch):
        yield from call.stream(1)


def test_a_stream_that_is_read_is_not_bounded(process: Holdings) -> None:
    call = Call(Request())
    for _ in range(200):
        assert call.answer(Response(body=bytes(COUNTED), final=False))
        call.result(1)
    assert process.held == 0


def test_what_is_left_in_a_pile_goes_with_it(process: Holdings) -> None:
    pile = Pile()
    pile.put(1000)
    pile.put(COUNTED + 1)  # counted elsewhere
    assert process.held == pile.nbytes > 1000 and not pile.is_too_much
    del pile


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_held_bytes": 1 << 30}, 1 << 30),
        ({"max_held_bytes": 1 << 30, "front_ends": 3}, 1 << 28),
        ({"max_held_bytes": 1 << 20, "max_request_size": 3 << 20, "max_response_size": 4 << 20}, 7 << 20),
        ({"max_held_bytes": 1 << 30, "cache_config": 5}, (1 << 30) + 5),
    ],
)
def test_a_process_has_its_share_and_as_much_as_one_request_may_need(
    options: dict[str, int], expected: int, process: Holdings
) -> None:
    holding.limit(Settings(ADDRESS, ADDRESS, ADDRESS, **options).held_bytes)  # type: ignore[arg-type]
    assert process.limit == expected


def test_what_the_system_has_no_memory_for_is_refused_and_not_counted(
    process: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", nothing)
    with pytest.raises(HoldsTooMuch, match=f"the system has no memory for {BIG} bytes more"):
        holding.memory(BIG)
    assert process.held == 0


def test_who_lets_go_of_a_large_body_does_not_wait_until_its_memory_is_given_back() -> None:
    body = Body()
    for _ in range(256):
        body += bytes(1 << 20)
    view, before = memoryview(body), psutil.Process().memory_info().rss
    del body
    assert bytes(view[-2:]) == b"\0\0"
    began = time.thread_time()
    del view
    assert time.thread_time() - began < 0.01  # 0.03 s where this thread does it
    wait_until(lambda: psutil.Process().memory_info().rss < before - (200 << 20), 5.0, "the memory")
    wait_until(lambda: all(thread.name != "jitney-free" for thread in threading.enumerate()), 5.0, "the end of the thread")
