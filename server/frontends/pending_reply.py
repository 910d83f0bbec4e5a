"""`PendingReply`: answers to one request on their way to its front end, in their order.

Parts of a stream that its client does not come to reading wait here (`core.window`), counted in what the process holds. Where
they become many, the model is asked to rest; where all that wait fill half of what the process may hold, the stream that has most
of them ends.
"""

from __future__ import annotations

import threading
from collections import deque

from ...core import holding
from ...core.call import Call, size
from ...core.errors import HoldsTooMuch, JitneyError
from ...core.holding import PART, SPARED
from ...core.request import Response
from ...core.window import Ahead

#: Bytes of one stream's waiting parts for which its model is asked to rest, where the process may hold enough.
MANY = 8 << 20
#: The waiting parts of all streams of this process.
_ALL = holding.Holdings()


def _many() -> int:
    """Bytes of waiting parts for which a model is asked to rest; it goes on at half of them."""
    return min(MANY, holding.process.limit // 16)


class PendingReply:
    """`prepared`: whether the front end knows which version answers.

    sending  held by the thread that sends; what a thread `put`s meanwhile, that one sends
    told     whether the front end knows the version by now
    over     whether it had its final answer
    waiting  bytes of the parts that wait
    rests    whether its model was asked to rest
    """

    def __init__(self, number: int, prepared: bool) -> None:
        self.number, self.prepared, self.told = number, prepared, prepared
        self.call: Call | None = None
        self.sending = threading.Lock()
        self.over = self.rests = False
        self.ahead = Ahead()
        self._answers: deque[Response | JitneyError] = deque()
        self._pile = holding.Pile()
        self._put = self._taken = 0  # each written by one thread
        self._asks_at = 0

    def __del__(self) -> None:
        if self.waiting:
            _ALL.give(self.waiting)

    def __bool__(self) -> bool:
        """Whether an answer waits."""
        return bool(self._answers)

    @property
    def waiting(self) -> int:
        return self._put - self._taken

    # -- whoever has an answer, one thread at a time ------------------------------------------------------------------------

    def put(self, answer: Response | JitneyError) -> None:
        """One more. Where the process has no room for it, what waits before it is let go."""
        if isinstance(answer, Response):
            if not answer.final:
                nbytes = size(answer)
                self._pile.put(nbytes)
                self._put += nbytes + PART
                _ALL.add(nbytes + PART)
        elif isinstance(answer, HoldsTooMuch):
            self.clear()
        self._answers.append(answer)

    @property
    def is_too_much(self) -> bool:
        """Whether waiting parts take half of what the process may hold, or it holds all that it may, and this stream has some
        of it."""
        if self.waiting <= SPARED:
            return False
        return _ALL.held > holding.process.limit // 2 or not holding.process.has_room(1)

    # -- with `sending` held ------------------------------------------------------------------------------------------------

    def next(self, spares: bool) -> Response | JitneyError | None:
        """The next answer, where there is one that may be sent now."""
        if not self._answers:
            return None
        answer = self._answers[0]
        if isinstance(answer, Response) and not answer.final and not self.ahead.has_room(spares):
            return None
        return self._pop()

    def _pop(self) -> Response | JitneyError:
        answer = self._answers.popleft()
        if isinstance(answer, Response) and not answer.final:
            nbytes = size(answer)
            self._pile.take(nbytes)
            self._taken += nbytes + PART
            _ALL.give(nbytes + PART)
        return answer

    # -- any thread, without `sending` --------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Lets go what waits."""
        with self.sending:
            while self._answers:
                self._pop()

    # -- any thread, one at a time ------------------------------------------------------------------------------------------

    def wish(self) -> bool | None:
        """Whether the model is to rest (true), also where it was asked before and did not, or may go on; None: as it is."""
        waiting, many = self.waiting, _many()
        if waiting >= max(many, self._asks_at):
            self._asks_at, self.rests = waiting + SPARED, True
            return True
        if self.rests and waiting <= many // 2:
            self._asks_at, self.rests = 0, False
            return False
        return None

    @property
    def has_wish(self) -> bool:
        """Whether `wish` may say something."""
        return self.rests or self.waiting >= _many()
