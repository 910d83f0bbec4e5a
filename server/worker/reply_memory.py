"""`ReplyMemory`: where a worker's large answers lie until the server has copied them out. Worker process only.

Each message with such answers has a number, counted from 1; the server says up to which it has copied (`Copied`, or with the
next batch). So a worker executes the next batch, and answers it, while the answers of the last one are still being copied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ...core.errors import QueueFull
from ...core.tensor import Buffer
from ..ipc.arena import Arena, Slot
from ..ipc.memory import Region
from ..workers.channel import MessageChannel
from ..workers.messages import Results


class ReplyMemory:
    """Slots of the region that the worker shares with the server. Any thread of the worker.

    `on_wait` is called when an answer has to wait for room: the server is to be asked, and its messages to be read.
    """

    def __init__(self, region: Region, on_wait: Callable[[], None] = lambda: None) -> None:
        self._arena = Arena(region.nbytes, region)
        self._on_wait = on_wait
        self._sending = threading.Lock()  # numbers are in the order of sending
        self._changed = (
            threading.Condition()
        )  # never held while something is sent: what `copied` says may have to come first
        self._sent: deque[tuple[int, list[Slot]]] = deque()
        self._count = 0
        self._waiting = 0
        self._abandoned = False

    def put(self, data: Buffer) -> Slot:
        """Writes an answer's bytes, as soon as there is room. ValueError for what is larger than the room there can be, and
        where there is none and the server does not copy any more."""
        while True:
            try:
                return self._arena.put(data)
            except QueueFull:
                self._wait()

    def _wait(self) -> None:
        """Waits until the server has copied something."""
        with self._changed:
            if not self._sent:
                raise ValueError(f"the answers do not fit into the {self._arena.capacity} bytes of shared memory")
            oldest = self._sent[0]
            self._waiting += 1
        try:
            self._on_wait()
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or not self._sent or self._sent[0] is not oldest)
                if self._abandoned:
                    raise ValueError("the server takes no answers any more")
        finally:
            self._waiting -= 1

    def abandon(self) -> None:
        """The server has left: nothing becomes free any more."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def close(self) -> None:
        """Lets the memory go."""
        self._arena.close()

    def waiting(self) -> bool:
        """Whether an answer waits for room."""
        return self._waiting > 0

    def send(self, channel: MessageChannel, results: Results, slots: list[Slot]) -> None:
        """Sends a message whose answers lie in these slots, which are free when the server has copied them."""
        with self._sending:
            with self._changed:
                self._count += 1
                self._sent.append((self._count, slots))
            channel.send(results)

    def copied(self, count: int) -> None:
        """The server has copied the answers of the first `count` messages."""
        with self._changed:
            while self._sent and self._sent[0][0] <= count:
                self._arena.free_all(self._sent.popleft()[1])
            self._changed.notify_all()
