"""The shortcut (`express`) on a connection of waitress: from a known head and its body to the answer, without a task.

`Traveller` is the part of `front.Channel` that does it. All of it belongs to the loop's thread, but for large answers, which a
thread of the pool renders and sends, and answers of several parts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from waitress.channel import ClientDisconnected

from .express import Plain, Shortcut, Trip, Unusual
from .parser import Head
from .tasks import Errand, KnownTask, date_of

#: Bytes that are asked for where a request begins. What is asked for is allocated first, and above 128 KiB by the system, which
#: takes longer than all else that a small request costs here; the rest of a long one is read in larger pieces.
FIRST_BYTES = 64 << 10
#: Answers up to this size are rendered and sent by the loop's thread.
LIGHT_BYTES = 64 << 10


_CLOSE, _KEEP = b"connection: close\r\n", b"connection: keep-alive\r\n"


@functools.lru_cache(2)
def _date(second: int) -> bytes:
    return date_of(second).encode()


class KnownTrip(Trip):
    """A trip of a connection's only request. `over`: its answer is being sent."""

    __slots__ = ("channel", "head", "over")

    def __init__(self, channel: Any, head: Head, body: bytes) -> None:
        Trip.__init__(self, body)
        self.channel, self.head, self.over = channel, head, False

    def wake(self) -> None:
        self.channel.server.loop.post(self._arrive)

    def _arrive(self) -> None:
        self.channel.arrive(self, self.head.shortcut)

    @property
    def peer(self) -> str:
        host, port = self.channel.addr[:2]
        return f"{host}:{port}"


def head_of(plain: Plain, close: bool, version: str) -> bytes:
    """The head of a usual answer as it is sent; the connection ends with it, or goes on."""
    block, own, body = plain
    line = f"{own[0]}: {own[1]}\r\n".encode("latin-1") if own is not None else b""
    says = _CLOSE if close else _KEEP if block.announce or version == "1.0" else b""
    date = _date(int(time.time()))
    return b"%b%bcontent-length: %d\r\n%bdate: %b\r\n\r\n" % (block.text, line, len(body), says, date)


class Traveller:
    """What a connection does with requests whose heads have a shortcut."""

    # What the other part of a connection has.
    server: Any
    socket: Any
    adj: Any
    requests: list[Any]
    connected: bool
    will_close: bool
    close_when_flushed: bool
    total_outbufs_len: int
    last_activity: float
    gone: Callable[[], object] | None
    handle_read: Callable[[], None]
    handle_close: Callable[[], None]
    handle_error: Callable[[], None]
    received: Callable[[bytes], bool]
    write_soon: Callable[[bytes], int]
    _send_now: Callable[[bytes], int]
    _guard: Callable[..., None]
    _go_on: Callable[..., None]
    _conclude_first: Callable[[bool], None]

    def read_plainly(self) -> None:
        """Reads; the loop is told only where it has to wait for something else than before, which is more input."""
        try:
            self.handle_read()
        except Exception:  # noqa: BLE001 - a defect here ends this connection, and no other
            self.handle_error()
        if self.total_outbufs_len or len(self.requests) > 1 or self.will_close or self.close_when_flushed:
            self.server.loop.look(self)

    def _read_request(self) -> None:
        """Reads where a request begins; one that comes as a whole, with a head that was seen before, takes the short way."""
        try:
            data = self.socket.recv(FIRST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        if not data:
            self.handle_close()
            return
        self.last_activity = time.time()
        end = data.find(b"\r\n\r\n") + 4
        head = self.adj.heads.get(data[:end])
        if head is None or head.length != len(data) - end or not self._serve_known(head, data, end):
            self.received(data)

    def _serve_known(self, head: Head, data: bytes, end: int) -> bool:
        """Serves a request by the short way, or by its shortcut; false where there is none."""
        express = self.server.express
        if express is None or self.will_close or self.close_when_flushed:
            return False
        if not head.routed and head.environ is not None:
            head.route, head.routed = express.route(head), True
        shortcut = head.shortcut
        if shortcut is not None and shortcut.is_quick() and self.set_out(head, shortcut, data[end:]):
            return True
        quick = self.server.quick
        if head.route is None or quick is None or not quick(head.path, head.headers, head.length):
            return False
        self._serve_shortly(head, bytearray(memoryview(data)[end:]))
        return True

    def _serve_shortly(self, head: Head, body: bytearray) -> None:
        task = KnownTask(self, head, body)
        self.requests.append(head)
        self._guard(task, task.serve)
        if task.later.claimed and not task.close_on_finish:
            task.has_returned()
        else:
            self._go_on(task)

    def set_out(self, head: Head, shortcut: Shortcut, body: bytes) -> bool:
        """Begins a trip; false where this request has to take the long way."""
        trip = KnownTrip(self, head, body)
        try:
            if not shortcut.begin(trip):
                shortcut.end(trip)
                return False
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            self.requests.append(head)
            self._detour(trip, shortcut, error)
            return True
        self.requests.append(head)
        if trip.call is not None:
            self.gone = trip.call.cancel
        return True

    def arrive(self, trip: KnownTrip, shortcut: Shortcut) -> None:
        """The model has answered, or begun to. Answers of several parts, and long ones, are a thread's work."""
        if trip.over:
            return
        if trip.mailbox is not None:
            if shortcut.streams or (trip.call is not None and trip.call.done):
                trip.over = True
                self.server.task_dispatcher.add_task(Errand(lambda: self._detour(trip, shortcut, None)))
            return
        trip.over = True
        if trip.size() <= LIGHT_BYTES and not self.total_outbufs_len:
            self._return(trip, shortcut)
        else:
            self.server.task_dispatcher.add_task(Errand(lambda: self._return(trip, shortcut)))

    def _return(self, trip: KnownTrip, shortcut: Shortcut) -> None:
        """Sends the usual answer."""
        if not self.connected:
            self._come_to_rest(trip, shortcut, close=True)
            return
        try:
            plain = shortcut.render(trip)
        except Unusual:
            self._detour(trip, shortcut, None)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            self._detour(trip, shortcut, error)
            return
        close = self.server.draining or not trip.head.keeps_open
        try:
            self._write(plain, close, trip.head.version)
        except ClientDisconnected:
            close = True
        self._come_to_rest(trip, shortcut, close)

    def _write(self, plain: Plain, close: bool, version: str) -> None:
        """Sends a usual answer, in one packet where it is not long. Nobody else writes: this is the only request."""
        head, body = head_of(plain, close, version), plain.body
        if len(body) > LIGHT_BYTES:
            self.write_soon(head)
            self.write_soon(body)
            return
        data = head + body
        sent = self._send_now(data)
        if sent < len(data):
            self.write_soon(data[sent:])

    def _come_to_rest(self, trip: KnownTrip, shortcut: Shortcut, close: bool) -> None:
        self.gone = None
        shortcut.end(trip)
        self._conclude_first(close)

    def _detour(self, trip: KnownTrip, shortcut: Shortcut, error: Exception | None) -> None:
        """Has the route answer what is no usual answer."""
        task = KnownTask(self, trip.head, trip.body)
        self._guard(task, lambda: task.respond(trip, shortcut, error))
        shortcut.end(trip)
        self._go_on(task)
