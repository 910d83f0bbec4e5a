"""Answers in the order of arrival, whatever order the workers finish in (`preserve_ordering`)."""

from __future__ import annotations

import threading
from collections import deque

from ..backends.base import Response
from .call import Call
from .errors import JitneyError


class OrderedAnswers:
    """Holds each call's final answer until every call that was admitted before it has been answered.

    Threads: any. Answers are handed on under the lock, so that two threads cannot overtake each other between deciding and
    handing on; handing on only puts into a queue.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._held: dict[Call, Response | JitneyError] = {}

    def admit(self, call: Call) -> None:
        """Gives the call its place; to be called in the order of arrival."""
        call.on_answer = lambda answer: self._answered(call, answer)
        with self._lock:
            self._waiting.append(call)

    def withdraw(self, call: Call) -> None:
        """Takes a call out that will not run: refused, expired or cancelled. An answer that it has is handed on at once."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            if call in self._held:
                call.deliver(self._held.pop(call))
            self._release()

    def _answered(self, call: Call, answer: Response | JitneyError) -> None:
        with self._lock:
            self._held[call] = answer
            self._release()

    def _release(self) -> None:
        while self._waiting and self._waiting[0] in self._held:
            call = self._waiting.popleft()
            call.deliver(self._held.pop(call))
