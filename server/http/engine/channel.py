"""waitress, bent where a model server needs it otherwise. What each class changes stands in its docstring.

What the application may say to the front, and what it is told, stands in the WSGI environ:

    jitney.headers          (name, value) of the request's headers in the client's spelling and order
    jitney.on_disconnect    function(callback): the loop's thread calls back once if the client goes away before the answer
    jitney.at_end           list to which callbacks may be added: the thread calls them when the answer is out, or given up
    jitney.connection       set by the application: "keep-alive" is announced, "close" is announced and done
    jitney.spelling         set by the application: lower-case header name -> how to write it

The file is long since a connection is one object for waitress, and reading, answering and ending share its state.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Container, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from waitress.buffers import OverflowableBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.utilities import Error, InternalServerError, logger

from ....core.holding import COUNTED, Unsent
from .parsed_request import ParsedRequest, whole_request
from .parser import RequestHead
from .peers import Peers
from .runner import PlanRunner
from .task import AppTask, HeadWriter, RefusalTask

if TYPE_CHECKING:
    from ..plan import PlanTable
    from .loop import Loop

#: Seconds that a client may be silent within a request or while it does not read its answer, and between requests.
STALLED_SECONDS = 60
IDLE_SECONDS = 600
#: STALLED_SECONDS where the server may hold no more data.
PRESSED_SECONDS = 10
#: Seconds without anything being sent after which a client that has ended its side of the connection counts as gone. Whether it
#: only sends nothing more, or has closed, cannot be told from what it sends: that shows when something is sent to it.
HALF_CLOSED_SECONDS = 1.0
#: Seconds and bytes that are still read and dropped after an answer that ended the connection early: closing at once
#: would reset it, and the client might lose the answer.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20

#: Bytes that are asked for where a request begins. What is asked for is allocated first, and above 128 KiB by the system, which
#: takes longer than all else that a small request costs here; the rest of a long one is read in larger pieces.
FIRST_BYTES = 64 << 10
#: Bytes after which the loop's thread turns to the other connections, where a client takes a long answer as fast as it is sent.
SENT_AT_ONCE = 2 << 20
#: Renders what the front itself refuses: (path, error) -> (status line, headers, body).
Refuse = Callable[[str, Error], tuple[str, list[tuple[str, str]], bytes]]


class ListeningServer(Protocol):
    """What a channel needs of the server that accepted it; see `server.HttpServer`."""

    loop: Loop
    plans: PlanTable | None
    inline: Container[str]
    draining: bool
    peers: Peers
    task_dispatcher: Any

    @property
    def refuse(self) -> Refuse: ...

    def add_task(self, task: object) -> None: ...


class Channel(PlanRunner, HTTPChannel):  # type: ignore[misc]
    """One connection: tells when the client goes away, drops refused bodies, lingers after an early answer.

    Inference requests are answered by their plans (`runner`), all others by the application, in a thread of the pool.
    """

    reads_plainly = True  # whether input is all that an event without output can mean
    task_class = AppTask
    error_task_class = RefusalTask

    server: ListeningServer
    request: ParsedRequest | None
    requests: list[ParsedRequest]
    current_outbuf_count: int
    outbufs: list[Any]
    total_outbufs_len: int
    sent_continue: bool
    will_close: bool
    close_when_flushed: bool
    last_activity: float
    gone: Callable[[], object] | None = None
    _drop = 0  # bytes of a refused body that are still to come
    _untrusted = False  # whether what comes next may be a body or a request
    _lingers = False  # whether more than the answered request may be on its way
    _lingered = 0
    _linger_until = 0.0
    _half_closed = False  # whether the client has ended its side while it waits for answers
    _sent = False  # whether something was sent to it since it was last asked
    _may_send: float = inf  # bytes, before the others' turn comes
    _held = False  # whether the first request begins only when what was answered before has left

    def __init__(self, server: ListeningServer, sock: socket.socket, addr: Any, adj: Any, map: dict[int, Any]) -> None:  # noqa: A002
        super().__init__(server, sock, addr, adj, map=map)
        server.loop.look(self)

    # -- the loop's thread -----------------------------------------------------------------------------------------------

    def del_channel(self, map: dict[int, Any] | None = None) -> None:  # noqa: A002
        super().del_channel(map)
        self.server.peers.leave(self)

    def turn_away(self, answer: bytes) -> None:
        """Sends an answer before anything is asked, and ends the connection."""
        self._lingers = self.close_when_flushed = True
        self.write_soon(answer)
        self.server.loop.look(self)

    def received(self, data: bytes) -> bool:
        fresh = False
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
                    waiting = len(self.requests)
                    data = data[self._feed(data) :]
                    fresh = fresh or (not waiting and len(self.requests) == 1)
        if fresh:
            self.begin_first()
        return True

    def _feed(self, data: bytes) -> int:
        """Gives data to the current request and returns how much of it is used up."""
        request = self.request = self.request or ParsedRequest(self.adj)
        used = request.received(data)
        if request.expect_continue and request.headers_finished and not self.requests and not self.sent_continue:
            self.send_continue()
        if not request.completed:
            return used
        self.sent_continue, self.request = False, None
        if request.empty:
            return used
        self.requests.append(request)
        if request.error is None:
            return used
        if self.survives(request):
            head = request.head
            self._untrusted = head is not None and "expect" in head.fields and used == len(data)
            self._drop = 0 if self._untrusted or head is None else head.length
            return used
        self._lingers = True
        return len(data)  # where the next request would begin is unknown

    def begin_first(self) -> None:
        """Begins with the request that is to be answered next: by its plan, or as a task for the application.

        Not before all earlier answers are with the system. A thread that writes behind too much of them waits for the
        client, and that must not be this thread; of the pool's it would take one for each client that sends requests and
        reads no answers.
        """
        if not self.connected:
            return
        self._held = bool(self.total_outbufs_len)
        if self._held:
            self.server.loop.look(self)
            return
        request = self.requests[0]
        head, plans = request.head, self.server.plans
        if request.error is not None or head is None:
            self.service()
        elif plans is not None and (plan := plans.find(head.line)) is not None:
            self.run_plan(plan, head, request.take_body())
        else:
            self._begin_task(head)

    def _begin_task(self, head: RequestHead) -> None:
        """Has the application answer: in this thread where that takes no time, else in one of the pool."""
        if head.line.path in self.server.inline and head.line.command != "HEAD":
            self.service()
        else:
            self.server.add_task(self)

    def survives(self, request: ParsedRequest) -> bool:
        """Whether the connection goes on after this refused request: only if it is known where its body ends.

        A client that waits for `100 Continue` may send the refused body after all or may not (`_untrusted`): the answer
        leaves the connection open (TorchServe), and whatever comes next closes it.
        """
        known = request.head is not None and not request.head.chunked
        return bool(known and request.error and request.error.code in (413, 417))

    def handle_read(self) -> None:
        if self._linger_until:
            self._read_on()
        elif self.request is not None or self.requests or self._drop or self._untrusted:
            self._read_more()
        else:
            self._read_request()

    def read_plainly(self) -> None:
        """Reads; the loop is told only where it has to wait for something else than before, which is more input."""
        try:
            self.handle_read()
        except Exception:  # noqa: BLE001 - a defect here ends this connection, and no other
            self.handle_error()
        if self.total_outbufs_len or len(self.requests) > 1 or self.will_close or self.close_when_flushed:
            self.server.loop.look(self)

    def _read_request(self) -> None:
        """Reads where a request begins; one that comes as a whole, which is most of them, needs no receiver."""
        try:
            data = self.socket.recv(FIRST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        ending = not data or self.will_close or self.close_when_flushed
        if ending or self.total_outbufs_len or (found := whole_request(self.adj, data)) is None:
            self._take(data)
            return
        self.last_activity = time.time()
        head, body = found
        plan = self.server.plans.find(head.line) if self.server.plans is not None else None
        self.requests.append(ParsedRequest(self.adj, head, b"" if plan is not None else body))
        if plan is not None:
            self.run_plan(plan, head, body)
        else:
            self._begin_task(head)

    def _read_more(self) -> None:
        """Reads within a request, or while an answer is made."""
        try:
            data = self.socket.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        """What was read; nothing is the end of what the client sends."""
        if data:
            self.last_activity = time.time()
            self.received(data)
        elif self.requests and self.request is None:
            self._end_of_input()
        else:
            self.handle_close()

    def _end_of_input(self) -> None:
        """The client sends nothing more after whole requests: their answers are sent, unless it turns out to have gone."""
        self._half_closed, self._sent = True, False
        self.server.loop.look(self)
        self.server.loop.later(HALF_CLOSED_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Takes a client that has ended its side for gone, unless something is being sent: that would have shown it."""
        if not self.connected or not self.requests:
            return
        if self._sent or self.total_outbufs_len:
            self._sent = False
            self.server.loop.later(HALF_CLOSED_SECONDS, self._give_up)
        else:
            self.handle_close()

    def _read_on(self) -> None:
        """Reads and drops what comes after the end."""
        try:
            self._lingered += len(self.recv(self.adj.recv_bytes))
        except OSError:
            self.handle_close()
        if self._lingered > LINGER_BYTES:
            self.will_close = True

    def readable(self) -> bool:
        return bool(self._linger_until) or (not self._half_closed and bool(super().readable()))

    def handle_write(self) -> None:
        if self._lingers and self.close_when_flushed and not self.total_outbufs_len:
            self._linger()
        else:
            super().handle_write()
        if self._held and self.connected and not self.total_outbufs_len:
            self.begin_first()

    def _flush_some(self, do_close: bool = True) -> bool:
        """Sends as long as the socket takes something; in the loop's thread, which is who closes, not without end."""
        self._may_send = SENT_AT_ONCE if do_close else inf
        return bool(super()._flush_some(do_close))

    def send(self, data: bytes | memoryview, do_close: bool = True) -> int:
        """How many bytes the socket took."""
        if self._may_send <= 0:
            return 0
        sent = int(super().send(data, do_close))
        self._may_send -= sent
        return sent

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
        if self.request is not None:
            self.request.close()  # and what there is of its body
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request or an answer is under way."""
        return not self.requests and self.request is None and not self.total_outbufs_len

    def overdue(self, now: float, pressed: bool = False) -> bool:
        """Whether this connection has been silent for too long (`now` in seconds since the epoch).

        pressed  all connections together hold as much as they may: who does not go on reading or sending is given up sooner
        """
        if self._linger_until:
            return time.monotonic() > self._linger_until
        if self.requests and not self.total_outbufs_len:
            return False  # an answer is being made
        idle = self.request is None and not self.total_outbufs_len
        stalled = PRESSED_SECONDS if pressed else STALLED_SECONDS
        return self.last_activity < now - (IDLE_SECONDS if idle else stalled)

    # -- a thread of the pool, or the loop's -----------------------------------------------------------------------------

    def service(self) -> None:
        """Has the first request answered by the application, or refused."""
        request = self.requests[0]
        task: HeadWriter = (self.error_task_class if request.error else self.task_class)(self, request)
        self._guard(task, task.service)
        if isinstance(task, AppTask):
            task.over()
        self.conclude_first(task.close_on_finish)

    def _guard(self, task: HeadWriter, work: Callable[[], None]) -> None:
        """Does a task's work. What it raises ends the connection, after a plain 500 where nothing was sent yet."""
        try:
            if not self.connected:
                raise ClientDisconnected
            work()
        except ClientDisconnected:
            task.close_on_finish = True
        except Exception:  # noqa: BLE001 - whatever it was, the client is told and the loop goes on
            logger.exception("Exception while serving %s", task.request.path)
            task.close_on_finish = True
            if not task.wrote_header and not isinstance(task, RefusalTask):
                failed = ParsedRequest(self.adj, task.request.head)
                failed.error = InternalServerError("The server encountered an unexpected internal server error")
                refusal = self.error_task_class(self, failed)
                self._guard(refusal, refusal.service)

    def conclude_first(self, close: bool) -> None:
        """The first request is answered, or given up: it is the next one's turn, or the connection ends."""
        with self.requests_lock:
            close = close or (self._half_closed and len(self.requests) == 1)
            if close:
                self.close_when_flushed = True
                self.requests = []
            else:
                self._next()
        self.last_activity = time.time()
        self.server.loop.finished += 1
        if close or self.requests or self.total_outbufs_len or self.will_close:  # else the loop waits for the right thing
            self.server.loop.touch(self)

    def _next(self) -> None:
        if self.current_outbuf_count > 0:  # the next answer gets a buffer of its own, so that this one's can go
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        self.requests.pop(0)
        if not self.connected:
            return
        if self.requests:
            self.server.loop.post(self.begin_first)
        elif self.request and self.request.expect_continue and self.request.headers_finished and not self.sent_continue:
            self.send_continue()

    def write_soon(self, data: Any) -> int:
        """Sends at once what the socket takes; the loop sends the rest. May wait where much is to be sent already."""
        sent, plain = 0, isinstance(data, bytes | memoryview)
        if plain and not self.total_outbufs_len:
            with self.outbuf_lock:
                sent = self._send_now(data)
        if not plain:
            super().write_soon(data)
        elif sent < len(data):
            self._keep(memoryview(data)[sent:], counts=isinstance(data, bytes))
        if self.writable():
            self.server.loop.touch(self)
        return len(data)

    def _keep(self, rest: memoryview, *, counts: bool) -> None:
        """Leaves the rest to the loop. A long one is sent from where it is: it may be as large as all else of its request."""
        if len(rest) <= COUNTED:
            super().write_soon(bytes(rest))
            return
        with self.outbuf_lock:
            self._flush_outbufs_below_high_watermark()
            if not self.connected:
                raise ClientDisconnected
            self._leave([Unsent(rest, counts=counts)])

    def _leave(self, buffers: Sequence[Unsent]) -> None:
        """Leaves them to the loop; with the lock of the buffers."""
        self.outbufs += [*buffers, OverflowableBuffer(self.adj.outbuf_overflow)]
        self.current_outbuf_count = 0
        self.total_outbufs_len += sum(map(len, buffers))

    def write_rest(self, pieces: Sequence[memoryview]) -> None:
        """Sends what belongs to one answer from where it lies, as `write_soon`; never waits, as it is there as a whole."""
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            for number, piece in enumerate(pieces):
                sent = self._send_now(piece) if piece else 0
                if sent < len(piece):
                    left = [piece[sent:], *pieces[number + 1 :]]
                    self._leave([Unsent(part, counts=len(part) <= COUNTED) for part in left])
                    break
        if self.writable():
            self.server.loop.touch(self)

    def _send_now(self, data: bytes | memoryview) -> int:
        if not self.connected:
            raise ClientDisconnected
        self._sent = True
        if self.total_outbufs_len:  # another thread was faster: nothing is overtaken
            return 0
        try:
            return int(self.socket.send(data))
        except BlockingIOError:
            return 0
        except OSError:
            self.will_close = True
            self.server.loop.touch(self)
            raise ClientDisconnected from None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Has `callback` called, on the loop's thread, if the client goes away before its answer is complete."""
        self.gone = callback
        if not self.connected:
            callback()
