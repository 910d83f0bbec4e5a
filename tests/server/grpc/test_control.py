"""Calls that need no worker, from a front end's relay to the scheduler's answer, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from jitney.core.errors import JitneyError, LoadFailed, TooFewThreads, Unavailable
from jitney.server.frontends.peers import receive_peer
from jitney.server.grpc.control import ControlAnswerer
from jitney.server.grpc.relay import QUICK, SLOW, Asked, Relay, Told
from jitney.server.process import threads

LIMIT_S = 30.0


class Service:
    """`echo` answers what it is asked, `wait` once `go` is set; the others fail."""

    def __init__(self) -> None:
        self.go, self.waits = threading.Event(), threading.Semaphore(0)

    def call(self, method: str, request: Mapping[str, Any]) -> Any:
        if method == "refuse":
            raise LoadFailed("it cannot be loaded")
        if method == "wait":
            self.waits.release()
            self.go.wait(LIMIT_S)
        elif method != "echo":
            raise KeyError(method)
        return request

    def status_of(self, method: str, error: JitneyError) -> tuple[str, str]:
        return "NOT_FOUND", f"{method}: {error}"


class Sides:
    """A front end's relay and the scheduler that answers it, for one front end."""

    def __init__(self) -> None:
        self.service = Service()
        self.answerer = ControlAnswerer({"Known": self.service}, [], front_ends=1)
        self._door, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.relay = Relay(self._door)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while (found := receive_peer(self._inside))[0] is not None:
            self.answerer.adopt(found[0], found[1])

    def ask(self, method: str, service: str = "Known", document: bytes = b'{"a": 1}') -> Told:
        return asyncio.run(self.relay.ask(Asked(service, method, document)))

    def close(self) -> None:
        self.service.go.set()
        self._door.close()
        self._thread.join(LIMIT_S)
        self._inside.close()
        for pool in (self.relay._slow, self.relay._quick):
            pool.shutdown()


@pytest.fixture
def sides() -> Iterator[Sides]:
    made = Sides()
    yield made
    made.close()


def test_an_answer_comes_back_as_it_was_given(sides: Sides) -> None:
    assert orjson.loads(sides.ask("echo").document) == {"a": 1}


def test_what_is_refused_has_the_dialect_s_status_and_the_reason(sides: Sides) -> None:
    told = sides.ask("refuse")
    assert (told.status, told.text) == ("NOT_FOUND", "refuse: it cannot be loaded")
    assert sides.ask("echo", service="Unknown") == Told("UNIMPLEMENTED", "no such service: Unknown")


def test_a_defect_is_logged_and_not_shown(sides: Sides, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        told = sides.ask("divide")
    assert told == Told("INTERNAL", "internal error, see the server's log")
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [("Known/divide failed", True)]


def test_where_no_thread_is_left_the_front_end_says_so_and_the_place_is_free_again(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_: object) -> None:
        raise TooFewThreads("no thread left")

    with monkeypatch.context() as patch:
        patch.setattr(threads, "start", none_left)
        for _ in range(SLOW + QUICK + 1):
            with pytest.raises(Unavailable, match="echo could not be relayed"):
                sides.ask("echo")
    assert {record.message for record in caplog.records} == {"no thread left"}
    assert sides.ask("echo").status == "OK"


def test_what_is_no_question_is_dropped_and_its_place_is_free_again(sides: Sides) -> None:
    for _ in range(SLOW + QUICK + 1):
        ours, theirs = socket.socketpair()
        with ours:
            sides.answerer.adopt(theirs, ("", ""))
            ours.sendall(b"\xc1")
            ours.shutdown(socket.SHUT_WR)
            ours.settimeout(LIMIT_S)
            assert ours.recv(1) == b""
    assert sides.ask("echo").status == "OK"


def test_more_than_front_ends_ask_for_is_turned_away(sides: Sides) -> None:
    async def many() -> list[Told | BaseException]:
        under_way = [
            asyncio.ensure_future(sides.relay.ask(Asked("Known", "wait", b"{}"), slow=n >= QUICK))
            for n in range(SLOW + QUICK)
        ]
        for _ in under_way:
            assert await asyncio.to_thread(sides.service.waits.acquire, timeout=LIMIT_S)
        ours, theirs = socket.socketpair()
        with ours:
            sides.answerer.adopt(theirs, ("", ""))
            assert ours.recv(1) == b""
        sides.service.go.set()
        return await asyncio.gather(*under_way, return_exceptions=True)

    assert asyncio.run(many()) == [Told()] * (SLOW + QUICK)


def test_a_client_that_leaves_ends_its_relay_though_the_scheduler_does_not_answer(sides: Sides) -> None:
    async def leave() -> None:
        asked = asyncio.ensure_future(sides.relay.ask(Asked("Known", "wait", b"{}")))
        assert await asyncio.to_thread(sides.service.waits.acquire, timeout=LIMIT_S)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())
    sides.relay._quick.shutdown(wait=True)  # returns: no thread waits for the answer
    assert not sides.service.go.is_set()


def test_without_a_scheduler_a_call_is_unavailable(sides: Sides) -> None:
    sides._inside.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Unavailable, match="echo could not be relayed"):
        sides.ask("echo")
