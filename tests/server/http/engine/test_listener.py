"""Listeners over real sockets: framing that could be read in two ways, refused bodies, clients that go away, draining."""

import errno
import logging
import resource
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.core import holding
from jitney.core.errors import InvalidConfig
from jitney.core.holding import COUNTED, Holdings
from jitney.server.http.engine import listener as listener_module
from jitney.server.http.engine import server
from jitney.server.http.engine.body import MAX_CHUNKS
from jitney.server.http.engine.channel import HALF_CLOSED_SECONDS
from jitney.server.http.engine.listener import AddressInUse, Listener
from jitney.server.settings.addresses import Address, parse_address
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.raw_http import Connection, ask

ANY_PORT = parse_address("http://127.0.0.1:0")
MAX_BODY = 1000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: More than the buffers of a connection take.
LARGE = 16 << 20


class Site:
    """A WSGI application whose routes a test can hold back. `seen` lists the bodies that reached it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.entered, self.release, self.gone = threading.Semaphore(0), threading.Event(), threading.Event()
        self.ended = threading.Semaphore(0)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["jitney.at_end"].append(self.ended.release)
        self.seen.append(environ["wsgi.input"].read())
        path = environ["PATH_INFO"]
        if path == "/headers":
            return self._answer(start_response, repr(environ["jitney.headers"]).encode())
        if path == "/wait":
            environ["jitney.on_disconnect"](self.gone.set)
            self.entered.release()
            self.release.wait(10)
        if path == "/stream":
            start_response("200 ", [])
            return self._stream()
        if path == "/error":
            environ["jitney.connection"] = "close"
        if path == "/crash":
            raise RuntimeError("the application failed")
        return self._answer(start_response, b"len %d" % len(self.seen[-1]))

    def _answer(self, start_response: Callable[..., Any], body: bytes) -> list[bytes]:
        start_response("200 OK", [("content-length", str(len(body)))])
        return [body]

    def _stream(self) -> Iterator[bytes]:
        yield b"first"
        self.release.wait(10)
        yield b"second"


def refuse(path: str, error: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    return f"{error.code} {error.reason}", [("x-path", path)], str(error.body).encode()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def listener(site: Site) -> Iterator[Any]:
    before = Inventory()
    listener = Listener(site, ANY_PORT, name="inference", threads=3, max_body=MAX_BODY, refuse=refuse)
    listener.start()
    yield listener
    site.release.set()
    listener.close(5)
    assert before.new(kind="thread") == []


@pytest.fixture
def connection(listener: Any) -> Iterator[Connection]:
    with Connection(listener.address) as connection:
        yield connection


def test_the_client_s_spelling_of_headers_reaches_the_application(connection: Connection) -> None:
    connection.send(b"GET /headers HTTP/1.1\r\nHOst: a\r\nx-Foo_bar:  1 \r\nX-Twice: a\r\nX-Twice: b\r\n\r\n")
    assert connection.read().body == b"[('HOst', 'a'), ('x-Foo_bar', '1'), ('X-Twice', 'a'), ('X-Twice', 'b')]"


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    connection.send(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
        b"xGET / HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert [connection.read().body for _ in range(3)] == [b"len 3", b"len 1", b"len 0"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: +3",
        b"Content-Length: 0x3",
        b"Content-Length: 3,3",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: xchunked",
        b"Content-Length : 3",
        b" Content-Length: 3",
        b"X: a\nContent-Length: 3",
    ],
)
def test_a_request_whose_end_is_ambiguous_is_refused_and_closes(site: Site, connection: Connection, head: bytes) -> None:
    connection.send(
        b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
    )
    answer = connection.read()
    assert answer.status in (400, 501) and answer.header("connection") == "close"
    assert connection.closed()
    assert site.seen == []


def test_a_transfer_coding_in_http_1_0_is_refused(site: Site, connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert connection.read().status == 400
    assert connection.closed() and site.seen == []


def test_garbage_is_refused(connection: Connection) -> None:
    connection.send(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
    assert connection.read().status == 400
    assert connection.closed()


def test_malformed_headers_are_refused_in_the_way_of_the_path_and_method(connection: Connection) -> None:
    connection.send(b"HEAD /v2/models/m HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    head = connection._until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"x-path: /v2/models/m" in head
    assert connection.closed() and not connection.buffer


def test_headers_have_a_limit(connection: Connection) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
    assert connection.read().status == 431
    assert connection.closed()


def test_chunked_bodies_arrive_whole_up_to_the_limit(connection: Connection) -> None:
    wire = b"".join(b"a\r\n0123456789\r\n" for _ in range(MAX_BODY // 10)) + b"0\r\n\r\n"
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.read().body == b"len %d" % MAX_BODY
    assert connection.read().body == b"len 0"


def test_a_chunked_body_over_the_limit_is_413_and_closes(site: Site, connection: Connection) -> None:
    wire = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    answer = connection.read()
    assert answer.status == 413 and answer.header("connection") == "close"
    assert connection.closed() and site.seen == []


def test_a_million_chunks_cost_little_and_are_refused(listener: Any, connection: Connection) -> None:
    began = time.monotonic()
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(100):
            connection.send(b"1\r\nx\r\n" * 10_000)
    except OSError:
        pass  # the server stopped reading
    assert connection.read().status == 413
    assert time.monotonic() - began < 5
    assert MAX_BODY < MAX_CHUNKS  # here the limit of bytes came first; the limit of chunks has its own test
    assert ask(listener.address, "GET", "/").status == 200


def test_a_body_over_the_limit_is_refused_at_once_and_dropped(site: Site, connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    answer = connection.read()
    assert answer.status == 413 and answer.header("connection") is None
    connection.send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".ljust(100_000, b"x"))
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
    assert connection.read().body == b"len 2"
    assert site.seen == [b"ok"]


def test_a_refused_body_with_connection_close_closes(connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    answer = connection.read()
    assert answer.status == 413 and answer.header("connection") == "close"
    assert connection.closed()


def test_a_body_of_the_limit_is_taken(connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    assert connection.read().body == b"len 1000"


def test_expect_continue_is_answered_before_the_body(connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert connection.read().status == 100
    connection.send(b"abc")
    assert connection.read().body == b"len 3"


def test_expect_continue_without_a_body_is_answered(connection: Connection) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
    assert connection.read().status == 200


def test_expect_continue_with_too_much_is_refused_and_nothing_after_it_is_trusted(
    site: Site, connection: Connection
) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
    assert connection.read().status == 413
    assert not connection.closed(within=0.1)
    connection.send(b"GET /body-or-request HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.closed() and site.seen == []


def test_an_unknown_expectation_is_417(site: Site, connection: Connection) -> None:
    connection.send(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: tea\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert connection.read().status == 417
    assert connection.read().body == b"len 0"
    assert site.seen == [b""]


def test_slow_clients_hold_no_thread(listener: Any) -> None:
    slow = [Connection(listener.address) for _ in range(listener.threads * 3)]
    for connection in slow:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert ask(listener.address, "GET", "/").status == 200
    for connection in slow:
        connection.send(b"defghij")
    assert [connection.read().body for connection in slow] == [b"len 10"] * len(slow)
    for connection in slow:
        connection.sock.close()


def test_chunks_of_a_stream_leave_at_once_and_the_connection_goes_on(site: Site, connection: Connection) -> None:
    connection.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    head = connection._until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"chunked" in head
    assert connection._until(b"\r\n") == b"5" and connection._exactly(7) == b"first\r\n"
    site.release.set()
    assert connection._until(b"0\r\n\r\n") == b"6\r\nsecond\r\n"
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.read().body == b"len 0"


def test_a_stream_for_http_1_0_ends_with_the_connection(site: Site, connection: Connection) -> None:
    site.release.set()
    connection.send(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"chunked" not in connection._until(b"\r\n\r\n")
    while connection._fill():
        pass
    assert connection.buffer == b"firstsecond"


def test_the_application_is_told_when_its_client_goes_away(site: Site, listener: Any) -> None:
    with Connection(listener.address) as connection:
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
    assert site.gone.wait(5)
    site.release.set()
    assert site.ended.acquire(timeout=5)


def test_an_answered_request_is_not_told_of_a_later_end(site: Site, listener: Any) -> None:
    site.release.set()
    with Connection(listener.address) as connection:
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.read()
        connection.read()
        assert site.ended.acquire(timeout=5) and site.ended.acquire(timeout=5)
    assert ask(listener.address, "GET", "/").status == 200
    assert not site.gone.is_set()


def test_a_failing_application_gives_500_and_closes(
    site: Site, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, logger="waitress"):
        connection.send(b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.read().status == 500
    assert connection.closed()


def test_the_application_can_close_the_connection(connection: Connection) -> None:
    connection.send(b"GET /error HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.read().header("connection") == "close"
    assert connection.closed()


@pytest.mark.parametrize(
    ("request_head", "closes"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, Close\r\n", True),
        (b"GET / HTTP/1.0\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_the_client_s_wish_for_the_connection_is_honoured(connection: Connection, request_head: bytes, closes: bool) -> None:
    connection.send(request_head + b"\r\n")
    assert (connection.read().header("connection") == "close") is closes
    assert connection.closed(within=5 if closes else 0.1) is closes


def test_draining_answers_what_was_accepted_and_refuses_the_rest(site: Site, listener: Any) -> None:
    with Connection(listener.address) as idle, Connection(listener.address) as busy:
        idle.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.read()
        busy.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        listener.stop_accepting()
        assert idle.closed()
        with pytest.raises(ConnectionRefusedError):
            Connection(listener.address)
        site.release.set()
        answer = busy.read()
        assert answer.status == 200 and answer.header("connection") == "close"
        assert busy.closed()
    began = time.monotonic()
    listener.close(5)
    assert time.monotonic() - began < 2


def test_closing_does_not_wait_longer_than_it_may(site: Site) -> None:
    listener = Listener(site, ANY_PORT, name="inference", threads=1, max_body=10, refuse=refuse)
    listener.start()
    with Connection(listener.address) as busy:
        busy.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.getLogger("waitress"), "disabled", True)
            listener.close(0.2)
        assert time.monotonic() - began < 2
        assert busy.closed()
    site.release.set()


def test_who_waits_to_be_accepted_at_the_end_is_answered_however_late_the_loop_comes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have no processor, or a lot to do."""
    monkeypatch.setattr(listener_module, "SOON_S", 0.0)
    listener = Listener(site, ANY_PORT, name="inference", threads=1, max_body=10, refuse=refuse)
    listener.start()
    busy, free = threading.Event(), threading.Event()

    def keep() -> None:
        busy.set()
        free.wait(5)

    listener._loop.post(keep)
    assert busy.wait(5)
    with Connection(listener.address) as client:
        client.send(GET)
        threading.Timer(0.1, free.set).start()
        listener.close(5)
        assert client.read().status == 200


def test_a_busy_port_is_named_with_its_setting(listener: Any, site: Site) -> None:
    with pytest.raises(AddressInUse, match=rf"inference_address=http://127.0.0.1:{listener.address.port}.*already in use"):
        Listener(site, listener.address, name="inference", threads=1, max_body=1, refuse=refuse)


def test_an_address_of_another_machine_is_refused(site: Site) -> None:
    with pytest.raises(AddressInUse, match=r"metrics_address=http://192\.0\.2\.1:1: .*cannot be used"):
        Listener(site, Address("http", "192.0.2.1", 1), name="metrics", threads=1, max_body=1, refuse=refuse)


def test_a_front_without_tls_says_so(site: Site) -> None:
    with pytest.raises(InvalidConfig, match="TLS"):
        Listener(site, Address("https", "127.0.0.1", 0), name="inference", threads=1, max_body=1, refuse=refuse)


def test_unix_sockets(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    address = Address("unix", path=str(path))
    listener = Listener(site, address, name="inference", threads=1, max_body=10, refuse=refuse)
    listener.start()
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        assert ask(address, "POST", "/", b"abc").body == b"len 3"
        with pytest.raises(AddressInUse):
            Listener(site, address, name="inference", threads=1, max_body=10, refuse=refuse)
        assert ask(address, "POST", "/", b"abc").body == b"len 3"
    finally:
        listener.close(5)
    assert not path.exists()


def test_requests_with_equal_heads_share_nothing_but_the_head(site: Site, listener: Any) -> None:
    head = b"POST /headers HTTP/1.1\r\nHost: x\r\nX-A: b\r\nContent-Length: 3\r\n\r\n"
    for _ in range(2):  # also on a connection of its own, which has another port
        with Connection(listener.address) as connection:
            for body in (b"abc", b"def"):
                connection.send(head + body)
                assert connection.read().body == b"[('Host', 'x'), ('X-A', 'b'), ('Content-Length', '3')]"
    assert site.seen == [b"abc", b"def"] * 2


def test_a_known_head_may_come_in_pieces_and_with_company(site: Site, connection: Connection) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX-A: c\r\nContent-Length: 3\r\n\r\n"
    connection.send(head + b"abc")
    assert connection.read().body == b"len 3"
    connection.send(head[:20])
    time.sleep(0.02)
    connection.send(head[20:] + b"d")
    time.sleep(0.02)
    connection.send(b"ef" + head + b"ghi" + head + b"jkl")
    assert [connection.read().body for _ in range(3)] == [b"len 3"] * 3
    assert site.seen == [b"abc", b"def", b"ghi", b"jkl"]


# -- as many connections as there may be -----------------------------------------------------------------------------------


def test_a_port_goes_on_after_its_connection_limit(listener: Any) -> None:
    listener._server.adj.connection_limit = 3
    kept = [Connection(listener.address) for _ in range(3)]
    for connection in kept:
        connection.send(GET)
        assert connection.read().status == 200
    waiting = Connection(listener.address, timeout=0.3)
    waiting.send(GET)
    with pytest.raises(TimeoutError):
        waiting.read()
    for connection in kept:
        connection.sock.close()  # all of them: nobody is connected
    waiting.sock.settimeout(5)
    assert waiting.read().status == 200
    waiting.sock.close()
    with Connection(listener.address) as later:
        later.send(GET)
        assert later.read().status == 200


def test_who_waits_gets_the_place_of_who_has_been_idle_for_the_longest_time(
    site: Site, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SPARE_SECONDS", 0.0)
    monkeypatch.setattr(server, "ROOM_SECONDS", 60.0)
    listener._server.adj.connection_limit = 3
    with Connection(listener.address) as busy, Connection(listener.address) as first, Connection(listener.address) as second:
        busy.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        for idle in (first, second):
            idle.send(GET)
            assert idle.read().status == 200
        with Connection(listener.address) as waiting:
            waiting.send(GET)
            assert waiting.read().status == 200
        assert first.closed()
        second.send(GET)
        assert second.read().status == 200
        site.release.set()
        assert busy.read().status == 200


def test_a_process_without_descriptors_goes_on_when_it_has_some(listener: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Connection(listener.address) as before, Connection(listener.address) as waiting:
        before.send(GET)
        assert before.read().status == 200
        waiting.send(GET)
        assert waiting.read().status == 200
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        late = socket.socket()
        late.settimeout(0.3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
        try:
            late.connect((listener.address.host, listener.address.port))
            late.sendall(GET)
            with pytest.raises(TimeoutError):
                late.recv(1)
            before.send(GET)
            assert before.read().status == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.settimeout(5)
        assert late.recv(12) == b"HTTP/1.1 200"
        late.close()
    assert len([r for r in caplog.records if "no connection can be accepted" in r.getMessage()]) == 1


def test_all_that_wait_are_accepted_at_once(site: Site) -> None:
    """A pass of the loop is long where its threads decode images: at one connection a pass, clients waited for seconds."""
    listener = Listener(site, ANY_PORT, name="test", threads=1, max_body=MAX_BODY, refuse=refuse)
    clients = [socket.create_connection((listener.address.host, listener.address.port)) for _ in range(20)]
    try:
        listener._server.accepting = True
        listener._server.handle_accept()
        assert len(listener._server.active_channels) == 20
    finally:
        for client in clients:
            client.close()
        listener.close()


def test_a_connection_that_cannot_be_served_does_not_close_the_port(
    listener: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = listener._server.channel_class

    def fail(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(listener._server, "channel_class", usual)
        raise OSError(errno.ENOSPC, "no space left for another descriptor to watch")

    monkeypatch.setattr(listener._server, "channel_class", fail)
    with Connection(listener.address) as lost:
        assert lost.closed()
    with Connection(listener.address) as connection:
        connection.send(GET)
        assert connection.read().status == 200
    assert "a connection cannot be served" in caplog.text


# -- what all connections hold ---------------------------------------------------------------------------------------------


@pytest.fixture
def holdings(monkeypatch: pytest.MonkeyPatch) -> Holdings:
    """What this process holds, as good as nothing, with room for a little more than one large piece."""
    fresh = Holdings(LARGE + LARGE // 2)
    monkeypatch.setattr(holding, "process", fresh)
    return fresh


def test_an_answer_that_nobody_reads_is_held_once_and_goes_with_its_client(holdings: Holdings) -> None:
    body = bytes(LARGE)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("content-length", str(LARGE))])
        return [body]

    listener = Listener(app, ANY_PORT, name="inference", threads=1, max_body=MAX_BODY, refuse=refuse)
    listener.start()
    try:
        with Connection(listener.address) as connection:
            connection.send(GET)
            assert eventually(lambda: LARGE // 2 < holdings.held <= LARGE)
            (channel,) = listener._server.active_channels.values()
            assert any(buffer.get(1).obj is body for buffer in channel.outbufs if isinstance(buffer, holding.Unsent))
            head = connection.sock.recv(4096)
            left = LARGE - len(head.partition(b"\r\n\r\n")[2])
            while left:
                left -= len(connection.sock.recv(left))
            assert eventually(lambda: holdings.held == 0)
            connection.send(GET)
            assert eventually(lambda: holdings.held > 0)
        assert eventually(lambda: holdings.held == 0)
    finally:
        listener.close(5)


@pytest.mark.parametrize(
    "behind", [b"GET /bad HTTP/1.1\r\nHost x\r\n\r\n", b"GET /inline HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["refused", "inline"]
)
def test_requests_behind_an_answer_that_nobody_reads_keep_no_other_client_waiting(behind: bytes) -> None:
    body = bytes(LARGE)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answer = body if environ["PATH_INFO"] == "/large" else b"small"
        start_response("200 OK", [("content-length", str(len(answer)))])
        return [answer]

    listener = Listener(app, ANY_PORT, name="inference", threads=1, max_body=MAX_BODY, refuse=refuse, inline={"/inline"})
    listener.start()
    try:
        with Connection(listener.address) as silent:
            silent.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" + behind)
            assert eventually(lambda: any(channel._held for channel in listener._server.active_channels.values()))
            for path in (b"/inline", b"/other"):  # the loop's thread, and the only one of the pool
                with Connection(listener.address) as other:
                    other.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                    assert other.read().body == b"small"
            assert silent.read().body == body
            assert silent.read().status == (400 if b"bad" in behind else 200)
    finally:
        listener.close(5)


def test_a_body_that_there_is_no_room_for_is_refused_with_503(site: Site, holdings: Holdings) -> None:
    listener = Listener(site, ANY_PORT, name="inference", threads=1, max_body=4 * LARGE, refuse=refuse)
    listener.start()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    try:
        with (
            Connection(listener.address) as slow,
            Connection(listener.address) as other,
            Connection(listener.address) as third,
        ):
            slow.send(head % LARGE + bytes(LARGE - 1))
            assert eventually(lambda: holdings.held == LARGE - 1)
            other.send(head % (2 * LARGE) + bytes(COUNTED))
            answer = other.read()
            assert answer.status == 503 and b"max_held_bytes" in answer.body
            assert other.closed()
            third.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % LARGE + bytes(LARGE))
            assert third.read().status == 503
        with Connection(listener.address) as small:
            small.send(head % 3 + b"abc")
            assert small.read().body == b"len 3"
            assert eventually(lambda: holdings.held == 0)
            small.send(head % LARGE + bytes(LARGE))
            assert small.read().body == b"len %d" % LARGE
    finally:
        listener.close(5)


def test_an_idle_thread_keeps_nothing_of_its_last_task(site: Site) -> None:
    class Task:
        def __init__(self, done: threading.Event) -> None:
            self.done = done

        def service(self) -> None:
            self.done.set()

    listener = Listener(site, ANY_PORT, name="inference", threads=1, max_body=MAX_BODY, refuse=refuse)
    listener.start()
    try:
        done = threading.Event()
        task = Task(done)
        gone = weakref.ref(task)
        listener._dispatcher.add_task(task)
        del task
        assert done.wait(5)
        assert eventually(lambda: gone() is None)
    finally:
        listener.close(5)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


# -- clients that end their side first -------------------------------------------------------------------------------------


def test_a_client_that_sends_nothing_more_gets_all_its_answers(site: Site, listener: Any) -> None:
    with Connection(listener.address) as connection:
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.sock.shutdown(socket.SHUT_WR)
        assert site.entered.acquire(timeout=5)
        assert not site.gone.wait(0.1)
        site.release.set()
        assert [connection.read().body, connection.read().body] == [b"len 0"] * 2
        assert connection.closed()
    assert not site.gone.is_set()


def test_one_whose_answer_does_not_begin_is_taken_for_gone(site: Site, listener: Any) -> None:
    began = time.monotonic()
    with Connection(listener.address) as connection:
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.closed()
    assert time.monotonic() - began >= HALF_CLOSED_SECONDS
    assert site.gone.wait(5)  # what waits for the answer is told after the connection is closed


def test_a_stream_is_sent_to_its_end_as_long_as_it_comes(site: Site, listener: Any) -> None:
    with Connection(listener.address) as connection:
        connection.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection._until(b"first\r\n")
        connection.sock.shutdown(socket.SHUT_WR)
        assert not connection.closed(HALF_CLOSED_SECONDS / 2)
        site.release.set()
        assert connection._until(b"0\r\n\r\n") == b"6\r\nsecond\r\n"
        assert connection.closed()


def test_a_request_that_is_cut_short_is_not_waited_for(site: Site, listener: Any) -> None:
    with Connection(listener.address) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.closed()
    assert site.seen == []


def test_waiting_for_a_half_closed_client_costs_no_turns_of_the_loop(site: Site, listener: Any) -> None:
    with Connection(listener.address) as connection:
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        connection.sock.shutdown(socket.SHUT_WR)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.2
        site.release.set()
        assert connection.read().status == 200


def test_a_request_on_a_kept_connection_is_answered_though_the_server_has_begun_to_end(site: Site, listener: Any) -> None:
    """Its client could not know; it is told to close with the answer. What is idle for longer than a moment is closed."""
    with Connection(listener.address) as used, Connection(listener.address) as idle, Connection(listener.address) as held:
        for connection in (used, idle):
            connection.send(GET)
            assert connection.read().status == 200
        held.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        listener.stop_accepting()
        used.send(GET)
        answer = used.read()
        assert answer.status == 200 and answer.header("connection") == "close"
        assert idle.closed(server.GRACE_SECONDS + 5)
        site.release.set()
        assert held.read().status == 200


def test_what_waits_to_be_accepted_when_the_server_ends_is_answered(listener: Any) -> None:
    """Such a client has a connection, and has sent its request."""
    busy = threading.Event()
    listener._loop.post(lambda: busy.wait(5))  # so that nothing is accepted meanwhile
    waiting = [Connection(listener.address) for _ in range(5)]
    for connection in waiting:
        connection.send(GET)
    ending = threading.Thread(target=listener.stop_accepting)
    ending.start()
    busy.set()
    ending.join()
    for connection in waiting:
        assert connection.read().status == 200
        connection.sock.close()
