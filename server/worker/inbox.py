"""`Inbox`: how a worker process gets its messages. Worker process only.

Waking another thread of the same process costs each batch more than its messages do. So the main thread reads the socket itself
while it waits for a batch. While it executes one, no thread reads, at first; the watching thread takes over

    * where a batch runs for longer than `MOMENT_S`, so that cancellations reach it and the server can go on sending,
    * at once, where the model waits for the server's reply to a call,

and reads until it hands the next batch to the main thread. It sees the end of the server at any time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable

from ..ipc.frame import BadFrame, PeerClosed
from ..ipc.messages import Message
from ..process import exits
from ..workers.channel import MessageChannel
from ..workers.messages import Execute, Stop

#: Batches shorter than this are not told of cancellations; seconds.
MOMENT_S = 0.02

#: For so long a device is asked without a pause whether it is done, then after each pause of a tick; seconds.
SPIN_S, TICK_S = 0.002, 0.0002

_MAIN, _WATCH = "main", "watch"


class Inbox:
    """Batches for the main thread; all other messages go to `dispatch`, called by whichever thread read them.

    `expecting()` tells whether the model waits for a reply. The watching thread reads from the start, while the model loads.
    BadFrame from `dispatch`, like the end of the server, ends this process with `lost(code)`: the main thread may be deep in a
    model. Where `lost` returns, because others live in the process, the main thread is told to stop when it comes for its next
    batch. The main thread is that of the model, wherever it runs.
    """

    def __init__(
        self,
        channel: MessageChannel,
        dispatch: Callable[[Message], None],
        expecting: Callable[[], bool],
        lost: Callable[[int], None] | None = None,
    ) -> None:
        self._channel, self._dispatch, self._expecting, self._lost = channel, dispatch, expecting, lost
        self._lock = threading.Lock()
        self._reader: str | None = _WATCH  # which thread reads; None while a batch runs and none does
        self._handed: queue.SimpleQueue[Execute | Stop] = queue.SimpleQueue()
        self._batches = 0
        self._parked = False
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="jitney-watch", daemon=True)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # ---- main thread

    def start(self) -> None:
        """Begins to watch, and to read up to the first batch."""
        self._watcher.start()

    def get(self) -> Execute | Stop:
        """Waits for the next batch, or for the word to stop."""
        with self._lock:
            if self._reader is None and self._handed.empty():
                self._reader = _MAIN
        mine = self._reader is _MAIN
        message = self._next() if mine else self._handed.get()
        if mine:
            self._reader = None
        self._count_one()
        return message

    def before(self, over: Callable[[], bool]) -> Execute | Stop | None:
        """As `get`, but None where nothing has come by the time that `over()`: something else than a message is waited for.

        A device tells nobody that it is done, so it is asked: without a pause at first, then every `TICK_S`.
        """
        pauses_from = time.monotonic() + SPIN_S
        while (message := self._taken()) is None:
            if over():
                return None
            if time.monotonic() >= pauses_from:
                time.sleep(TICK_S)
        self._count_one()
        return message

    def _taken(self) -> Execute | Stop | None:
        """The next batch where it is here already. Leaves the socket to nobody, as `get` does."""
        with self._lock:
            if mine := self._reader is None and self._handed.empty():
                self._reader = _MAIN
        if mine:
            message = self._read(self._channel.take)
            self._reader = None
            return message
        try:
            return self._handed.get_nowait()
        except queue.Empty:
            return None

    def _count_one(self) -> None:
        """A batch begins: the watching thread is to see to it after a moment, or at once where the model waits for a reply."""
        self._batches += 1
        if self._parked or self._expecting():
            self._signal()

    def close(self) -> None:
        """Ends the watching thread, where the process goes on; nothing is read any more."""
        self._over.set()
        self._signal()
        self._channel.stop_receiving()
        if self._watcher.ident is not None:
            self._watcher.join()
        os.close(self._bell)

    # ---- whichever thread reads

    def recall(self, batch: int) -> Execute | None:
        """Takes this batch out where it was read and waits for the main thread; None where that has it, or had."""
        with self._lock:
            handed, found = [], None
            with contextlib.suppress(queue.Empty):  # the main thread may come for the next one meanwhile
                while True:
                    handed.append(self._handed.get_nowait())
            for message in handed:
                if isinstance(message, Execute) and message.batch == batch:
                    found = message
                else:
                    self._handed.put(message)
        return found

    # ---- any thread

    def expect(self) -> None:
        """The model waits for a reply from now on."""
        if self._reader is None:
            self._signal()

    def _signal(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _next(self) -> Execute | Stop:
        """Waits for the next batch. Only the thread that `_reader` names calls it."""
        while (message := self._read(self._channel.receive)) is None:
            pass
        return message

    def _read(self, receive: Callable[[], Message | None]) -> Execute | Stop | None:
        """Reads up to the next batch, as far as `receive` gives messages. Only the thread that `_reader` names calls it."""
        try:
            while not isinstance(message := receive(), Execute | Stop):
                if message is None:
                    return None
                self._dispatch(message)
        except PeerClosed:
            return self._stop(exits.PARENT_GONE)
        except BadFrame as error:
            print(f"worker cannot go on: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the server logs it
            return self._stop(exits.PROTOCOL)
        return message

    def _stop(self, code: int) -> Stop:
        self._over.set()
        (self._lost or os._exit)(code)
        return Stop()

    # ---- watching thread

    def _watch(self) -> None:
        poll, idle = select.poll(), False
        # Data wakes the main thread alone, the end of the server wakes this one too.
        poll.register(self._channel.fileno(), select.POLLRDHUP)
        poll.register(self._bell, select.POLLIN)
        while True:
            if self._reader is _WATCH:
                self._hand_over(self._next())
            if self._over.is_set():
                return
            batches = self._batches
            woken = self._sleep(poll, idle)
            same = not woken and self._batches == batches
            with self._lock:
                if self._over.is_set():
                    self._end()
                    return
                if self._reader is None and (same or self._expecting()):
                    self._reader = _WATCH
                idle = same and self._reader is _MAIN

    def _hand_over(self, message: Execute | Stop) -> None:
        with self._lock:
            self._reader = None
            self._handed.put(message)

    def _end(self) -> None:
        """With the lock held: whoever waits for a batch, or will, is told that none comes."""
        if self._reader is None:
            self._handed.put(Stop())

    def _sleep(self, poll: select.poll, idle: bool) -> bool:
        """Waits for a moment or, where no batch came lately, for the next one; returns whether the bell rang."""
        self._parked = idle  # set before the look at the reader: who begins a batch after that rings
        events = poll.poll(None if idle and self._reader is _MAIN else MOMENT_S * 1000)
        self._parked = False
        for descriptor, _ in events:
            if descriptor != self._bell:
                self._stop(exits.PARENT_GONE)
                break
            os.eventfd_read(self._bell)
        return bool(events)
