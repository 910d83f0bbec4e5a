"""Where granian's answers differ from the other front's: each difference once, and nothing dangerous among them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from jitney.backends.base import Response
from jitney.server.errors import InvalidConfig, ModelFailed
from jitney.server.http.granian_listener import GranianListener
from jitney.server.http.receiver import MAX_CHUNKS
from jitney.tests.fakes.raw_http import Connection, ask
from jitney.tests.server.http.fronts import granian_only

from .test_listeners import MAX_BODY, connection, listener, site  # noqa: F401 - fixtures

pytestmark = [pytest.mark.usefixtures("front"), granian_only]


def test_header_names_reach_the_application_in_title_case(connection: Connection) -> None:  # noqa: F811
    connection.send(b"GET /headers HTTP/1.1\r\nHOst: a\r\nx-Foo_bar:  1 \r\nX-Twice: a\r\nX-Twice: b\r\n\r\n")
    assert connection.read().body == b"[('Host', 'a'), ('X-Foo_Bar', '1'), ('X-Twice', 'a'), ('X-Twice', 'b')]"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: +3",
        b"Content-Length: 3,3",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: xchunked",
        b"Content-Length : 3",
        b"X: a\nContent-Length: 3",
    ],
)
def test_nothing_is_read_behind_a_request_whose_end_is_ambiguous(
    site: Any,  # noqa: F811
    connection: Connection,  # noqa: F811
    head: bytes,
) -> None:
    connection.send(
        b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
    )
    connection.read()
    while connection._fill():
        pass
    assert len(site.seen) <= 1 and b"len 0" not in connection.buffer


def test_a_body_that_is_announced_too_large_is_refused_at_once_and_closes(site: Any, connection: Connection) -> None:  # noqa: F811
    connection.send(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
    answer = connection.read()
    assert answer.status == 413 and answer.header("connection") == "close"
    assert connection.closed() and site.seen == []


def test_expect_continue_with_too_much_is_refused_and_closes(site: Any, connection: Connection) -> None:  # noqa: F811
    connection.send(b"POST / HTTP/1.1\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
    assert connection.read().status == 413
    assert connection.closed() and site.seen == []


def test_an_unknown_expectation_is_417_and_closes(site: Any, connection: Connection) -> None:  # noqa: F811
    connection.send(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: tea\r\n\r\nabc")
    assert connection.read().status == 417
    assert connection.closed() and site.seen == []


def test_more_chunks_than_allowed_are_413(site: Any) -> None:  # noqa: F811
    listener = GranianListener(  # noqa: F811
        site, _any_port(), name="inference", threads=1, max_body=10 * MAX_CHUNKS, refuse=lambda _, e: (str(e.code), [], b"")
    )
    listener.start()
    try:
        with Connection(listener.address, timeout=30) as connection:
            connection.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (MAX_CHUNKS + 2))
            assert connection.read().status == 413
    finally:
        listener.close(5)


def test_requests_that_are_still_running_at_the_end_are_500(site: Any) -> None:  # noqa: F811
    listener = GranianListener(site, _any_port(), name="inference", threads=1, max_body=10, refuse=lambda *_: ("", [], b""))  # noqa: F811
    listener.start()
    with Connection(listener.address) as busy:
        busy.send(b"GET /wait HTTP/1.1\r\n\r\n")
        assert site.entered.acquire(timeout=5)
        closing = threading.Thread(target=listener.close, args=(0.2,))
        closing.start()
        assert busy.read().status == 500
        assert busy.closed()
        site.release.set()
        closing.join()


def test_https_is_refused(site: Any) -> None:  # noqa: F811
    from jitney.server.addresses import Address

    with pytest.raises(InvalidConfig, match="http_server=granian speaks no TLS"):
        GranianListener(
            site, Address("https", "127.0.0.1", 0), name="a", threads=1, max_body=1, refuse=lambda *_: ("", [], b"")
        )


# -- the dialects over it ------------------------------------------------------------------------------------------------


def test_reason_phrases_are_the_standard_ones(open_site: Any) -> None:
    opened = open_site()
    opened.plane.add("made", lambda _: [Response(body=b"body", status=201, reason="Made it", headers={"X-MiXed": "a"})])
    answer = opened.ask("inference", "GET", "/predictions/made")
    assert (answer.status, answer.reason, answer.body, answer.header("x-mixed")) == (201, "Created", b"body", "a")


def test_malformed_http_is_400_without_a_body(open_site: Any) -> None:
    with Connection(open_site().address("inference")) as broken:
        broken.send(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        answer = broken.read()
        assert (answer.status, answer.body) == (400, b"")
        assert broken.closed()


def test_bad_escapes_in_a_path_are_part_of_the_name(open_site: Any) -> None:
    opened = open_site()
    assert json.loads(opened.ask("inference", "GET", "/predictions/%zz").body)["message"] == "Model not found: %zz"
    assert opened.ask("inference", "GET", "/predictions/echo?a=%zz").status == 403


def test_paths_and_queries_arrive_as_from_the_other_front(open_site: Any) -> None:
    opened = open_site()
    opened.plane.add("grün", lambda _: [Response(body=b"green")])
    assert opened.ask("inference", "GET", "/predictions/gr%C3%BCn?a=%20").body == b"green"
    assert opened.ask("inference", "GET", "/%70redictions/gr%C3%BCn/").body == b"green"


def test_a_stream_that_fails_just_ends(open_site: Any) -> None:
    opened = open_site()
    opened.plane.add("stream", None)
    with Connection(opened.address("inference")) as reader:
        reader.send(b"GET /predictions/stream HTTP/1.1\r\n\r\n")
        while not opened.plane.calls:
            pass
        (call,) = opened.plane.calls
        call.answer(Response(body=b"one", final=False))
        call.fail(ModelFailed("it broke"))
        assert reader.read().body == b"one"


def test_a_lone_request_is_not_held_back(open_site: Any) -> None:
    opened = open_site()
    assert ask(opened.address("inference"), "POST", "/predictions/echo", b"abc").body == b"abc"
    assert MAX_BODY > 0


def _any_port() -> Any:
    from jitney.server.addresses import parse_address

    return parse_address("http://127.0.0.1:0")
