"""`Reading`: one end of a socket between front end and scheduler, read by the process' reactor while there is one.

A thread reads until there is a reactor (`ipc.reactor`), lends it the socket, and takes over again for frames that are long
and when the reactor ends. A thread that waits for a particular message reads too where no other does (`wait_for`): it may be the
reactor's own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from .frame import TURN, FrameReader, has_input
from .reactor import Reactors

#: How long a waiting thread relies on another one's reading before it looks again.
_LOOK_S = 0.01


class Reading:
    """`take(payload)` is called for each frame, by one thread at a time; what it raises ends the reading."""

    def __init__(
        self, sock: socket.socket, reader: FrameReader, take: Callable[[bytes | bytearray], None], reactors: Reactors
    ) -> None:
        self._socket, self._reader, self._take, self._reactors = sock, reader, take, reactors
        self._turn = threading.Lock()  # the reading thread has it
        self._returned = threading.Event()  # the reactor has given the socket back
        self._failure: Exception | None = None

    def run(self) -> None:
        """The reading thread. Raises why there is no more to be read: PeerClosed, BadFrame or what `take` raised."""
        while self._failure is None:
            with self._turn:
                self._read()
            self._lend()
        raise self._failure

    def wait_for(self, is_here: Callable[[], bool], timeout: float) -> bool:
        """Any thread: returns when `is_here`, which `take` makes true, or after `timeout` seconds; which of the two."""
        deadline = time.monotonic() + timeout
        while not is_here() and self._failure is None and time.monotonic() < deadline:
            if self._turn.acquire(timeout=_LOOK_S):
                try:
                    while not is_here() and self._comes_by(deadline):
                        self._read()
                except Exception as error:  # noqa: BLE001 - raised again in the reading thread
                    self._failure = error
                    with contextlib.suppress(OSError):
                        self._socket.shutdown(socket.SHUT_RD)  # so that it, or the reactor, notices
                finally:
                    self._turn.release()
        return is_here()

    def _comes_by(self, deadline: float) -> bool:
        """Waits until there is something to be read, or until an instant; which of the two."""
        return self._reader.holds_frame or has_input(self._socket, max(0.0, deadline - time.monotonic()))

    def _read(self) -> None:
        """Waits for a frame, and takes it and those that came along: the reactor would not see them in the socket."""
        self._take(self._reader.read_frame()[1])
        while self._reader.holds_frame:
            self._take(self._reader.read_frame()[1])

    def _lend(self) -> None:
        loop = self._reactors.current()
        self._returned.clear()
        if loop is not None and loop.watch(self._socket.fileno(), self._serve, self._returned.set):
            self._returned.wait()

    # -- the reactor's thread ----------------------------------------------------------------------------------------------

    def _serve(self) -> bool:
        """Takes what has come, for one `TURN`; false where the reading thread has to go on."""
        if not self._turn.acquire(blocking=False):
            return True  # another thread waits for a message, and reads
        try:
            taken = 0
            while self._failure is None and (frame := self._reader.take_frame()) is not None:
                self._take(frame[1])
                taken += 1
                if taken >= TURN and not self._reader.holds_frame:
                    break
            return self._failure is None and not self._reader.is_long
        except Exception as error:  # noqa: BLE001 - raised again in the reading thread
            self._failure = error
            return False
        finally:
            self._turn.release()
