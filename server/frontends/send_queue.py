"""`SendQueue`: messages on their way to the other process. Putting one never waits for the socket.

What a thread puts while it gathers (`ipc.coalesce`) leaves in one frame. What is not urgent waits a little for company.
What the socket does not take at once, a thread of the queue sends; it sleeps while there is nothing of either kind.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

from ..ipc.coalesce import Coalescer
from .messages import FULL_FRAME, Counted, Downward, Upward, encode, pack

#: How long a message that is not urgent waits for others.
PATIENCE_S = 0.05
#: Bytes that may wait for a socket; a process that does not read for so long is given up.
MAX_BACKLOG = 256 << 20
#: Bytes of those that wait which a socket is given at once: who puts something waits meanwhile, and the other side may be quick.
_PIECE = 1 << 20
#: How often the sending thread looks whether it is still wanted.
_LOOK_MS = 200


class SendQueue:
    """`on_stuck` is called once, with the lock held, where the other side does not read. Threads: any."""

    def __init__(
        self, sock: socket.socket, name: str, on_stuck: Callable[[], None], coalescer: Coalescer | None = None
    ) -> None:
        self._socket, self._on_stuck, self._coalescer = sock, on_stuck, coalescer or Coalescer()
        self._messages: list[bytes] = []
        self._sums: dict[int, int] = {}  # answers counted since the last frame, by status
        self._backlog = bytearray()
        self._wake = threading.Condition()
        self._soon = self.flush  # one object, so that it is found among those that are deferred
        self._sleeps, self._closed = False, False
        self.late = 0  # bytes so far that the socket took after they had waited for it
        self._thread = threading.Thread(target=self._run, name=f"{name}-write", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Bytes that the socket did not take yet. Takes no lock."""
        return len(self._backlog)

    @property
    def is_behind(self) -> bool:
        """Whether the other side is so slow that it is to be spared. Takes no lock."""
        return len(self._backlog) > MAX_BACKLOG // 2

    def put(self, message: Upward | Downward, *, urgent: bool = True) -> None:
        """Sends a message, in order; drops it where the other side is gone.

        TypeError, ValueError or OverflowError where it cannot be encoded, BadFrame where it is too large.
        """
        data = encode(message)
        with self._wake:
            self._messages.append(data)
            if not urgent and self._sleeps:
                self._wake.notify()
        if urgent and not self._coalescer.defer(self._soon, low_latency=True):
            self.flush()

    def count(self, status: int) -> None:
        """Has one more answer with this status counted by the next frame, which is not urgent."""
        with self._wake:
            if not self._sums and self._sleeps:
                self._wake.notify()
            self._sums[status] = self._sums.get(status, 0) + 1

    def flush(self) -> None:
        """Sends what has been put, as far as that is possible without waiting."""
        with self._wake:
            self._flush()

    def close(self, timeout: float = 0.0) -> None:
        """Sends what has been put, for at most `timeout` seconds, and ends the thread."""
        with self._wake:
            self._flush()
            self._wake.wait_for(lambda: not self._backlog, timeout)
            self._closed = True
            self._messages.clear()
            self._backlog.clear()
            self._wake.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # -- with the lock -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._sums:
            self._messages[:0] = [encode(Counted(status, count)) for status, count in self._sums.items()]
            self._sums.clear()
        while self._messages and not self._closed:
            frame = self._next_frame()
            sent = 0 if self._backlog else self._send(frame)
            if sent < len(frame) and not self._closed:
                self._keep(memoryview(frame)[sent:])

    def _next_frame(self) -> bytes:
        size = count = 0
        for data in self._messages:
            if count and size + len(data) > FULL_FRAME:
                break
            count, size = count + 1, size + len(data)
        frame = pack(self._messages[:count])
        del self._messages[:count]
        return frame

    def _send_some(self) -> None:
        """Of what waits."""
        with memoryview(self._backlog) as waiting, waiting[:_PIECE] as piece:
            sent = self._send(piece)
        if self._closed:
            self._backlog.clear()
        del self._backlog[:sent]
        self.late += sent

    def _send(self, data: bytes | memoryview) -> int:
        """How many bytes the socket took."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:  # the other side is gone, which the reading thread notices
            self._closed = True
            self._messages.clear()
            return 0

    def _keep(self, rest: memoryview) -> None:
        if len(self._backlog) + len(rest) > MAX_BACKLOG:
            self._closed = True
            self._backlog.clear()
            self._on_stuck()
            return
        self._backlog += rest
        self._wake.notify_all()

    # -- the queue's thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        while self._rest():
            if self._backlog:
                writable.poll(_LOOK_MS)
                with self._wake:
                    self._send_some()
                    self._wake.notify_all()

    def _rest(self) -> bool:
        """Sleeps until there is something to be done; false at the end."""
        with self._wake:
            while not self._closed and not self._backlog:
                if self._messages or self._sums:
                    self._wake.wait(PATIENCE_S)
                    self._flush()
                    continue
                self._sleeps = True
                self._wake.wait()
                self._sleeps = False
            return not self._closed
