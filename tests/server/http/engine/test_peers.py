"""A client address has as many connections as `max_connections_per_address` allows; one more hears why; no other suffers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.server.http.engine.listener import Listener
from jitney.server.http.engine.peers import Peers
from jitney.server.settings.addresses import Address, parse_address
from jitney.server.settings.settings import Settings
from jitney.tests.fakes.frontends import opened_fronts
from jitney.tests.fakes.plane import doubling, loaded
from jitney.tests.fakes.raw_http import Connection
from jitney.tools.bench.served import wait_until

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 3


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]


def refuse(path: str, error: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    return f"{error.code} {error.reason}", [], str(error.body).encode()


@contextlib.contextmanager
def listening(address: Address, limit: int = LIMIT) -> Iterator[Listener]:
    listener = Listener(application, address, name="x", threads=2, max_body=1000, refuse=refuse, per_address=limit)
    listener.start()
    try:
        yield listener
    finally:
        listener.close(5)


def from_address(host: str, listener: Listener) -> Connection:
    """A connection whose client has this address: all of 127.0.0.0/8 is this machine's."""
    connection = Connection.__new__(Connection)
    connection.buffer = b""
    connection.sock = socket.create_connection(("127.0.0.1", listener.address.port), 5, source_address=(host, 0))
    return connection


def answers(connection: Connection) -> bool:
    connection.send(PING)
    return connection.read().body == b"ok"


def test_one_more_is_told_why_and_others_are_served() -> None:
    with listening(parse_address("http://127.0.0.1:0")) as listener, contextlib.ExitStack() as stack:
        mine = [stack.enter_context(from_address("127.0.0.2", listener)) for _ in range(LIMIT)]
        assert all(answers(connection) for connection in mine)
        with from_address("127.0.0.2", listener) as fourth:
            answer = fourth.read()
            assert answer.status == 503 and answer.header("connection") == "close"
            assert (
                answer.body == b"127.0.0.2 has 3 connections, as many as one address may have (max_connections_per_address)"
            )
            assert fourth.closed()
        with from_address("127.0.0.3", listener) as other:
            assert answers(other)
        assert all(answers(connection) for connection in mine)


def test_a_connection_that_ends_makes_place() -> None:
    with listening(parse_address("http://127.0.0.1:0"), 1) as listener:
        for _ in range(20):
            with from_address("127.0.0.2", listener) as connection:
                assert answers(connection)
            wait_until(lambda: not listener._server.active_channels, 5, "the end of the connection")


def test_a_crowd_that_is_turned_away_takes_no_places() -> None:
    """Those that are told why stay for a moment, so they are bounded too; the rest is closed at once."""
    with listening(parse_address("http://127.0.0.1:0")) as listener, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(from_address("127.0.0.2", listener)) for _ in range(60)]
        with from_address("127.0.0.3", listener) as other:
            assert answers(other)
        assert len(listener._server.active_channels) <= 2 * LIMIT + 1
        assert sum(connection.closed() for connection in crowd[2 * LIMIT :]) == 60 - 2 * LIMIT


def test_a_client_that_has_sent_its_request_already_gets_the_answer() -> None:
    with listening(parse_address("http://127.0.0.1:0"), 1) as listener, from_address("127.0.0.2", listener) as first:
        assert answers(first)
        with from_address("127.0.0.2", listener) as second:
            second.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n" + bytes(900))
            assert second.read().status == 503


def test_unix_sockets_have_no_addresses(tmp_path: Path) -> None:
    with listening(parse_address(f"unix:{tmp_path / 'socket'}"), 1) as listener, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(listener.address)) for _ in range(5)]
        assert all(answers(connection) for connection in connections)


def test_without_a_limit_nothing_is_counted() -> None:
    peers, connection = Peers(), object()
    peers.enter(connection, "127.0.0.1")
    assert not peers.full("127.0.0.1")
    peers.leave(connection)


def test_an_end_that_is_said_twice_counts_once() -> None:
    peers, first, second = Peers(2), object(), object()
    for connection in (first, second):
        peers.enter(connection, "a")
    assert peers.full("a") and not peers.full("b")
    peers.leave(first)
    peers.leave(first)
    assert not peers.full("a")
    peers.enter(first, "a")
    assert peers.full("a")


@pytest.mark.parametrize(("limit", "fronts", "share"), [(0, 1, 0), (0, 4, 0), (10, 1, 10), (10, 4, 3), (1, 4, 1)])
def test_the_share_of_a_front_end(limit: int, fronts: int, share: int) -> None:
    text = {"max_connections_per_address": str(limit), "front_ends": str(fronts)}
    assert Settings.load(text, {}, Path("/")).connections_per_address == share


def test_front_ends_share_the_limit(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    with (
        loaded(tmp_path) as plane,
        opened_fronts(plane, front_ends=2, max_connections_per_address=4) as opened,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(Connection(opened.inference)) for _ in range(10)]
        statuses = []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.send(PING)
            with contextlib.suppress(EOFError):
                statuses.append(connection.read().status)
        assert statuses.count(200) == 4
        assert set(statuses) == {200, 503}
