"""waitress, bent where a model server needs it otherwise. What each class changes stands in its docstring.

What the application may say to the front, and what it is told, stands in the WSGI environ:

    jitney.headers          (name, value) of the request's headers in the client's spelling and order
    jitney.on_disconnect    function(callback): the loop's thread calls back once if the client goes away before the answer
    jitney.at_end           list to which callbacks may be added: the thread calls them when the answer is out, or given up
    jitney.connection       set by the application: "keep-alive" is announced, "close" is announced and done
    jitney.spelling         set by the application: lower-case header name -> how to write it
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.utilities import Error

from .parser import RequestParser
from .tasks import AppTask, RefusalTask

#: Seconds that a client may be silent within a request or while it does not read its answer, and between requests.
STALLED_SECONDS = 60
IDLE_SECONDS = 600
#: Seconds and bytes that are still read and dropped after an answer that ended the connection early: closing at once
#: would reset it, and the client might lose the answer.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20

#: Renders what the front itself refuses: (path, error) -> (status line, headers, body).
Refuse = Callable[[str, Error], tuple[str, list[tuple[str, str]], bytes]]


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection: tells when the client goes away, drops refused bodies, lingers after an early answer."""

    task_class = AppTask
    error_task_class = RefusalTask
    parser_class = RequestParser

    request: RequestParser | None
    sent_continue: bool
    will_close: bool
    close_when_flushed: bool
    last_activity: float
    gone: Callable[[], None] | None = None
    _drop = 0  # bytes of a refused body that are still to come
    _untrusted = False  # whether what comes next may be a body or a request
    _lingers = False  # whether more than the answered request may be on its way
    _lingered = 0
    _linger_until = 0.0

    # -- the loop's thread -----------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> bool:
        with self.requests_lock:
            if self.will_close or self.close_when_flushed:
                return False
            if self._untrusted:
                self.will_close = True
                return False
            while data:
                dropped = min(self._drop, len(data))
                self._drop -= dropped
                data = data[dropped:]
                if data:
                    data = data[self._feed(data) :]
        return True

    def _feed(self, data: bytes) -> int:
        """Gives data to the current request and returns how much of it is used up."""
        request = self.request = self.request or self.parser_class(self.adj)
        used: int = request.received(data)
        if request.expect_continue and request.headers_finished and not self.requests and not self.sent_continue:
            self.send_continue()
        if not request.completed:
            return used
        self.sent_continue, self.request = False, None
        if request.empty:
            return used
        self.requests.append(request)
        if len(self.requests) == 1:
            self.server.add_task(self)
        if request.error is None:
            return used
        if self.survives(request):
            self._untrusted = "EXPECT" in request.headers and used == len(data)
            self._drop = 0 if self._untrusted else request.content_length
            return used
        self._lingers = True
        return len(data)  # where the next request would begin is unknown

    def survives(self, request: RequestParser) -> bool:
        """Whether the connection goes on after this refused request: only if it is known where its body ends.

        A client that waits for `100 Continue` may send the refused body after all or may not (`_untrusted`): the answer
        leaves the connection open (TorchServe), and whatever comes next closes it.
        """
        return bool(request.error and request.error.code in (413, 417) and not request.chunked)

    def handle_read(self) -> None:
        if not self._linger_until:
            super().handle_read()
            return
        try:
            self._lingered += len(self.recv(self.adj.recv_bytes))
        except OSError:
            self.handle_close()
        if self._lingered > LINGER_BYTES:
            self.will_close = True

    def readable(self) -> bool:
        return bool(self._linger_until) or bool(super().readable())

    def handle_write(self) -> None:
        if self._lingers and self.close_when_flushed and not self.total_outbufs_len:
            self._linger()
        else:
            super().handle_write()

    def _linger(self) -> None:
        """Says that nothing more will be sent, and goes on reading for a while."""
        self._lingers = self.close_when_flushed = False
        self._linger_until = time.monotonic() + LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def handle_close(self) -> None:
        super().handle_close()
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def overdue(self, now: float) -> bool:
        """Whether this connection has been silent for too long (`now` in seconds since the epoch)."""
        if self._linger_until:
            return time.monotonic() > self._linger_until
        if self.requests and not self.total_outbufs_len:
            return False  # an answer is being made
        idle = self.request is None and not self.total_outbufs_len
        return self.last_activity < now - (IDLE_SECONDS if idle else STALLED_SECONDS)

    # -- a thread of the pool --------------------------------------------------------------------------------------------

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Has `callback` called, on the loop's thread, if the client goes away before its answer is complete."""
        self.gone = callback
        if not self.connected:
            callback()


class Server(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket. `draining`: every answer closes its connection, and new ones are refused."""

    channel_class = Channel
    draining = False
    refuse: Refuse

    def maintenance(self, now: float) -> None:
        for channel in list(self.active_channels.values()):
            if channel.overdue(now):
                channel.will_close = True

    def drain(self) -> None:
        """Closes the listening socket and idle connections; the others close with their next answer. Loop's thread only."""
        self.draining, self.accepting = True, False
        self.del_channel()
        self.socket.close()
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.request is None and not channel.total_outbufs_len:
                channel.handle_close()

    def close(self) -> None:
        self.trigger.close()
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        wasyncore.dispatcher.close(self)


class UnixServer(Server, UnixWSGIServer):  # type: ignore[misc]
    """The same on a Unix socket."""

    getsockname = UnixWSGIServer.getsockname
    fix_addr = UnixWSGIServer.fix_addr

    def set_socket_options(self, conn: socket.socket) -> None:
        """TCP's options have no meaning here."""
