"""Requests that arrive together leave together: a thread that brings several at once has them looked at once.

A thread that reads many connections calls `begin` before a round of reading and `end` after it. What it submits between the two
only joins its queue; at the end each queue concerned decides once, with all of it in view, instead of sending the first request
off alone. Nothing waits for anything that has not arrived yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class _Gathering(threading.local):
    queues: dict[Callable[[], None], None] | None = None


_here = _Gathering()


def begin() -> None:
    """From now on this thread's requests are gathered."""
    _here.queues = {}


def postpone(wake: Callable[[], None]) -> bool:
    """Has `wake` called at the end, once however often it is asked for; false where this thread gathers nothing."""
    if _here.queues is None:
        return False
    _here.queues[wake] = None
    return True


def end() -> None:
    """Wakes the queues that were postponed. What goes on there submits as usual."""
    queues, _here.queues = _here.queues, None
    for wake in queues or ():
        wake()


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
