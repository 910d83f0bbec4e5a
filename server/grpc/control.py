"""The scheduler's side of gRPC: answers the calls that need no worker, each in a thread of its own.

A dialect's control is a function of a method's name and a request as a JSON object; what it raises becomes a status in its own
`errors`.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec
import orjson

from ...core.errors import JitneyError, TooFewThreads
from ..http.torchserve.errors import WITH_REASONS
from ..process import threads
from ..settings.addresses import Address
from .relay import QUICK, SLOW, Asked, Told, read_asked, send_told

log = logging.getLogger(__name__)

Document = Mapping[str, Any]
_INTERNAL = "internal error, see the server's log"
#: How long a front end may take to say what it wants.
_PATIENCE_S = 30.0


def reason_of(error: Exception) -> str:
    """What was wrong, where the original's text leaves it out."""
    return str(getattr(error, "reason", "") or (error if isinstance(error, WITH_REASONS) else ""))


class Control(Protocol):
    """The calls of one service."""

    def call(self, method: str, request: Document) -> Any:
        """The answer, as something that becomes JSON; JitneyError where there is none."""

    def status_of(self, method: str, error: JitneyError) -> tuple[str, str]:
        """The name of a status, and its text."""


class ControlAnswerer:
    """Answers what the gRPC front ends relay (`frontend_process.Relay`); `fd` is a socket that holds one of their ports."""

    name = "grpc"
    ports: Collection[str] = ("grpc",)

    def __init__(self, controls: Mapping[str, Control], reserved: list[socket.socket], front_ends: int) -> None:
        self._controls, self._reserved = controls, reserved
        self._places = threading.Semaphore(front_ends * (SLOW + QUICK))  # as many as front ends ask for at once

    @property
    def fd(self) -> int:
        return self._reserved[0].fileno()

    @property
    def address(self) -> Address:
        host, port = self._reserved[0].getsockname()[:2]
        return Address("http", host, port)

    def start(self) -> None:
        """Threads start as they are needed."""

    def stop_listening(self) -> None:
        """The front ends listen; nothing holds their ports for them any more."""
        for sock in self._reserved:
            sock.close()

    def close(self, timeout: float) -> None:
        """What is under way, a load perhaps, does not keep the server from its end."""
        self.stop_listening()

    def adopt(self, sock: socket.socket, peer: Any) -> None:
        """Answers one call on this connection, in a thread of its own. Any thread."""
        thread = threading.Thread(target=self._answer, args=(sock,), name="grpc-control", daemon=True)
        if not self._places.acquire(blocking=False):
            sock.close()
            return
        try:
            threads.start(thread, "a call that needs no model")
        except TooFewThreads as error:
            log.warning("%s", error)
            self._places.release()
            sock.close()  # its front end tells the client

    def _answer(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(_PATIENCE_S)
                send_told(sock, self._told(read_asked(sock)))
        except (OSError, msgspec.MsgspecError) as error:
            log.debug("a relayed call has gone: %s", error)
        finally:
            self._places.release()

    def _told(self, asked: Asked) -> Told:
        control = self._controls.get(asked.service)
        if control is None:
            return Told("UNIMPLEMENTED", f"no such service: {asked.service}")
        try:
            return Told(document=orjson.dumps(control.call(asked.method, orjson.loads(asked.document))))
        except JitneyError as error:
            return Told(*control.status_of(asked.method, error), reason=reason_of(error))
        except Exception:
            log.exception("%s/%s failed", asked.service, asked.method)
            return Told("INTERNAL", _INTERNAL)
