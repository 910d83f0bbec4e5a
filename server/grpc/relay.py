"""Calls that need no worker, on their way from a front end to the scheduler: each on a socket of its own, through the door.

    front end   Relay.ask(service, method, document, …)    one request, then half-closes
    scheduler   `control.ControlAnswerer`                       one answer, then closes

Both are msgpack arrays of plain values; a front end that gives up closes its end.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from ...core.errors import Unavailable
from ..frontends.messages import Plain
from ..frontends.peers import send_peer

#: Calls under way at once: those that may take as long as a model needs to load, and the others.
SLOW, QUICK = 24, 8
_READ_BYTES = 1 << 18


class Asked(Plain):
    """`document`: the request, as JSON. `peer`: who calls."""

    service: str
    method: str
    document: bytes
    peer: str = ""


class Told(Plain):
    """`status`: the name of a gRPC status; `text` is what it says, `reason` what that leaves out, `document` the answer as JSON
    where it is OK."""

    status: str = "OK"
    text: str = ""
    document: bytes = b"{}"
    reason: str = ""


_ENCODER = msgspec.msgpack.Encoder()
_DECODE_ASKED = msgspec.msgpack.Decoder(Asked).decode
_DECODE_TOLD = msgspec.msgpack.Decoder(Told).decode


class Relay:
    """The front end's side. `ask` belongs to the event loop."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._slow = ThreadPoolExecutor(SLOW, thread_name_prefix="relay-slow")
        self._quick = ThreadPoolExecutor(QUICK, thread_name_prefix="relay")

    async def ask(self, asked: Asked, *, slow: bool = False) -> Told:
        """The scheduler's answer. Unavailable where there is none."""
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._slow if slow else self._quick, self._ask, ours, theirs, asked)
        except asyncio.CancelledError:
            ours.shutdown(socket.SHUT_RDWR)  # whoever reads from it notices, and closes it
            raise

    def _ask(self, ours: socket.socket, theirs: socket.socket, asked: Asked) -> Told:
        with ours:
            try:
                with theirs:
                    send_peer(self._door, theirs, asked.peer, "")
                ours.sendall(_ENCODER.encode(asked))
                ours.shutdown(socket.SHUT_WR)
                data = read_all(ours)
            except OSError as error:
                raise Unavailable(f"{asked.method} could not be relayed: {error}") from None
        if not data:
            raise Unavailable(f"{asked.method} could not be relayed: the scheduler gave no answer")
        return _DECODE_TOLD(data)


def read_asked(sock: socket.socket) -> Asked:
    """The scheduler's side: what is asked. OSError or msgspec.MsgspecError where that does not come."""
    return _DECODE_ASKED(read_all(sock))


def send_told(sock: socket.socket, told: Told) -> None:
    sock.sendall(_ENCODER.encode(told))


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends."""
    pieces: list[Any] = []
    while data := sock.recv(_READ_BYTES):
        pieces.append(data)
    return b"".join(pieces)
