"""Workers' stdout and stderr, line by line into `logging`: one thread for all workers."""

from __future__ import annotations

import collections
import fcntl
import logging
import os
import select
import sys
import termios
import threading

#: Longer lines are cut into several, so that a model that prints without end costs no memory.
MAX_LINE = 64 << 10
_TAIL_LINES = 20

log = logging.getLogger(__name__)


class LogPump:
    """Logs each line of a process under the logger `jitney.model.<model>`: stdout as INFO, stderr as WARNING (TorchServe's
    levels). Owns both descriptors. Ends with the process, also where processes that the model started keep the pipes open.
    """

    def __init__(self, pid: int, model: str, worker: str, stdout: int, stderr: int) -> None:
        self._log, self._worker = logging.getLogger(f"jitney.model.{model}"), worker
        self._levels = {stdout: logging.INFO, stderr: logging.WARNING}
        self._partial = {stdout: b"", stderr: b""}
        self._open = {stdout, stderr}
        self._pid_fd = _pid_fd(pid)
        self._ended = threading.Event()
        self._started = False
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)  # the last lines of stderr
        for fd in self._levels:
            os.set_blocking(fd, False)

    # -- the worker's own threads in the server ---------------------------------------------------------------------------

    def start(self) -> None:
        """RuntimeError where the system has no thread left, for the first worker of all."""
        _LOOP.add(self)
        self._started = True

    def join(self, timeout: float | None = None) -> None:
        """Waits until everything that the process wrote is logged."""
        self._ended.wait(timeout)

    def abandon(self) -> None:
        """For a process that has ended already: waits for its last lines, or closes its pipes where nothing reads them."""
        if self._started:
            self.join()
        else:
            self._close()

    # -- the loop's thread ------------------------------------------------------------------------------------------------

    @property
    def descriptors(self) -> list[int]:
        """What there is to wait for."""
        return [*self._open, *([] if self._pid_fd is None else [self._pid_fd])]

    def serve(self, fd: int) -> list[int]:
        """There is input on one of the descriptors, or its end; returns those that are not to be waited for any more."""
        if fd == self._pid_fd:  # the process ended: what it wrote is in the pipes already
            for each in list(self._open):
                self._read(each, _waiting(each))
            return self.give_up()
        if fd in self._open and not self._read(fd):
            self._open.discard(fd)
            return [fd] if self._open else [fd, *self.descriptors]
        return []

    def give_up(self) -> list[int]:
        """Nothing more is read; what was to be waited for."""
        gone = self.descriptors
        self._open.clear()
        return gone

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return not self._open

    def end(self) -> None:
        """Logs lines that have no end, and lets everything go."""
        try:
            for fd, rest in self._partial.items():
                self._emit(fd, rest)
        finally:
            self._close()

    def _close(self) -> None:
        for fd in self._levels:
            os.close(fd)
        if self._pid_fd is not None:
            os.close(self._pid_fd)
        self._ended.set()

    def _read(self, fd: int, wanted: int = 1) -> bool:
        """Reads once, or until it has so many bytes if there are; False at the end of the stream."""
        while wanted > 0:
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
            wanted -= len(data)
        return True

    def _emit(self, fd: int, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if not text:
            return
        if self._levels[fd] == logging.WARNING:
            self.tail.append(text)
        self._log.log(self._levels[fd], "%s: %s", self._worker, text)


class _Loop:
    """The thread that reads for all pumps; it is there while there is one. Each gets its turn after 64 KB at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._pumps: dict[int, LogPump] = {}  # by descriptor

    def add(self, pump: LogPump) -> None:
        with self._lock:
            epoll = self._epoll or self._begin()
            for fd in pump.descriptors:
                self._pumps[fd] = pump
                epoll.register(fd, select.EPOLLIN)

    def _begin(self) -> select.epoll:
        """With the lock held, for which the thread waits before it looks for pumps."""
        epoll = select.epoll()
        try:
            threading.Thread(target=self._run, args=(epoll,), name="worker-logs", daemon=True).start()
        except RuntimeError:
            epoll.close()
            raise
        self._epoll = epoll
        return epoll

    def _run(self, epoll: select.epoll) -> None:
        while True:
            with self._lock:
                if not self._pumps:
                    self._epoll = None
                    epoll.close()
                    return
            for fd, _ in epoll.poll():
                self._serve(epoll, fd)

    def _serve(self, epoll: select.epoll, fd: int) -> None:
        pump = self._pumps.get(fd)
        if pump is None:
            return  # it ended with another descriptor of the same turn
        try:
            gone = pump.serve(fd)
        except Exception:
            log.exception("what a worker prints cannot be logged any more")
            gone = pump.give_up()
        with self._lock:
            for each in gone:
                del self._pumps[each]
                epoll.unregister(each)
        if pump.is_over:
            pump.end()


_LOOP = _Loop()


def _waiting(fd: int) -> int:
    """Bytes that are in a pipe now. A process that the model started may write to it for ever."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _pid_fd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel: the pipes' ends will do
        return None
