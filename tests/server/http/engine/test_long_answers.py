"""Long answers in pieces, as plans make them: whole and in order, sent from where they lie, and at nobody else's cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from jitney.core import holding
from jitney.core.holding import COUNTED, Holdings
from jitney.core.request import Response
from jitney.server.http.engine.listener import Listener
from jitney.server.http.plan import InFlightRequest, PlanTable, Reply, ReplyHead, RoutePlan
from jitney.server.settings.addresses import parse_address
from jitney.tests.fakes.raw_http import Connection
from jitney.tests.server.http.engine.test_listener import eventually, refuse

LARGE = 8 << 20
HEAD = ReplyHead("200 OK", [("content-type", "text/plain")])
GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


class Pieces(RoutePlan):
    """Answers with what a test gives it."""

    def __init__(self, make: Callable[[], Reply]) -> None:
        recorder: Any = SimpleNamespace(tracing=SimpleNamespace(rules={}))
        super().__init__(recorder, recorder)
        self.guard: Any = SimpleNamespace(lets_all_pass=True)
        self._make = make

    def runs_inline(self, head: Any, nbytes: int) -> bool:
        return False

    def renders_inline(self, flight: InFlightRequest) -> bool:
        return False

    def begin(self, flight: InFlightRequest) -> None:
        flight.answered(Response(body=b"x"))

    def render(self, flight: InFlightRequest) -> Reply:
        return self._make()

    def refuse(self, flight: InFlightRequest, error: Exception) -> Reply:
        raise error


def pieces(*sizes: int) -> list[memoryview]:
    return [memoryview(bytes([number]) * size) for number, size in enumerate(sizes)]


class Site:
    """A listener, all of whose answers `make` makes."""

    def __init__(self) -> None:
        self.make: Callable[[], Reply] = lambda: Reply(HEAD)
        plans = PlanTable(lambda line: Pieces(self._made), SimpleNamespace(state=0))
        address = parse_address("http://127.0.0.1:0")
        self.listener = Listener(
            lambda *_: [], address, name="long", threads=1, max_body=1 << 20, refuse=refuse, plans=plans
        )
        self.listener.start()

    def _made(self) -> Reply:
        return self.make()

    @property
    def channels(self) -> list[Any]:
        return list(self.listener._server.active_channels.values())


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.listener.close(5)


@pytest.mark.parametrize("sizes", [[10], [COUNTED + 1], [LARGE, 0, 5, LARGE, COUNTED, 1], [1] * 1000 + [COUNTED]])
@pytest.mark.parametrize("begins", [b"", b"the first part"])
def test_an_answer_in_pieces_arrives_whole(site: Site, sizes: list[int], begins: bytes) -> None:
    rest = [memoryview(bytes([number % 256]) * size) for number, size in enumerate(sizes)]
    site.make = lambda: Reply(HEAD, (), begins, rest=rest)
    with Connection(site.listener.address) as connection:
        for _ in range(2):  # and the connection goes on
            connection.send(GET)
            assert connection.read().body == begins + b"".join(rest)
        connection.send(GET.replace(b"GET", b"HEAD"))
        told = connection.read(head_only=True)
        assert (told.header("content-length"), told.body) == (str(len(begins) + sum(sizes)), b"")


def test_large_chunks_of_a_stream_arrive_whole(site: Site) -> None:
    parts: Sequence[bytes | memoryview] = [b"small", *pieces(LARGE, COUNTED + 1), b"", b"end"]
    site.make = lambda: Reply(HEAD, stream=iter(parts))
    with Connection(site.listener.address) as connection:
        connection.send(GET)
        assert connection.read().body == b"".join(parts)
        connection.send(GET.replace(b"1.1", b"1.0"))  # which knows no chunks
        while not connection.closed():
            pass
        assert connection.buffer.partition(b"\r\n\r\n")[2] == b"".join(parts)


def test_pieces_that_nobody_reads_lie_where_they_were_and_keep_no_thread(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the one thread there is; and they are not counted a second time, as they are counted where they lie."""
    monkeypatch.setattr(holding, "process", Holdings())
    rest = pieces(LARGE, 100, LARGE)
    site.make = lambda: Reply(HEAD, (), b"{}", rest=rest)
    with Connection(site.listener.address) as silent, Connection(site.listener.address) as other:
        silent.send(GET)
        assert eventually(lambda: any(channel.total_outbufs_len > LARGE for channel in site.channels))
        (channel,) = [channel for channel in site.channels if channel.total_outbufs_len]
        waiting = [buffer for buffer in channel.outbufs if isinstance(buffer, holding.Unsent) and buffer]
        assert [buffer.get(1).obj for buffer in waiting[-3:]] == [piece.obj for piece in rest]
        assert holding.process.held == 100
        site.make = lambda: Reply(HEAD, (), b"small")
        other.send(GET)
        assert other.read().body == b"small"
        assert silent.read().body == b"{}" + b"".join(rest)
        assert eventually(lambda: holding.process.held == 0)
