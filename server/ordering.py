"""Answers in the order of arrival, whatever order the workers finish in (`preserve_ordering`)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..backends.base import Response
from .call import Call
from .errors import JitneyError

Answer = Response | JitneyError


class OrderedAnswers:
    """Holds each call's final answer until every call that was admitted before it has been answered.

    Threads: any. Answers are handed on under the lock, so that two threads cannot overtake each other between deciding and
    handing on. The lock is re-entrant: an answer may start an ensemble's next step, on the same model even.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: dict[Call, Callable[[Answer], None]] = {}  # in the order of arrival, with where each answer goes
        self._held: dict[Call, Answer] = {}

    def admit(self, call: Call) -> None:
        """Gives the call its place; to be called in the order of arrival."""
        with self._lock:
            self._waiting[call] = call.on_answer or call.deliver
        call.on_answer = lambda answer: self._answered(call, answer)

    def withdraw(self, call: Call) -> None:
        """Takes a call out that will not run: refused, expired or cancelled. An answer that it has is handed on at once."""
        with self._lock:
            deliver = self._waiting.pop(call, None)
            if deliver is not None and call in self._held:
                deliver(self._held.pop(call))
            self._release()

    def _answered(self, call: Call, answer: Answer) -> None:
        with self._lock:
            if call in self._waiting:  # else it was refused, and nobody waits
                self._held[call] = answer
                self._release()

    def _release(self) -> None:
        while self._waiting and (call := next(iter(self._waiting))) in self._held:
            self._waiting.pop(call)(self._held.pop(call))
