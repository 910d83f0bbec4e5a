"""`DripSocket`: a socket that delivers one byte at a time, and takes as little."""

from __future__ import annotations

import socket


class DripSocket(socket.socket):
    """Owns the descriptor of `other`."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())

    def recv_into(self, buffer, nbytes=0, flags=0):  # type: ignore[no-untyped-def]
        return super().recv_into(buffer, 1, flags)

    def sendall(self, data, flags=0):  # type: ignore[no-untyped-def]
        for at in range(len(data)):
            super().sendall(memoryview(data)[at : at + 1], flags)
