"""`Window`: how far the parts of a stream may be ahead of the client that reads them, where another process sends them.

A front end tells the scheduler now and then how many parts have been taken (`Window.took`), and the scheduler sends no more than
`NBYTES` of parts that have not (`Ahead`). So what a client does not read waits where the model's answers arrive, and a front end
holds little of each stream, however fast the model answers. A final answer, and so every answer that comes as a whole, waits for
nothing but the parts before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .holding import PART, SPARED

#: Bytes of parts that may be sent and not taken; one part more where there is less. No stream is ended for so much.
NBYTES = SPARED
#: Bytes of parts that were taken and not told.
_TOLD = NBYTES // 4


class Window:
    """The front end's side, of one request. `tell(parts)` is called with how many parts were taken since it was called before.

    by_client  whether who reads the parts says when one is taken; else a part is taken when it arrives
    """

    __slots__ = ("_nbytes", "_parts", "_tell", "by_client")

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._parts, self._nbytes, self.by_client = tell, 0, 0, False

    def took(self, nbytes: int) -> None:
        """One more part was taken, with so many bytes of data. One thread at a time."""
        self._parts += 1
        self._nbytes += nbytes + PART
        if self._nbytes >= _TOLD:
            parts, self._parts, self._nbytes = self._parts, 0, 0
            self._tell(parts)


class Ahead:
    """The scheduler's side: the parts that were sent and not taken. Its owner's lock guards it."""

    __slots__ = ("_nbytes", "_sent")

    def __init__(self) -> None:
        self._sent: deque[int] = deque()
        self._nbytes = 0

    def sent(self, nbytes: int) -> None:
        """One more part, with so many bytes of data."""
        self._sent.append(nbytes + PART)
        self._nbytes += nbytes + PART

    def taken(self, parts: int) -> None:
        """So many more parts were taken."""
        for _ in range(min(parts, len(self._sent))):
            self._nbytes -= self._sent.popleft()

    def has_room(self, spares: bool) -> bool:
        """Whether one more part may be sent; where the front end is to be spared, only if none is on its way."""
        return not self._nbytes if spares else self._nbytes < NBYTES
