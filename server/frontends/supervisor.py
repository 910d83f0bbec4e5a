"""`FrontEnds`: several processes that answer one address together; to the rest of the server, one listener.

A front end that ends is replaced: at once if it had served for a while, else after a growing delay. One that stands still is
ended first (`heartbeat`). What it had asked of the models is cancelled and its connections end with it; nothing else notices.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from ...core.errors import JitneyError, NothingAnswers
from ..process import threads
from ..settings.addresses import Address
from ..tracing.sampling import Rule
from .frontend_process import FrontendProcess, FrontendSpec
from .heartbeat import LOOK_S

log = logging.getLogger(__name__)

#: How long `wait_started` waits for front ends that do not get ready.
START_S = 30.0
#: Seconds before the next start of a front end that has ended n times in a row, each within `SERVED_S` of its start.
DELAYS = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 30.0)
SERVED_S = 10.0
#: How long a scrape of the metrics waits for what front ends have counted.
COLLECT_S = 0.5
#: How long the end of a killed process may take.
_LAST_S = 5.0


@dataclass
class _Place:
    """One of the N. `due`: when it is to be started (monotonic seconds); None = it runs."""

    index: int
    child: FrontendProcess | None = None
    due: float | None = 0.0
    endings: int = 0


class FrontEnds:
    """A listener's verbs (see `http.engine.listener`), for all front ends together. Threads: any."""

    def __init__(self, spec: FrontendSpec, count: int) -> None:
        self._spec = spec
        self._places = [_Place(spec.first + index) for index in range(count)]
        self._changed = threading.Condition()
        self._closing = False
        self._look_at = 0.0
        # The kernel ends the processes with the thread that started them, so this one lives as long as they do.
        self._thread = threading.Thread(target=self._supervise, name="front-ends", daemon=True)

    @property
    def name(self) -> str:
        return self._spec.relay.name

    @property
    def ports(self) -> Collection[str]:
        return self._spec.relay.ports

    @property
    def address(self) -> Address:
        """Where they listen; the port is the real one where 0 was asked for."""
        port = self._spec.relay.address.port
        asked = self._spec.settings.inference_address
        return asked if asked.path else Address(asked.scheme, asked.host, port)

    def pids(self) -> list[int]:
        """The processes that answer now."""
        with self._changed:
            return [place.child.pid for place in self._places if place.child is not None and place.child.ready]

    def start(self) -> None:
        """Begins to start all; returns at once. Connections wait in the socket until one of them accepts.

        TooFewThreads where the system has no thread left.
        """
        self._spec.relay.start()
        threads.start(self._thread, "the front ends")

    def wait_started(self) -> None:
        """Returns when all answer, or after `START_S`; NothingAnswers where not even one does then."""
        with self._changed:
            if self._changed.wait_for(lambda: self._closing or self._ready() == len(self._places), START_S):
                return
            ready, wanted = self._ready(), len(self._places)
        if not ready:
            raise NothingAnswers(f"none of the {wanted} front ends answers after {START_S:g} s; what they printed says why")
        log.error("%d of %d front ends answer after %g s", ready, wanted, START_S)

    def stop_accepting(self) -> None:
        """Refuses new connections and closes idle ones. Requests that were accepted are answered."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            children = self._children()
            self._changed.notify_all()
        self._spec.relay.stop_listening()
        for child in children:
            child.drain(self._spec.settings.exit_timeout_secs)

    def close(self, timeout: float = 10.0) -> None:
        """Waits for at most `timeout` seconds until accepted requests are answered, then ends processes and threads."""
        self.stop_accepting()
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: not self._children(), timeout)
            left = self._children()
        for child in left:
            child.kill()
        if self._thread.ident is not None:
            self._thread.join(_LAST_S)
        self._spec.relay.close(max(0.0, deadline - time.monotonic()))

    def collect(self) -> None:
        """Returns when what front ends have counted so far is here, or after `COLLECT_S`."""
        with self._changed:
            waiting = [child.flush() for child in self._children()]
        deadline = time.monotonic() + COLLECT_S
        for event in waiting:
            event.wait(max(0.0, deadline - time.monotonic()))

    def trace(self, rules: dict[str, Rule]) -> None:
        """Tells all which requests are traced from now on."""
        with self._changed:
            children = self._children()
        for child in children:
            child.trace(rules)

    # -- with the lock -----------------------------------------------------------------------------------------------------

    def _children(self) -> list[FrontendProcess]:
        return [place.child for place in self._places if place.child is not None]

    def _ready(self) -> int:
        return sum(child.ready for child in self._children())

    def _due(self) -> list[_Place]:
        now = time.monotonic()
        return [place for place in self._places if place.due is not None and place.due <= now and not self._closing]

    def _watched(self) -> list[FrontendProcess]:
        """Those that are to be looked at now, because they answer. While they drain nobody looks."""
        if self._closing or time.monotonic() < self._look_at:
            return []
        self._look_at = time.monotonic() + LOOK_S
        return [child for child in self._children() if child.ready]

    def _patience(self) -> float | None:
        if self._closing:
            return None
        due = [place.due for place in self._places if place.due is not None]
        due += [self._look_at] * bool(self._ready())
        return max(0.0, min(due) - time.monotonic()) if due else None

    # -- the supervising thread --------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while True:
            with self._changed:
                while not any(found := (self._due(), self._watched())):
                    if self._closing and not self._children():
                        return
                    self._changed.wait(self._patience())
            due, watched = found
            for place in due:
                self._launch(place)
            for child in watched:
                child.look()

    def _launch(self, place: _Place) -> None:
        try:
            child = FrontendProcess(self._spec, place.index, self._take_ready, lambda child: self._gone(place, child))
        except (OSError, ValueError, JitneyError) as error:
            log.error("front end %d cannot be started: %s", place.index, error)
            with self._changed:
                self._plan(place, served=False)
            return
        with self._changed:
            place.child, place.due = child, None
        child.begin()
        if self._closing:
            child.kill()

    # -- a front end's reading thread --------------------------------------------------------------------------------------

    def _take_ready(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _gone(self, place: _Place, child: FrontendProcess) -> None:
        with self._changed:
            place.child = None
            if not self._closing:
                self._plan(place, time.monotonic() - child.started >= SERVED_S)
                delay = max(0.0, (place.due or 0.0) - time.monotonic())
                log.error("front end %d ended: %s; another follows in %.0f s", child.index, child.ending(), delay)
            self._changed.notify_all()

    def _plan(self, place: _Place, served: bool) -> None:
        place.endings = 0 if served else place.endings
        place.due = time.monotonic() + DELAYS[min(place.endings, len(DELAYS) - 1)]
        place.endings += 1
