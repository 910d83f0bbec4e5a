"""Plans on a connection: from a whole request to its answer on the wire.

loop's thread    begin, or a thread of the pool does where that takes longer
any thread       the model's answer wakes the loop
loop's thread    renders and sends what is small, or a thread of the pool what is large or a stream
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from waitress.channel import ClientDisconnected
from waitress.utilities import logger

from ..plan import InFlightRequest, Reply, RoutePlan
from .parser import RequestHead
from .task import Job, date_of

#: Answers up to this size are rendered and sent by the loop's thread.
SMALL_BYTES = 64 << 10


@functools.lru_cache(2)
def _date(second: int) -> bytes:
    return date_of(second).encode()


class ConnectionRequest(InFlightRequest):
    """A connection's first request.

    begun    `begin` has returned; `sending`: its answer is being made. The loop's thread alone has them.
    """

    __slots__ = ("begun", "channel", "sending")

    def __init__(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview, channel: Any) -> None:
        super().__init__(plan, head, body)
        self.channel, self.begun, self.sending = channel, False, False

    @property
    def peer(self) -> str:
        host, port = self.channel.addr[:2]
        return f"{host}:{port}"

    def wake(self) -> None:
        self.channel.server.loop.post(self._look)

    def has_begun(self) -> None:
        """The loop's thread, once `begin` has returned on another."""
        self.begun = True
        self._look()

    def _look(self) -> None:
        if self.sending or not self.begun or (self.answer is None and not self.has_first_part):
            return
        self.sending = True
        self.channel.answer(self)


def reply_head(reply: Reply, head: RequestHead, close: bool, framing: bytes) -> bytes:
    """The head of a reply to a request with this head; the connection ends with it, or goes on."""
    shared = reply.head.closes if close else reply.head.keeps if head.line.version == "1.0" else reply.head.opens
    own = "".join([f"{name}: {value}\r\n" for name, value in reply.own]).encode("latin-1") if reply.own else b""
    return b"%b%b%bdate: %b\r\n\r\n" % (shared, own, framing, _date(int(time.time())))


def whole_reply(reply: Reply, head: RequestHead, close: bool) -> bytes:
    """A reply as it is sent."""
    shared, body = reply.head, reply.whole
    if not shared.has_body:
        return reply_head(reply, head, close, b"")
    data = reply_head(reply, head, close, b"content-length: %d\r\n" % len(body))
    return data if head.line.command == "HEAD" else data + body


class PlanRunner:
    """What a connection does with requests that have a plan."""

    # What the other part of a connection has.
    server: Any
    connected: bool
    will_close: bool
    total_outbufs_len: int
    gone: Callable[[], object] | None
    write_soon: Callable[[bytes | memoryview], int]
    write_rest: Callable[[Sequence[memoryview]], None]
    _send_now: Callable[[bytes], int]
    conclude_first: Callable[[bool], None]

    # -- the loop's thread -------------------------------------------------------------------------------------------------

    def run_plan(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview) -> None:
        """Begins to answer the connection's first request."""
        flight = ConnectionRequest(plan, head, body, self)
        self.gone = flight.cancel
        if plan.runs_inline(head, len(body)):
            flight.begun = True  # as seen from whatever is posted to this thread meanwhile
            self._begin(flight)
        else:
            self._in_pool(lambda: self._begin(flight))

    def answer(self, flight: ConnectionRequest) -> None:
        """The model has answered, or begun to."""
        small = flight.mailbox is None and flight.weight() <= SMALL_BYTES and not self.total_outbufs_len
        if small and flight.plan.renders_inline(flight):
            self._render(flight)
        else:
            self._in_pool(lambda: self._render(flight))

    # -- a thread of the pool, or the loop's -------------------------------------------------------------------------------

    def _in_pool(self, work: Callable[[], None]) -> None:
        self.server.task_dispatcher.add_task(Job(work))

    def _begin(self, flight: ConnectionRequest) -> None:
        try:
            flight.begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            self._refuse(flight, error)
            return
        if not flight.begun:
            self.server.loop.post(flight.has_begun)

    def _render(self, flight: ConnectionRequest) -> None:
        if not self.connected:
            self._finish(flight, close=True)
            return
        try:
            reply = flight.plan.render(flight)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            self._refuse(flight, error)
        else:
            self._send(flight, reply)

    def _refuse(self, flight: ConnectionRequest, error: Exception) -> None:
        flight.sending = True
        if not self.connected:
            self._finish(flight, close=True)
            return
        try:
            reply = flight.plan.refuse(flight, error)
        except Exception:  # noqa: BLE001 - a defect: the connection ends, which says as much
            logger.exception("Exception while serving %s", flight.head.line.path, extra=flight.about())
            self._finish(flight, close=True)
        else:
            self._send(flight, reply)

    def _send(self, flight: ConnectionRequest, reply: Reply) -> None:
        head, flight.status = flight.head, reply.head.code
        close = self.server.draining or not head.keeps_open or reply.head.connection == "close"
        try:
            if reply.stream is not None:
                close = self._stream(reply, reply.stream, head, close)
            elif reply.nbytes > SMALL_BYTES:
                self._write_long(reply, head, close)
            else:
                data = whole_reply(reply, head, close)
                sent = self._send_now(data)  # no other thread writes: it is the first request's
                if sent < len(data):
                    self.write_soon(data[sent:])
        except ClientDisconnected:
            close = True
        except Exception:  # noqa: BLE001 - a stream that fails is cut off, so that no client takes it for the whole
            logger.exception("Exception while serving %s", head.line.path, extra=flight.about())
            close = True
        self._finish(flight, close)

    def _write_long(self, reply: Reply, head: RequestHead, close: bool) -> None:
        """Sends a long answer without a copy: what the socket does not take at once is sent from where it lies."""
        has_body = reply.head.has_body
        self.write_soon(reply_head(reply, head, close, b"content-length: %d\r\n" % reply.nbytes if has_body else b""))
        if has_body and head.line.command != "HEAD":
            if reply.body:
                self.write_soon(reply.body)
            self.write_rest(reply.rest)

    def _stream(self, reply: Reply, stream: Iterator[bytes | memoryview], head: RequestHead, close: bool) -> bool:
        """Sends chunks as they come, without framing where the client does not know any; whether the connection ends."""
        chunked = head.line.version == "1.1"
        close = close or not chunked
        self.write_soon(reply_head(reply, head, close, b"transfer-encoding: chunked\r\n" if chunked else b""))
        for chunk in stream:
            if not chunk or head.line.command == "HEAD":
                continue
            if not chunked:
                self.write_soon(chunk)
            elif len(chunk) <= SMALL_BYTES:
                self.write_soon(b"%X\r\n%b\r\n" % (len(chunk), bytes(chunk)))
            else:
                for piece in (b"%X\r\n" % len(chunk), chunk, b"\r\n"):
                    self.write_soon(piece)
        if chunked and head.line.command != "HEAD":
            self.write_soon(b"0\r\n\r\n")
        return close

    def _finish(self, flight: ConnectionRequest, close: bool) -> None:
        self.gone = None
        flight.plan.end(flight)
        self.conclude_first(close)
