"""The signals that end a server, as the main thread takes them: none is lost, whenever it comes.

Python runs a handler only when its main thread gets to it. A thread that has just gone to sleep on a lock or a queue does not,
if the signal came an instant before. So the interpreter's own handler, which runs at once, writes the number into a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator

#: What ends the server in good order. SIGHUP comes when a terminal closes, twice as a rule, and from service managers.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Numbers of signals in the order in which they came; `put` adds one that no process sent. Threads: any, `get` one."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def fd(self) -> int:
        """What the interpreter writes to."""
        return self._write

    def put(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):  # so many wait already that one more says nothing
            os.write(self._write, bytes([number]))

    def get(self) -> int:
        """Waits for the next one."""
        return os.read(self._read, 1)[0]

    def get_nowait(self) -> int | None:
        """The next one, None where none has come."""
        return self.get() if select.select([self._read], [], [], 0)[0] else None

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def received() -> Iterator[Signals]:
    """Takes the signals of ENDING. Main thread only.

    A SIGHUP that the starting process ignores stays ignored: that is what `nohup` means.
    """
    signals = Signals()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    wakeup = signal.set_wakeup_fd(signals.fd, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, lambda *_: None) for number in ENDING if number not in ignored}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        signals.close()
