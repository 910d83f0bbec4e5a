"""What clients saw, by the fault that was under way when they asked, and what the table of faults makes of it."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["right", "refused", "cut", "absent", "wrong", "unanswered"]


@dataclass(frozen=True)
class Answer:
    """One request. Times in monotonic seconds; `text` says what came where it was not right."""

    client: str
    began: float
    ended: float
    kind: Kind
    text: str = ""


@dataclass
class Window:
    """The time of one fault. `onset`: when its cause had its effect, or was over, which is when recovery begins.

    cuts  whether the fault ends the process that has the connections, so that a connection that ends is no lost answer
    """

    fault: str
    began: float
    onset: float
    cuts: bool
    ended: float = 0.0
    problem: str = ""
    answers: list[Answer] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter(answer.kind for answer in self.answers)

    def longest_gap(self) -> float:
        """Seconds in which no client at all got a right answer."""
        instants = [self.began, *sorted(a.ended for a in self.answers if a.kind == "right"), self.ended]
        return max(later - sooner for sooner, later in itertools.pairwise(instants))

    def recovery(self, clients: set[str]) -> float | None:
        """Seconds from the onset until the last client had right answers only; None where one has not come to that."""
        worst = 0.0
        for client in clients:
            mine = [answer for answer in self.answers if answer.client == client and answer.ended > self.onset]
            mine.sort(key=lambda answer: answer.ended)
            bad = [number for number, answer in enumerate(mine) if answer.kind != "right"]
            after = mine[bad[-1] + 1 :] if bad else [answer for answer in mine if answer.began >= self.onset]
            if not after:
                return None
            worst = max(worst, after[0].ended - self.onset) if bad else worst
        return worst


class Ledger:
    """Takes answers from any thread. Background clients are those whose recovery is waited for."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.background: set[str] = set()
        self._lock = threading.Lock()

    def open(self, window: Window) -> None:
        with self._lock:
            if self.windows:
                self.windows[-1].ended = window.began
            self.windows.append(window)

    def add(self, answer: Answer) -> None:
        """Books an answer in the window in which it was asked for, and one that shows a fault in the window in which it came.

        A connection that was cut where no process was killed is an answer that never came. That a model is not there ("absent")
        is a good reason while a server starts, and wrong otherwise.
        """
        with self._lock:
            asked, came = self._at(answer.began), self._at(answer.ended)
            window = asked if answer.kind in ("right", "unanswered") else came
            excused = asked.cuts or came.cuts
            if answer.kind == "cut" and not excused:
                answer = replace(answer, kind="unanswered")
            elif answer.kind == "absent":
                answer = replace(answer, kind="refused" if excused else "wrong")
            window.answers.append(answer)

    def _at(self, instant: float) -> Window:
        return next((window for window in reversed(self.windows) if window.began <= instant), self.windows[0])

    def recovered(self, now: float, quiet: float) -> bool:
        """Whether every background client has had right answers only for `quiet` seconds, and since the onset."""
        with self._lock:
            window = self.windows[-1]
            since = max(window.onset, now - quiet)
            recent = [answer for answer in window.answers if answer.ended >= since]
            bad = any(answer.kind != "right" for answer in recent if answer.client in self.background)
            right = {answer.client for answer in recent if answer.kind == "right" and answer.began >= window.onset}
            return now >= window.onset + quiet and not bad and right >= self.background
