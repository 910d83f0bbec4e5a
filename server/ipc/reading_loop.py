"""`ReadingLoop`: one thread that waits for any number of sockets, where no listener's loop does or may.

Workers' sockets are here until their models have loaded, and where the process has no reactor.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ReadingLoop:
    """A `reactor.Reactor` with a thread of its own between `open` and `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._epoll: select.epoll | None = None
        self._thread: threading.Thread | None = None
        self._bell = -1

    # ---- any thread

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        """`reactor.Reactor.watch`."""
        with self._lock:
            if self._epoll is None:
                return False
            self._watched[fd] = serve, lost
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
            return True

    def open(self) -> None:
        """Starts the thread. RuntimeError where the system has none left, OSError where it has no descriptors."""
        epoll = select.epoll()
        try:
            bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            epoll.close()
            raise
        thread = threading.Thread(target=self._run, args=(epoll, bell), name=self._name, daemon=True)
        try:
            epoll.register(bell, select.EPOLLIN)
            thread.start()
        except BaseException:
            epoll.close()
            os.close(bell)
            raise
        with self._lock:
            self._epoll, self._bell, self._thread = epoll, bell, thread

    def close(self) -> None:
        """Ends the thread, lets go what it watched, and waits for that, unless this is the thread."""
        with self._lock:
            thread, self._thread, self._epoll = self._thread, None, None
        if thread is None:
            return
        os.eventfd_write(self._bell, 1)
        if thread is not threading.current_thread():
            thread.join()

    # ---- the thread

    def _run(self, epoll: select.epoll, bell: int) -> None:
        try:
            while True:
                for fd, _ in epoll.poll():
                    if fd == bell:
                        return
                    self._serve(epoll, fd)
        finally:
            for fd in list(self._watched):
                self._let_go(epoll, fd)
            epoll.close()
            os.close(bell)

    def _serve(self, epoll: select.epoll, fd: int) -> None:
        try:
            goes_on = self._watched[fd][0]()
        except Exception:
            log.exception("what has come cannot be read here")
            goes_on = False
        if not goes_on:
            self._let_go(epoll, fd)

    def _let_go(self, epoll: select.epoll, fd: int) -> None:
        with self._lock:
            _, lost = self._watched.pop(fd)
            epoll.unregister(fd)
        try:
            lost()
        except Exception:  # the loop of all sockets must not end for one of them
            log.exception("nobody may wait for descriptor %d any more", fd)
