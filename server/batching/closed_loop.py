"""`ClosedLoop`: whether clients ask again as soon as they are answered, so that the next batch had better wait for them. Pure.

Clients that wait for their answer before they ask again, as threads and load generators do, fall into two groups that take
turns: while the requests of one run, those of the other gather, and leave as soon as the worker is idle, a moment before the
first group is back. Each batch is half as large as it could be, and its fixed time is paid twice. Where those who were answered
are known to come back at once, the worker waits for them, and all run together.

It is known from what was seen: how many of a batch's rows came back within a small part of the time that it took. Of requests
that come at random no more come then than at any other time, so that nothing waits for them.
"""

from __future__ import annotations

#: The next batch waits for at most this share of what the last one took, and so many seconds; and not at all where that one
#: took less than `WORTH_S`.
SHARE, LONGEST_S, WORTH_S = 1 / 3, 0.002, 0.002
#: The share of rows that come back at which waiting begins, and below which it ends.
BEGIN, END = 0.95, 0.8
#: The weight of the latest batch.
LATEST = 1 / 8


class ClosedLoop:
    """Of one model with one worker. Not thread-safe; instants and times in seconds.

    returns   whether clients are known to come back at once
    """

    def __init__(self) -> None:
        self.returns = False
        self._share = 0.0
        self._until = 0.0
        self._expected = self._came = 0

    def answered(self, now: float, rows: int, took: float) -> None:
        """A batch is over; its answers are about to be sent."""
        if self._expected:
            self._share += LATEST * (min(1.0, self._came / self._expected) - self._share)
            self.returns = self._share >= (END if self.returns else BEGIN)
        self._until = now + min(LONGEST_S, SHARE * took) if took >= WORTH_S else now
        self._expected, self._came = rows, 0

    def arrived(self, at: float, rows: int) -> None:
        """A request has come."""
        if at < self._until:
            self._came += rows

    def waits_until(self, now: float) -> float:
        """The instant by which the next batch is to leave, `now` where it need not wait."""
        return self._until if self.returns and self._came < self._expected and now < self._until else now
