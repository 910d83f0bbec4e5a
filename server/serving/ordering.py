"""Answers in the order of arrival, whatever order the workers finish in (`preserve_ordering`)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from ...core.call import Call
from ...core.errors import JitneyError
from ...core.request import Response

Answer = Response | JitneyError

log = logging.getLogger(__name__)


class OrderedAnswers:
    """Holds each call's answers until every call that was admitted before it has had its final one.

    Threads: any. Answers are handed on with no lock held, since that may start an ensemble's next step, on another model with
    ordered answers or on the same. One thread at a time hands answers on, so that none is overtaken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Call, Callable[[Answer], None]] = {}  # in the order of arrival, with where its answers go
        self._held: dict[Call, list[Answer]] = {}
        self._due: deque[tuple[Callable[[Answer], None], Answer]] = deque()
        self._handing_on = False

    def admit(self, call: Call) -> None:
        """Gives the call its place; to be called in the order of arrival."""
        with self._lock:
            self._waiting[call] = call.on_answer or call.deliver
        call.on_answer = lambda answer: self._answered(call, answer)

    def withdraw(self, call: Call) -> None:
        """Takes a call out that will not run: refused, expired or cancelled. An answer that it has is handed on at once."""
        with self._lock:
            deliver = self._waiting.pop(call, None)
            if deliver is not None:
                self._due += [(deliver, answer) for answer in self._held.pop(call, [])]
            self._release()
        self._hand_on()

    def _answered(self, call: Call, answer: Answer) -> None:
        with self._lock:
            if call in self._waiting:  # else it was refused
                self._held.setdefault(call, []).append(answer)
                self._release()
        self._hand_on()

    def _release(self) -> None:
        """The first call's answers are due as they come; after its final one it is the next call's turn."""
        while self._waiting:
            call, deliver = next(iter(self._waiting.items()))
            answers = self._held.pop(call, [])
            self._due += [(deliver, answer) for answer in answers]
            if not answers or not _is_final(answers[-1]):
                return
            del self._waiting[call]

    def _hand_on(self) -> None:
        with self._lock:
            if self._handing_on:
                return  # by another thread, or further up in this one
            self._handing_on = True
        while True:
            with self._lock:
                if not self._due:
                    self._handing_on = False
                    return
                deliver, answer = self._due.popleft()
            try:
                deliver(answer)
            except Exception:  # the others' answers do not depend on it
                log.exception("an answer could not be handed on")


def _is_final(answer: Answer) -> bool:
    return isinstance(answer, JitneyError) or answer.final
