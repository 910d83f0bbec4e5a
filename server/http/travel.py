"""The shortcut (`express`) on a connection of waitress: from a known head and its body to the answer, without a task.

`Traveller` is the part of `front.Channel` that does it. All of it belongs to the loop's thread, but for large answers, which a
thread of the pool renders and sends, and answers of several parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from waitress.channel import ClientDisconnected

from .express import Plain, Shortcut, Trip, Unusual
from .parser import Head
from .tasks import Errand, KnownTask, date_of

#: Answers up to this size are rendered and sent by the loop's thread.
LIGHT_BYTES = 64 << 10


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


def written(plain: Plain, close: bool, version: str) -> bytes:
    """A usual answer as it is sent; the connection ends with it, or goes on."""
    block, own, body = plain
    line = f"{own[0]}: {own[1]}\r\n" if own is not None else ""
    says = "close" if close else "keep-alive" if block.announce or version == "1.0" else ""
    connection = f"connection: {says}\r\n" if says else ""
    date = date_of(int(time.time()))
    head = f"{block.text}{line}content-length: {len(body)}\r\n{connection}date: {date}\r\n\r\n"
    return head.encode("latin-1") + body


class Traveller:
    """What a connection does with requests whose heads have a shortcut."""

    server: Any
    requests: list[Any]
    connected: bool
    total_outbufs_len: int
    gone: Callable[[], object] | None
    write_soon: Callable[[bytes], int]
    _guard: Callable[..., None]
    _go_on: Callable[..., None]
    _conclude_first: Callable[[bool], None]

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
            self.write_soon(written(plain, close, trip.head.version))
        except ClientDisconnected:
            close = True
        self._come_to_rest(trip, shortcut, close)

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
