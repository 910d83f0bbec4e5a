"""A worker's stdout and stderr, line by line into `logging`."""

from __future__ import annotations

import collections
import logging
import os
import selectors
import threading

#: Longer lines are cut into several, so that a model that prints without end costs no memory.
MAX_LINE = 64 << 10
_TAIL_LINES = 20


class LogPump(threading.Thread):
    """Logs each line of a process under the logger `jitney.model.<model>`: stdout as INFO, stderr as WARNING (TorchServe's
    levels). Owns both descriptors. Ends with the process, also where processes that the model started keep the pipes open.
    """

    def __init__(self, pid: int, model: str, worker: str, stdout: int, stderr: int) -> None:
        super().__init__(name=f"jitney-{worker}-log", daemon=True)
        self._log, self._worker = logging.getLogger(f"jitney.model.{model}"), worker
        self._levels = {stdout: logging.INFO, stderr: logging.WARNING}
        self._partial = {stdout: b"", stderr: b""}
        self._pid_fd = _pid_fd(pid)
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)  # the last lines of stderr

    def run(self) -> None:
        try:
            self._pump()
        finally:
            self._close()

    def abandon(self) -> None:
        """For a process that has ended already: waits for the thread, or does what it leaves undone where it cannot start."""
        if self.ident is not None:
            self.join()
        else:
            self._close()

    def _close(self) -> None:
        for fd in self._levels:
            os.close(fd)
        if self._pid_fd is not None:
            os.close(self._pid_fd)

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            for fd in self._levels:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            if self._pid_fd is not None:
                selector.register(self._pid_fd, selectors.EVENT_READ)
            open_fds = set(self._levels)
            while open_fds:
                ready = {key.fd for key, _ in selector.select()}
                if self._pid_fd in ready:  # the process ended: what it wrote is in the pipes already
                    ready = open_fds.copy()
                    ended = True
                else:
                    ended = False
                for fd in ready & open_fds:
                    if not self._read(fd, everything=ended):
                        selector.unregister(fd)
                        open_fds.discard(fd)
                if ended:
                    break
        for fd, rest in self._partial.items():
            self._emit(fd, rest)

    def _read(self, fd: int, everything: bool) -> bool:
        """Reads once, or until there is nothing left; False at the end of the stream."""
        while True:
            try:
                data = os.read(fd, MAX_LINE)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, rest = (self._partial[fd] + data).split(b"\n")
            for line in lines:
                self._emit(fd, line)
            while len(rest) > MAX_LINE:
                self._emit(fd, rest[:MAX_LINE])
                rest = rest[MAX_LINE:]
            self._partial[fd] = rest
            if not everything:
                return True

    def _emit(self, fd: int, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if not text:
            return
        if self._levels[fd] == logging.WARNING:
            self.tail.append(text)
        self._log.log(self._levels[fd], "%s: %s", self._worker, text)


def _pid_fd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel: the pipes' ends will do
        return None
