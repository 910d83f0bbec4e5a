"""`Channel`, the server's end of a worker's socket, and `VirtualLoop`, which waits for any number of them, on a `Machine`."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Protocol

from ....server.ipc.frame import PeerClosed
from ....server.ipc.messages import Message
from ....server.workers.channel import Then
from .machine import Machine, VirtualTask
from .threading_kit import threading_on


class Sent(Protocol):
    """The process at the other end of a socket."""

    @property
    def alive(self) -> bool: ...

    def sent(self, message: Message) -> None: ...


class Channel:
    """As `workers.channel.ServerChannel`: a message comes as a whole, and none is read before it is asked for."""

    holds_frame = is_long = False

    def __init__(self, machine: Machine, process: Sent) -> None:
        self._machine, self._process = machine, process
        self._inbox: collections.deque[Message | None] = collections.deque()  # None: the end
        self._reader: VirtualTask | None = None
        self.on_input: Callable[[], None] = lambda: None

    @property
    def has_input(self) -> bool:
        return bool(self._inbox)

    def post(self, message: Message, then: Then | None = None) -> bool:
        if not self._process.alive:
            raise BrokenPipeError("the worker's end of the socket is closed")
        self._process.sent(message)
        return True

    def receive(self) -> Message:
        while not self._inbox:
            self._reader = self._machine.me()
            self._machine.wait("input")
        if self._inbox[0] is None:
            raise PeerClosed
        return self._next()

    def take(self) -> Message | None:
        if not self._inbox:
            return None
        if self._inbox[0] is None:
            raise PeerClosed
        return self._next()

    def _next(self) -> Message:
        message = self._inbox.popleft()
        if message is None:
            raise PeerClosed
        return message

    def arrived(self, message: Message | None) -> None:
        """The process' message, or its end, is here."""
        self._inbox.append(message)
        self.on_input()
        if self._reader is not None:
            self._machine.wake(self._reader)
            self._reader = None


class VirtualLoop:
    """`ipc.reading_loop.ReadingLoop`. `channels`: what is behind each descriptor."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name
        self.channels: dict[int, Channel] = {}
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._kit = threading_on(machine)
        self._open = False
        self._thread: VirtualTask | None = None
        self._sleeps = False

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        if not self._open:
            return False
        self._watched[fd] = serve, lost
        self.channels[fd].on_input = self._ring
        self._ring()
        return True

    def open(self) -> None:
        self._open = True
        self._thread = self._machine.spawn(self._name, self._run)

    def close(self) -> None:
        self._open = False
        self._ring()
        if self._thread is not None and not self._thread.done:
            self._thread.joining.append(self._machine.me())
            self._machine.wait(f"the end of {self._name}")

    def _ring(self) -> None:
        if self._sleeps and self._thread is not None:
            self._sleeps = False
            self._machine.wake(self._thread)

    def _run(self) -> None:
        while self._open:
            ready = [fd for fd in self._watched if self.channels[fd].has_input]
            if not ready:
                self._sleeps = True
                self._machine.wait("sockets")
            for fd in ready:
                if not self._watched[fd][0]():
                    self._watched.pop(fd)[1]()
        for fd in list(self._watched):
            self._watched.pop(fd)[1]()
