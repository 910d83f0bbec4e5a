"""Calls that need no worker, on their way from a front end to the scheduler: each on a socket of its own, through the door.

    front end   Relay.ask(service, method, document, …)    one request, then half-closes
    scheduler   `control.ControlAnswerer`                  one answer, then closes

Both are msgpack arrays of plain values; a front end that gives up closes its end.
"""

from __future__ import annotations

import asyncio
import socket
import threading
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


class _Exchange:
    """One call on its way. `give_up` is for the event loop, `run` for a thread of the relay."""

    def __init__(self, door: socket.socket, asked: Asked) -> None:
        self._door, self._asked = door, asked
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._given_up = False

    def give_up(self) -> None:
        """The call has ended: the thread that reads from the socket notices."""
        with self._lock:
            self._given_up = True
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> Told:
        name = self._asked.method
        try:
            data = self._ask()
        except OSError as error:
            raise Unavailable(f"{name} could not be relayed: {error}") from None
        if not data:
            raise Unavailable(f"{name} could not be relayed: the scheduler gave no answer")
        return _DECODE_TOLD(data)

    def _ask(self) -> bytes:
        ours, theirs = socket.socketpair()
        with ours:
            with self._lock:
                self._socket = None if self._given_up else ours
            with theirs:
                send_peer(self._door, theirs, self._asked.peer, "")
            try:
                ours.sendall(_ENCODER.encode(self._asked))
                ours.shutdown(socket.SHUT_WR)
                return read_all(ours)
            finally:
                with self._lock:
                    self._socket = None


class Relay:
    """The front end's side. `ask` belongs to the event loop."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._slow = ThreadPoolExecutor(SLOW, thread_name_prefix="relay-slow")
        self._quick = ThreadPoolExecutor(QUICK, thread_name_prefix="relay")

    async def ask(self, asked: Asked, *, slow: bool = False) -> Told:
        """The scheduler's answer. Unavailable where there is none."""
        exchange, pool = _Exchange(self._door, asked), self._slow if slow else self._quick
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, exchange.run)
        except asyncio.CancelledError:
            exchange.give_up()
            raise


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
