"""Relayed requests' connections on their way from a front end to the scheduler."""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)


def send_peer(door: socket.socket, theirs: socket.socket, host: str, port: str) -> None:
    """Hands a connected socket to the scheduler. OSError where it is gone."""
    socket.send_fds(door, [f"{host}\0{port}".encode()], [theirs.fileno()])


def receive_peer(door: socket.socket) -> tuple[socket.socket | None, tuple[str, str]]:
    """The next socket and its client's address; None at the end."""
    while True:
        data, fds, _, _ = socket.recv_fds(door, 1024, 1)
        if not data:
            return None, ("", "")
        if fds:
            break
        log.warning("a relayed request is lost: this process has no file descriptor left")  # its front end notices
    host, _, port = data.decode("utf-8", "replace").partition("\0")
    return socket.socket(fileno=fds[0]), (host, port)
