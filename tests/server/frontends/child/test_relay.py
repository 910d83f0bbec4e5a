"""What is relayed as HTTP: what goes out, what comes back, and ends that come too early."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jitney.server.frontends.child.relay import Doorway, is_served
from jitney.server.frontends.peers import receive_peer, send_peer
from jitney.server.http.engine.body import BodyStream
from jitney.tools.bench.served import wait_until

LIMIT = 10.0


def named(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


class Scheduler:
    """Takes relayed connections, reads `wanted` bytes of each and answers with `answer`."""

    def __init__(self) -> None:
        self.ours, self.door = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.answer: Callable[[socket.socket], None] = lambda sock: sock.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        )
        self.seen: list[bytes] = []
        self.peers: list[tuple[str, str]] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            sock, peer = receive_peer(self.ours)
            if sock is None:
                return
            with sock:
                self.peers.append(peer)
                sock.settimeout(LIMIT)
                self.seen.append(sock.recv(1 << 20, 0))
                self.answer(sock)

    def close(self) -> None:
        self.door.close()
        self.thread.join(LIMIT)
        self.ours.close()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


class Exchange:
    """One request to a doorway."""

    def __init__(
        self, scheduler: Scheduler, method: str = "GET", path: str = "/models", limit: int = 1, **environ: Any
    ) -> None:
        self.started: list[Any] = []
        self.gone: list[Callable[[], None]] = []
        self.at_end: list[Callable[[], None]] = []
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            "REMOTE_PORT": "4711",
            "wsgi.input": BodyStream(b""),
            "jitney.headers": [],
            "jitney.on_disconnect": self.gone.append,
            "jitney.at_end": self.at_end,
            **environ,
        }
        self.doorway = Doorway(lambda *_: [b"served here"], scheduler.door, limit)

    def run(self) -> Any:
        return self.doorway(self.environ, lambda status, headers: self.started.append((status, headers)))


def test_a_request_goes_as_it_came(scheduler: Scheduler) -> None:
    headers = [("hOST", "a"), ("X-Twice", "1"), ("X-Twice", "\xe9"), ("Content-Length", "3"), ("Connection", "close")]
    exchange = Exchange(scheduler, "BREW", REQUEST_URI="/models//%41?a=%zz", **named("jitney.headers", headers))
    exchange.environ["wsgi.input"] = BodyStream(b"tea")
    assert exchange.run() == []
    wait_until(lambda: scheduler.seen, LIMIT, "the request")
    lines = ["BREW /models//%41?a=%zz HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    expected = "".join(f"{line}\r\n" for line in lines)
    assert scheduler.seen[0].partition(b"\r\n\r\n")[0] + b"\r\n" == expected.encode("latin-1")
    assert scheduler.peers == [("192.0.2.1", "4711")]


def test_an_answer_comes_as_it_was_made(scheduler: Scheduler) -> None:
    scheduler.answer = lambda sock: sock.sendall(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 203 All Mine\r\nX-MiXed: a: b\r\nSet-Cookie: 1\r\nSet-Cookie: 2\r\n"
        b"connection: close\r\ndate: now\r\ncontent-length: 4\r\n\r\nbody"
    )
    exchange = Exchange(scheduler)
    assert b"".join(exchange.run()) == b"body"
    [(status, headers)] = exchange.started
    assert status == "203 All Mine"
    assert headers == [("X-MiXed", "a: b"), ("Set-Cookie", "1"), ("Set-Cookie", "2"), ("content-length", "4")]
    assert exchange.environ["jitney.connection"] == "close"


def test_a_phrase_may_be_empty_and_an_answer_without_a_length_lasts_to_the_end(scheduler: Scheduler) -> None:
    scheduler.answer = lambda sock: sock.sendall(b"HTTP/1.1 200 \r\n\r\nto the end")
    exchange = Exchange(scheduler)
    assert b"".join(exchange.run()) == b"to the end" and exchange.started[0][0] == "200 "


def test_answers_without_a_body_have_none(scheduler: Scheduler) -> None:
    scheduler.answer = lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")
    assert Exchange(scheduler, "HEAD").run() == []


def test_a_stream_comes_chunk_by_chunk(scheduler: Scheduler) -> None:
    proceed = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        assert proceed.wait(LIMIT)
        sock.sendall(b"5\r\nthree\r\n0\r\n\r\n")

    scheduler.answer = answer
    chunks = iter(Exchange(scheduler).run())
    assert next(chunks) == b"one"
    proceed.set()
    assert list(chunks) == [b"three"]


def test_a_stream_that_is_cut_off_is_cut_off(scheduler: Scheduler) -> None:
    scheduler.answer = lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n5\r\nth")
    chunks = iter(Exchange(scheduler).run())
    assert next(chunks) == b"one"
    with pytest.raises(EOFError):
        next(chunks)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
)
def test_an_answer_that_ends_too_early_is_500(scheduler: Scheduler, answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.answer = lambda sock: sock.sendall(answer)
    exchange = Exchange(scheduler)
    assert b"Internal Server Error" in b"".join(exchange.run())
    assert exchange.started[0][0].startswith("500")
    assert "/models could not be relayed" in caplog.text


def test_a_client_that_goes_away_is_gone_for_the_scheduler_too(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    noticed: list[bytes] = []
    scheduler.answer = lambda sock: noticed.append(sock.recv(1))
    exchange = Exchange(scheduler)
    running = threading.Thread(target=exchange.run)
    running.start()
    wait_until(lambda: scheduler.seen, LIMIT, "the request")
    for gone in exchange.gone:
        gone()
    running.join(LIMIT)
    wait_until(lambda: noticed == [b""], LIMIT, "the news")
    assert "could not be relayed" not in caplog.text


def test_chunked_requests_stay_chunked(scheduler: Scheduler) -> None:
    exchange = Exchange(scheduler, "POST", **named("jitney.headers", [("Transfer-Encoding", "chunked")]))
    exchange.environ["wsgi.input"] = BodyStream(b"x" * 20)
    whole = io.BytesIO()

    def answer(sock: socket.socket) -> None:
        data = scheduler.seen.pop()
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(1 << 16)
        whole.write(data)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    scheduler.answer = answer
    exchange.run()
    assert whole.getvalue().endswith(b"\r\n\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n")


def test_a_request_that_cannot_be_taken_over_is_lost_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The system drops a descriptor that the process has no place for; the message about it still comes."""
    ours, door = socket.socketpair(type=socket.SOCK_SEQPACKET)
    client, theirs = socket.socketpair()
    with ours, door, client, theirs:
        door.send(b"192.0.2.1\x004711")
        send_peer(door, theirs, "192.0.2.2", "4712")
        sock, peer = receive_peer(ours)
        assert sock is not None and peer == ("192.0.2.2", "4712")
        sock.close()
    assert "no file descriptor left" in caplog.text


def test_the_limit_is_for_what_may_wait_and_not_for_health(scheduler: Scheduler) -> None:
    exchange = Exchange(scheduler)
    exchange.run()
    assert b'"code": 503' in b"".join(exchange.run()) and exchange.environ["jitney.connection"] == "close"
    exchange.environ["PATH_INFO"] = "/v2/models/m/generate"
    assert b"".join(exchange.run()).startswith(b'{"error":"the server answers 1 requests already')
    for path in ("/ping", "/ping/x", "/v2/health/ready"):
        exchange.environ["PATH_INFO"] = path
        exchange.run()
    assert [status[:3] for status, _ in exchange.started] == ["200", "503", "503", "200", "200", "200"]
    assert [("retry-after", "1") in headers for _, headers in exchange.started[:3]] == [False, True, True]
    exchange.at_end[0]()
    exchange.environ["PATH_INFO"] = "/models"
    exchange.run()
    assert exchange.started[-1][0] == "200 OK"


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("/predictions/m", True),
        ("/predictions/m/", True),
        ("/predictions/m/1.0/any/where", True),
        ("/explanations/m", True),
        ("/v1/models/m:predict", True),
        ("/v2/models/m/infer", True),
        ("/v2/models/m/versions/1/infer", True),
        ("/predictions", False),
        ("/predictions//m", False),
        ("/v2/models/m/infer/", False),
        ("/v2/models/m/explain", False),
        ("/v2/models/m", False),
        ("/m/predict", False),
        ("/ping", False),
        ("/models/m/invoke", False),
        ("/", False),
    ],
)
def test_what_a_front_end_serves_itself(path: str, here: bool) -> None:
    assert is_served(path) is here
