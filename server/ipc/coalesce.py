"""Requests that arrive together leave together: a thread that brings several at once has their queues decide once.

A thread that reads many connections calls `plug` before it reads and `unplug` after it. What it submits between the two only
joins its queue; at the end each queue concerned decides once, with all of it in view, and does not send the first request alone.
Nothing waits for anything that has not arrived yet. The words are those of Linux's block layer, which gathers writes so.

Such a thread also sends answers, and clients that get one often have their next request ready at once. So it reads again after
every few answers (`flush`), and only at the end of them all it is the turn of the queues: except for those of models with so low
a latency that they could have answered the first requests while the thread reads the others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

Queues = dict[Callable[[], None], None]


class Coalescer(threading.local):
    """One for a process; what it holds is each thread's own."""

    def __init__(self) -> None:
        self._queues: Queues | None = None
        self._low_latency: Queues | None = None
        self._refusals = 0

    def plug(self) -> None:
        """From now on this thread's requests are gathered."""
        self._queues, self._low_latency = {}, {}

    def defer(self, wake: Callable[[], None], low_latency: bool = False) -> bool:
        """Has `wake` called at the end, or with `low_latency` at the next flush, once however often it is asked for.

        False where this thread gathers nothing.
        """
        queues = self._low_latency if low_latency else self._queues
        if queues is None:
            return False
        queues[wake] = None
        return True

    def flush(self) -> None:
        """Wakes the queues of models with a low latency; the others are still gathered for."""
        if self._low_latency:
            queues, self._low_latency = self._low_latency, None  # what goes on in there submits as usual
            others, self._queues = self._queues, None
            try:
                _wake(queues)
            finally:
                self._queues, self._low_latency = others, {}

    def unplug(self) -> None:
        """Wakes the queues that were deferred. What goes on there submits as usual."""
        low_latency, queues = self._low_latency, self._queues
        self._low_latency = self._queues = None
        _wake({**(low_latency or {}), **(queues or {})})

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is submitted inside leaves together, at the end of this or of what this thread gathers anyway."""
        if self._queues is not None:
            yield
            return
        self.plug()
        try:
            yield
        finally:
            self.unplug()

    def refused(self) -> None:
        """Notes that a request of this thread was refused because the server holds as many as it may."""
        self._refusals += 1

    def take_refusals(self) -> int:
        """How many were noted since this thread last asked."""
        count, self._refusals = self._refusals, 0
        return count


def _wake(queues: Queues) -> None:
    for wake in queues:
        wake()
