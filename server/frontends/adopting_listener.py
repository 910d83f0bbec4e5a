"""`AdoptingListener`: a waitress listener that is handed its connections, instead of accepting them itself."""

from __future__ import annotations

import socket
from typing import Any

from ..http.engine.listener import Listener
from ..process import threads


class AdoptingListener(Listener):
    """A `Listener` that does not accept connections itself. `adopt` brings the connections."""

    _handed = 0  # connections given to `adopt`, by one thread at a time
    _entered = 0  # those that the loop has taken

    def start(self) -> None:
        """Begins to answer what is adopted; returns at once."""
        self._dispatcher.start(self.threads)
        threads.start(self._thread, f"listener '{self.name}'")
        self._io.reactors.offer(self._loop)

    def adopt(self, sock: socket.socket, peer: Any) -> None:
        """Answers on this connection, whose other end is `peer`: (host, port). Any thread."""
        server = self._server
        self._handed += 1

        def enter() -> None:
            self._entered += 1
            if server.draining:
                sock.close()
            else:
                server.welcome(sock, peer)

        self._loop.post(enter)

    @property
    def connections(self) -> int:
        """How many there are now, those on their way to the loop included."""
        return len(self._server.active_channels) + self._handed - self._entered
