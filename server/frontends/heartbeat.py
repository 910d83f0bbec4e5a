"""`Heartbeat`: whether a front end still does anything. One that stands still keeps its connections, and answers none of them.

Pure: the supervisor looks every `LOOK_S` seconds and says what it sees. Looks are counted, and not seconds: where the whole
server was stopped and goes on (Ctrl-Z and `fg`), nobody else has stood still for longer than it has.
"""

from __future__ import annotations

import threading

#: Seconds between two looks.
LOOK_S = 0.5
#: Looks in a row at which a signal (SIGSTOP) has stopped the process: after so many it is given up.
STOPPED_LOOKS = 2
#: Looks in a row at which it has not answered, and said nothing else: after so many it is given up.
SILENT_LOOKS = 60
#: Looks between an answer and the next question.
REST_LOOKS = 10


class Heartbeat:
    """Of one front end; its supervisor's thread alone."""

    def __init__(self) -> None:
        self._answered: threading.Event | None = None
        self._stopped = self._silent = self._rests = 0

    @property
    def asks(self) -> bool:
        """Whether it is to be asked now."""
        return self._answered is None and self._rests >= REST_LOOKS

    def asked(self, answered: threading.Event) -> None:
        """It was asked; the event is set when it has answered."""
        self._answered, self._silent, self._rests = answered, 0, 0

    def look(self, stopped: bool, heard: bool) -> str:
        """Why it has to be replaced, "" where it has not.

        stopped  whether a signal has stopped it
        heard    whether it has said or read anything else since the last look, or said something that is not read here yet: the
                 question and the answer may have to wait for others
        """
        self._stopped = self._stopped + 1 if stopped else 0
        if self._stopped >= STOPPED_LOOKS:
            return "it was stopped by a signal"
        if self._answered is None:
            self._rests += 1
        elif self._answered.is_set():
            self._answered, self._silent = None, 0
        elif heard:
            self._silent = 0
        else:
            self._silent += 1
            if self._silent >= SILENT_LOOKS:
                return f"it has done nothing for {SILENT_LOOKS * LOOK_S:g} s"
        return ""
