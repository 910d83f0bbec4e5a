"""The event loop as the process' reactor: it reads what the scheduler sends, so that an answer wakes one thread and not two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..ipc.coalesce import Coalescer
from ..ipc.reactor import Reactors


class AioReactor:
    """`ipc.reactor.Reactor` on an asyncio loop, whose thread makes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reactors: Reactors) -> None:
        self._loop, self._reactors = loop, reactors
        self._watched: dict[int, Callable[[], None]] = {}
        self._closed = False
        reactors.offer(self)

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        """From now on calls `serve` in the loop whenever there is input; any thread may ask."""

        def enter() -> None:
            if self._closed:
                lost()
                return
            self._watched[fd] = lost
            self._loop.add_reader(fd, ready)

        def ready() -> None:
            if not serve():
                self._forget(fd)

        try:
            self._loop.call_soon_threadsafe(enter)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _forget(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._watched.pop(fd)()

    def close(self) -> None:
        """Lets go of everything. The loop's thread."""
        self._reactors.withdraw(self)
        self._closed = True
        for fd in list(self._watched):
            self._forget(fd)


class Gathering:
    """Has what comes together leave in one frame, so that the scheduler sees it together. The loop's thread.

    gRPC brings calls one by one, several rounds of the loop apart. So while others are under way too (`crowd` says how many),
    what is submitted waits until `PATIENCE` rounds have brought nothing more, `ROUNDS` at most; the rounds do not block.
    """

    PATIENCE, ROUNDS = 6, 48

    def __init__(self, loop: asyncio.AbstractEventLoop, coalescer: Coalescer, crowd: Callable[[], int]) -> None:
        self._loop, self._coalescer, self._crowd = loop, coalescer, crowd
        self._open = False
        self._quiet = self._rounds = 0

    def begin(self) -> None:
        """To be called before something is submitted."""
        self._quiet = 0
        if not self._open:
            self._open, self._rounds = True, 0
            self._coalescer.plug()
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._quiet, self._rounds = self._quiet + 1, self._rounds + 1
        if self._crowd() > 1 and self._quiet < self.PATIENCE and self._rounds < self.ROUNDS:
            self._loop.call_soon(self._look)
            return
        self._open = False
        self._coalescer.unplug()
