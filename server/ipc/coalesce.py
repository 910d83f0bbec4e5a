"""Requests that arrive together leave together: a thread that brings several at once has them looked at once.

A thread that reads many connections calls `begin` before it reads and `end` after it. What it submits between the two only joins
its queue; at the end each queue concerned decides once, with all of it in view, instead of sending the first request off alone.
Nothing waits for anything that has not arrived yet.

Such a thread also sends answers, and clients that get one often have their next request ready at once. So it reads again after
every few answers (`pause`), and only at the end of them all it is the turn of the queues: except for those whose model is so
quick that it could have answered the first requests while the thread reads the others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

Queues = dict[Callable[[], None], None]


class _Gathering(threading.local):
    queues: Queues | None = None
    brisk: Queues | None = None
    refusals = 0


_here = _Gathering()


def begin() -> None:
    """From now on this thread's requests are gathered."""
    _here.queues, _here.brisk = {}, {}


def postpone(wake: Callable[[], None], brisk: bool = False) -> bool:
    """Has `wake` called at the end, or with `brisk` at the next pause, once however often it is asked for.

    False where this thread gathers nothing.
    """
    queues = _here.brisk if brisk else _here.queues
    if queues is None:
        return False
    queues[wake] = None
    return True


def pause() -> None:
    """Wakes the queues of quick models; the others are still gathered for."""
    if _here.brisk:
        queues, _here.brisk = _here.brisk, None  # what goes on in there submits as usual
        others, _here.queues = _here.queues, None
        try:
            _wake(queues)
        finally:
            _here.queues, _here.brisk = others, {}


def end() -> None:
    """Wakes the queues that were postponed. What goes on there submits as usual."""
    brisk, queues = _here.brisk, _here.queues
    _here.brisk = _here.queues = None
    _wake({**(brisk or {}), **(queues or {})})


def _wake(queues: Queues) -> None:
    for wake in queues:
        wake()


def refused() -> None:
    """Notes that a request of this thread was refused because the server holds as many as it may."""
    _here.refusals += 1


def take_refusals() -> int:
    """How many were noted since this thread last asked."""
    count = _here.refusals
    if count:
        _here.refusals = 0
    return count


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What is submitted inside leaves together, at the end of this or of what this thread gathers anyway."""
    if postpone(_nothing):
        yield
        return
    begin()
    try:
        yield
    finally:
        end()


def _nothing() -> None:
    """Postponed to learn whether this thread gathers."""
