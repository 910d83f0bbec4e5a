"""`Loop`: the socket I/O of one listener, in one thread. What a round costs is what happened in it, not how much is connected.

waitress' own loop asks every connection before every poll what it waits for. Here the kernel keeps that list (epoll), and a
connection is asked again only when something happened to it: its own events, `touch` by another thread, a look at all of them
now and then. While nothing happens and no client is connected, the thread sleeps without limit, unless the server takes no
connections for the moment: then it is asked again and again until it does.

Threads: `post` and `touch` are for any thread, everything else is for the loop's.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore

from ...ipc.coalesce import Coalescer

log = logging.getLogger(__name__)

#: Sockets that are read, and answers that are sent, before it is looked again who has something to read.
PORTION = 24
#: Connections that are served before it is looked whether a worker has answered: it stands idle until its answer is read. And
#: workers whose messages are read before connections have their turn again: some may have more to say than can be read.
FEW = 4
#: Sockets that are read at most, and seconds that this may take, before what was read is let go, though there is more.
GATHERED, GATHERED_S = 256, 0.002
#: Seconds of rest for each second that was spent on refusals, and the longest rest at once: see `Loop._rest`.
REST_SHARE, REST_S = 0.5, 0.005
#: Where the look at all connections comes so many seconds late, this thread did not run: what clients have sent is read first.
LATE_S = 1.0
#: How often a server that takes no connections at the moment is asked whether it does again.
HOLD_OFF_S = 0.05


class Sockets(dict[int, Any]):
    """waitress' map of open sockets, which its objects enter and leave by themselves; the poll list follows it."""

    def __init__(self, poll: select.epoll) -> None:
        super().__init__()
        self._poll = poll
        self.masks: dict[int, int] = {}

    def __setitem__(self, fd: int, dispatcher: Any) -> None:
        self._poll.register(fd, 0)  # first: where the system refuses this, nothing is left behind
        super().__setitem__(fd, dispatcher)
        self.masks[fd] = 0
        if getattr(dispatcher, "connected", True):  # a connection is made while it enters
            self.look(fd, dispatcher)

    def __delitem__(self, fd: int) -> None:
        super().__delitem__(fd)
        del self.masks[fd]
        try:
            self._poll.unregister(fd)
        except OSError:  # the socket is closed already, and with it the registration
            pass

    def look(self, fd: int, dispatcher: Any) -> None:
        """Asks a socket what it waits for."""
        mask = select.EPOLLIN if dispatcher.readable() else 0
        if dispatcher.writable() and not dispatcher.accepting:
            mask |= select.EPOLLOUT
        if mask != self.masks[fd]:
            self.masks[fd] = mask
            self._poll.modify(fd, mask)


class Loop:
    """`sockets` is the map to give to waitress. `run` until `stop`; then `close`.

    What is watched (`watch`: workers, front ends) has a poll list of its own, which is looked at between the connections: however
    many of these have something to say, an answer does not stand in their queue.
    """

    def __init__(self, name: str, coalescer: Coalescer | None = None) -> None:
        self.name, self._coalescer = name, coalescer or Coalescer()
        self._poll = select.epoll()
        self.sockets = Sockets(self._poll)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake_fd, select.EPOLLIN)
        self._workers = select.epoll()
        self._poll.register(self._workers, select.EPOLLIN)
        self._posted: deque[Callable[[], None]] = deque()
        self._awake = False  # whether the loop will look at what is posted without being woken
        self._waking = threading.Lock()  # no byte goes to a descriptor that has another owner by then
        self._stopping = self._closed = False
        self._ident = 0  # of the loop's thread
        self._gathers = False  # requests, until `_answers` are sent, and until so many sockets are read or all have been
        self._answers = self._reads = 0
        self._gathers_until = 0.0  # at the latest
        self._due, self._late = 0.0, False  # the next look at all connections; whether the last one was late
        self._busy, self._refused = 0.0, 0  # seconds of work and refusals since the last rest
        self.finished = 0  # requests that were answered or given up in that time
        self._resting = select.epoll()
        self._resting.register(self._workers, select.EPOLLIN)
        self._resting.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps equal instants apart
        self._numbers = itertools.count()

    # -- any thread --------------------------------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Has `call` called in the loop's thread. One system call for all that is posted until the loop gets to it."""
        self._posted.append(call)
        if not self._awake:
            self._awake = True
            with self._waking:
                if not self._closed:
                    os.eventfd_write(self._wake_fd, 1)

    def do(self, call: Callable[[], None]) -> None:
        """`post`, or at once where this is the loop's thread."""
        if threading.get_ident() == self._ident:
            call()
        else:
            self.post(call)

    def touch(self, channel: Any) -> None:
        """What this connection waits for may have changed."""
        if threading.get_ident() == self._ident:
            self.look(channel)
        else:
            self.post(lambda: self.look(channel))

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        """`reactor.Reactor.watch`."""
        with self._waking:
            if self._closed or self._stopping:
                return False
            self._watched[fd] = serve, lost
            self._workers.register(fd, select.EPOLLIN)
        return True

    def stop(self) -> None:
        """Ends `run`."""
        with self._waking:
            self._stopping = True
        self.post(_nothing)

    # -- the loop's thread -------------------------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Has `call` called after so many seconds, if the loop still runs then. Not to be taken back: it asks what holds then."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def _signal(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def run(self, server: Any, every: float) -> None:
        """Serves until `stop`. While anybody is connected, `server.maintenance` is called every so many seconds."""
        self._ident = threading.get_ident()
        self._due = time.monotonic() + every
        while not self._stopping:
            try:
                self._round(self._patience(server))
                self._signal()
                if server.holds_off:
                    server.make_room()
                    self.look(server)
                if (now := time.monotonic()) >= self._due:
                    if self._is_fair(now, every):
                        server.maintenance(time.time())
                    for channel in list(self.sockets.values()):
                        self.look(channel)
            except Exception:  # the loop of all connections must not end for one of them
                log.exception("listener '%s': error in the loop", self.name)
                time.sleep(0.05)
        for fd in list(self._watched):
            self._let_go(fd)

    def _is_fair(self, now: float, every: float) -> bool:
        """Whether clients may be given up that seem to have been silent: not where this thread itself comes late, unless it came
        late before too."""
        was_late, self._late = self._late, now > self._due + LATE_S
        self._due = now + every
        return was_late or not self._late

    def _patience(self, server: Any) -> float | None:
        """Seconds for which the loop may sleep, None without limit: no client is connected, and one that connects wakes it."""
        if server.holds_off:
            return HOLD_OFF_S
        instants = [self._due] * bool(server.active_channels) + [timer[0] for timer in self._timers[:1]]
        return max(0.0, min(instants) - time.monotonic()) if instants else None

    def _round(self, timeout: float | None) -> None:
        ready = self._poll.poll(0 if self._posted or self._gathers else timeout, PORTION)
        self._awake = True
        begun = time.monotonic()
        if not self._gathers and (len(ready) > 1 or self._posted):
            self._begin_to_gather()
        try:
            if len(ready) > 1:
                self._serve_watched()
            for number, (fd, events) in enumerate(ready, 1):
                self._serve(fd, events)
                if number % FEW == 0:
                    self._serve_watched()
            self._coalescer.flush()
            self._work_off()
        finally:
            self._reads = self._reads - PORTION if len(ready) == PORTION else 0
            if self._gathers and ((self._answers <= 0 >= self._reads) or time.monotonic() > self._gathers_until):
                self._gathers = False
                self._coalescer.unplug()
            self._awake = False
        self._busy += time.monotonic() - begun
        self._refused += self._coalescer.take_refusals()
        if self._refused:
            self._rest(self._busy * self._refused / max(self._refused, self.finished))
        elif self._busy > REST_S:
            self._busy, self.finished = 0.0, 0

    def _rest(self, spent: float) -> None:
        """Rests after so many seconds of refusals, until a worker answers or a thread has something to do here.

        Clients that ask again at once would keep this thread busy without end, on a core that the models may need: an answer
        that is served counts more than how soon another request hears that there is no room.
        """
        rest = spent * REST_SHARE
        if rest < 0.001 or self._posted or self._gathers:  # the system measures such times in milliseconds
            return
        self._resting.poll(min(rest, REST_S), 1)
        self._busy, self._refused, self.finished = 0.0, 0, 0

    def _begin_to_gather(self) -> None:
        self._gathers, self._answers, self._reads = True, len(self._posted), GATHERED
        self._gathers_until = time.monotonic() + GATHERED_S
        self._coalescer.plug()

    def _serve_watched(self) -> None:
        """What workers and front ends have sent."""
        if not self._watched:
            return
        for fd, _ in self._workers.poll(0, FEW):
            watched = self._watched.get(fd)
            if watched is not None and not watched[0]():
                self._let_go(fd)

    def _work_off(self) -> None:
        """Some of what is posted; what is posted meanwhile comes after the sockets' next turn."""
        for _ in range(min(len(self._posted), PORTION)):
            self._answers -= 1
            self._posted.popleft()()

    def _serve(self, fd: int, events: int) -> None:
        if fd == self._wake_fd:
            os.eventfd_read(fd)
            return
        dispatcher = self.sockets.get(fd)
        if dispatcher is None:
            if fd == self._workers.fileno():
                self._serve_watched()
            return
        if events == select.EPOLLIN and getattr(dispatcher, "reads_plainly", False):
            dispatcher.read_plainly()
        else:
            wasyncore.readwrite(dispatcher, events)
            self.look(dispatcher)

    def _let_go(self, fd: int) -> None:
        with self._waking:
            _, lost = self._watched.pop(fd)
            self._workers.unregister(fd)
        lost()

    def look(self, dispatcher: Any) -> None:
        """Asks a socket what it waits for now."""
        fd = dispatcher._fileno
        if fd is not None and self.sockets.get(fd) is dispatcher:
            self.sockets.look(fd, dispatcher)

    def close(self) -> None:
        """After `run` has ended and all sockets are closed."""
        with self._waking:
            if not self._closed:
                self._closed = True
                self._poll.close()
                self._resting.close()
                self._workers.close()
                os.close(self._wake_fd)


def _nothing() -> None:
    pass
