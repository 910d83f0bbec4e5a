"""waitress' servers: a listening socket whose connections are `front.Channel`s, served by a `loop.Loop`."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Container
from typing import Any

from waitress import wasyncore
from waitress.channel import ClientDisconnected
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.utilities import Error

from ....core import holding
from ..plan import PlanTable
from .channel import Channel, Refuse
from .loop import HOLD_OFF_S, Loop
from .peers import Peers

log = logging.getLogger(__name__)

#: A connection between two requests that has been silent for so long is closed where another one has no place.
SPARE_SECONDS = 5.0
#: How often places are made, and the part of all connections that may be closed for it each time.
ROOM_SECONDS, ROOM_PART = 1.0, 4
#: While the server ends, a connection that was used within the last `SPARE_SECONDS` stays open for so long: its client may just
#: be sending a request, which is answered, and told to close.
GRACE_SECONDS = 0.5
#: How many connections one pass of the loop accepts.
ACCEPTS = 64
#: How often the same trouble with accepting is logged.
LOG_SECONDS = 60.0


class TooManyConnections(Error):  # type: ignore[misc]
    code, reason = 503, "Service Unavailable"


class HttpServer(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket. `draining`: every answer closes its connection, and new ones are refused.

    Where there are as many connections as there may be, or nothing to accept one with, new ones wait in the system's queue and
    `holds_off` is true; the loop then asks again and again. All of it belongs to the loop's thread.
    """

    channel_class = Channel
    accepting: bool
    draining = False
    tells = True  # whether a client can be told something before it has spoken
    refuse: Refuse
    loop: Loop
    plans: PlanTable | None = None
    inline: Container[str] = ()
    peers: Peers
    _rests_until = 0.0  # nothing is accepted before
    _room_at = _logged_at = float("-inf")

    def readable(self) -> bool:
        """Whether a connection may be accepted now."""
        if not self.accepting:
            return False
        self.in_connection_overflow = len(self.active_channels) >= self.adj.connection_limit
        if self.in_connection_overflow:
            self.complain(
                "%d connections are open, as many as there may be (a quarter of the process' files, at most %d); others wait",
                len(self.active_channels), self.adj.connection_limit,
            )  # fmt: skip
        if time.monotonic() >= self._rests_until:
            self._rests_until = 0.0
        return not self.in_connection_overflow and not self._rests_until

    @property
    def holds_off(self) -> bool:
        """Whether nothing is accepted for the moment, so that it has to be asked again when."""
        return bool(self.accepting and (self.in_connection_overflow or self._rests_until))

    def handle_accept(self) -> None:
        """Accepts the connections that wait, at most ACCEPTS: a pass of the loop is long where other threads compute."""
        for _ in range(ACCEPTS):
            if not self._accept() or not self.readable():
                return

    def _accept(self) -> bool:
        """Whether more may wait. Whatever goes wrong concerns one connection, and never the listening socket."""
        try:
            sock, peer = self.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError) as error:
            return not isinstance(error, BlockingIOError)
        except OSError as error:
            self._rests_until = time.monotonic() + HOLD_OFF_S
            self.complain("no connection can be accepted: %s", error)
            return False
        with contextlib.suppress(OSError):  # it may have gone already
            self.set_socket_options(sock)
        self.welcome(sock, self.fix_addr(peer))
        return True

    def welcome(self, sock: socket.socket, peer: Any) -> None:
        """Serves an accepted connection, whose other end is `peer`: (host, port)."""
        host = str(peer[0]) if len(peer) > 1 and peer[1] is not None else ""
        try:
            if self.peers.full(host):
                self._turn_away(sock, peer, host)
                return
            self.peers.enter(self.channel_class(self, sock, peer, self.adj, map=self._map), host)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next connection is not to blame
            sock.close()
            self.complain("a connection cannot be served: %s", error)

    def _turn_away(self, sock: socket.socket, peer: Any, host: str) -> None:
        """Ends a connection beyond those that its address may have. Where it is not told why: see `tells`."""
        limit = self.peers.limit
        self.complain("%s has %d connections, as many as one address may have (max_connections_per_address)", host, limit)
        if not self.tells or self.peers.full(host, 2):  # those that are told stay for a moment
            sock.close()
            return
        text = f"{host} has {limit} connections, as many as one address may have (max_connections_per_address)"
        status, headers, body = self.refuse("", TooManyConnections(text))
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "connection: close"]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        channel = self.channel_class(self, sock, peer, self.adj, map=self._map)
        self.peers.enter(channel, host)
        with contextlib.suppress(ClientDisconnected):
            channel.turn_away(head.encode("latin-1") + body)

    def handle_error(self) -> None:
        """waitress would close the listening socket, and with it the port, for ever."""
        log.exception("listener: an event of the listening socket cannot be handled")
        self._rests_until = time.monotonic() + HOLD_OFF_S

    def complain(self, text: str, *values: object) -> None:
        """Logs what keeps connections from being accepted, once in a while."""
        if time.monotonic() > self._logged_at + LOG_SECONDS:
            self._logged_at = time.monotonic()
            log.warning("listener '%s': " + text, self.loop.name, *values)

    def make_room(self) -> None:
        """Where new connections wait for a place, closes some of the connections that have been idle for the longest time."""
        now = time.monotonic()
        full = not self.draining and len(self.active_channels) >= self.adj.connection_limit
        if not full or now < self._room_at + ROOM_SECONDS or not self._somebody_waits():
            return
        self._room_at = now
        since = time.time() - SPARE_SECONDS
        idle = [channel for channel in self.active_channels.values() if channel.idle and channel.last_activity < since]
        idle.sort(key=lambda channel: channel.last_activity)
        for channel in idle[: max(1, self.adj.connection_limit // ROOM_PART)]:
            channel.handle_close()

    def _somebody_waits(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def maintenance(self, now: float) -> None:
        pressed = not holding.process.has_room(1)
        for channel in list(self.active_channels.values()):
            if channel.overdue(now, pressed):
                channel.will_close = True

    def drain(self) -> None:
        """Closes the listening socket and idle connections; the others close with their next answer. Loop's thread only.

        What waits to be accepted is accepted first: its clients have a connection already, and may have sent a request.
        """
        while self.accepting and len(self.active_channels) < self.adj.connection_limit and self._accept():
            pass
        self.draining, self.accepting = True, False
        self.del_channel()
        self.socket.close()
        self._close_idle(SPARE_SECONDS)
        self.loop.later(GRACE_SECONDS, self._close_idle)

    def _close_idle(self, seconds: float = 0.0) -> None:
        """Closes the connections that have been idle for so long."""
        since = time.time() - seconds
        for channel in list(self.active_channels.values()):
            if channel.idle and channel.last_activity <= since:
                channel.handle_close()

    def close(self) -> None:
        self.trigger.close()
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        wasyncore.dispatcher.close(self)


class UnixServer(HttpServer, UnixWSGIServer):  # type: ignore[misc]
    """The same on a Unix socket."""

    getsockname = UnixWSGIServer.getsockname
    fix_addr = UnixWSGIServer.fix_addr

    def set_socket_options(self, conn: socket.socket) -> None:
        """TCP's options have no meaning here."""
