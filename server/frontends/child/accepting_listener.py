"""`AcceptingListener`: accepts from a socket that several front ends share, such that each gets about as many connections.

All of them hear of a new connection. One that has more than another waits a moment, so that the other one can take it; left to
themselves, the one that happens to be awake would take nearly all that come at once, and kept connections stay where they are.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import Any

from ...process import threads
from ..adopting_listener import AdoptingListener
from ..shared_counters import SharedCounters

#: How long and how often a front end leaves a connection to those that have fewer, before it takes it itself.
POLITE_S = 0.001
POLITE_TIMES = 5
#: How long nothing is accepted when the process has no descriptor, or place for a connection, left.
_FULL_S = 0.05


class AcceptingListener(AdoptingListener):
    """The listener of front end `index`."""

    def __init__(self, *arguments: Any, counters: SharedCounters, index: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._counters, self._index = counters, index
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._acceptor = threading.Thread(target=self._accept, name=f"http-{self.name}-accept", daemon=True)

    def start(self) -> None:
        """Begins to answer; returns at once."""
        super().start()
        threads.start(self._acceptor, f"listener '{self.name}'")

    def stop_accepting(self) -> None:
        """Refuses new connections and closes idle ones. Requests that were accepted are answered."""
        if self._acceptor.is_alive():
            os.eventfd_write(self._stop_fd, 1)
            self._acceptor.join()
            self._server.accepting = True  # the loop accepts whoever waits then, at the moment in which it closes the socket
        super().stop_accepting()

    def close(self, timeout: float = 10.0) -> None:
        super().close(timeout)
        if self._stop_fd >= 0:
            os.close(self._stop_fd)
            self._stop_fd = -1

    # -- the accepting thread ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        self._counters.set_connections(self._index, 0)
        polite, limit = 0, self._server.adj.connection_limit
        while self._stop_fd not in [fd for fd, _ in poll.poll()]:
            self._counters.set_connections(self._index, self.connections)
            if self.connections >= limit:
                self._loop.post(self._server.make_room)
                time.sleep(_FULL_S)
                continue
            if polite < POLITE_TIMES and self._counters.has_more(self._index):
                polite += 1
                time.sleep(POLITE_S)
                continue
            polite = 0
            self._take_one()

    def _take_one(self) -> None:
        try:
            sock, peer = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another one was faster, or the client is gone
        except OSError as error:
            self._server.complain("no connection can be accepted: %s", error)
            time.sleep(_FULL_S)
            return
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # it may have gone already
            self._server.set_socket_options(sock)
        self.adopt(sock, self._server.fix_addr(peer))
        self._counters.set_connections(self._index, self.connections)
