"""The end of a front end's listener: whoever has a connection by then is answered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from jitney.core.errors import JitneyError
from jitney.server.frontends.child.accepting_listener import AcceptingListener
from jitney.server.frontends.shared_counters import SharedCounters
from jitney.server.settings.addresses import parse_address
from jitney.tests.fakes.raw_http import Connection
from jitney.tools.bench.served import wait_until

PATIENCE = 10.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", "5")])
    return [b"hello"]


def refuse(path: str, error: JitneyError) -> tuple[str, list[tuple[str, str]], bytes]:
    return "503 Service Unavailable", [], str(error).encode()


@pytest.fixture
def front() -> Iterator[AcceptingListener]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    counters = SharedCounters.create(1)
    listener = AcceptingListener(
        hello, parse_address("http://127.0.0.1:0"), name="inference", threads=2, max_body=100, refuse=refuse, sock=sock,
        counters=counters, index=0,
    )  # fmt: skip
    listener.start()
    yield listener
    listener.close()
    counters.close()


def test_who_connects_while_the_loop_has_not_come_to_the_end_yet_is_answered(front: AcceptingListener) -> None:
    """The thread that accepts has ended by then; the loop closes the socket when it comes to it, which may be later."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(PATIENCE)

    front._loop.post(hold)
    assert held.wait(PATIENCE)
    ending = threading.Thread(target=front.stop_accepting)
    ending.start()
    wait_until(lambda: not front._acceptor.is_alive(), PATIENCE, "the end of accepting")
    connection = Connection(front.address)
    connection.send(GET)
    go_on.set()
    assert connection.read().body == b"hello"
    connection.sock.close()
    ending.join(PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((front.address.host, front.address.port))
