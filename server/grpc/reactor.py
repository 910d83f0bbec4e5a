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
    """Has what one round of the event loop submits leave in one frame. The loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coalescer: Coalescer) -> None:
        self._loop, self._coalescer = loop, coalescer
        self._open = False

    def begin(self) -> None:
        """To be called before something is submitted."""
        if not self._open:
            self._open = True
            self._coalescer.plug()
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        self._open = False
        self._coalescer.unplug()
