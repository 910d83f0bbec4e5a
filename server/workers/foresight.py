"""`Foresight`: how long a worker will take for a batch, learned from those before it, so that the next one is there when it ends.

Between the end of a batch and the beginning of the next one a worker waits while its answer travels to the server and the
next batch to it. A model whose time can be told by the rows, as most can, need not wait: the server lets the next batch leave
so much before the present one ends as it takes to arrive. It is bound that little earlier than it had to be, not for the whole
of the present batch; where the times vary by more than the way takes, nothing is sent early.
"""

from __future__ import annotations

from math import inf

#: Batches from which the first prediction is made.
FIRST = 8
#: The weight of the latest batch, once there are so many: what is known follows a model that changes within some 30 batches.
LATEST = 1 / 32
#: Seconds of a worker's time for a batch below which a thread that wakes up for each costs more than the worker's wait.
WORTH_S = 0.002
#: A way counts for no more than twice what they usually take and this, in seconds: one in which the server itself stood still
#: says nothing of the next, and under a load that leaves no worker idle no other way would be seen.
UNUSUAL_S = 0.0005
#: The variance of the rows from which they say what one row takes; while all batches are alike, what was known of that holds.
ALIKE = 0.01


class Foresight:
    """Of one model's workers: time = a + b · rows, fitted to the latest batches. Not thread-safe; times in seconds.

    trip   the way to a worker and back together, the mean of the latest batches, but for single ones that took unusually long
    error  the mean distance between predicted and measured times
    """

    def __init__(self) -> None:
        self.trip = self.error = 0.0
        self._seen = self._trips = 0
        self._rows = self._took = 0.0  # means
        self._variance = self._covariance = 0.0
        self._slope = 0.0  # seconds a row

    def learn(self, rows: int, took: float, trip: float | None = None) -> None:
        """A batch is over: the worker `took` so long, of which its way is no part. `trip`: where it found the worker idle."""
        if self._seen:
            self.error += self._weight(self._seen) * (abs(took - self._predicted(rows)) - self.error)
        if trip is not None:
            self._trips += 1
            counts = min(max(0.0, trip), 2 * self.trip + UNUSUAL_S)
            self.trip += self._weight(self._trips) * (counts - self.trip)
        self._seen += 1
        weight = self._weight(self._seen)
        more_rows, more_time = rows - self._rows, took - self._took
        self._rows += weight * more_rows
        self._took += weight * more_time
        self._variance += weight * ((1 - weight) * more_rows * more_rows - self._variance)
        self._covariance += weight * ((1 - weight) * more_rows * more_time - self._covariance)
        if self._variance > ALIKE:
            self._slope = max(0.0, self._covariance / self._variance)

    def lasts(self, rows: int) -> float:
        """How long a worker will take for so many rows; inf where that cannot be told well enough to make use of it."""
        if self._seen < FIRST or not self._trips:
            return inf
        predicted = self._predicted(rows)
        known = predicted >= WORTH_S and self.error <= min(self.trip, predicted / 2)
        return predicted if known else inf

    def _predicted(self, rows: int) -> float:
        return self._took + self._slope * (rows - self._rows)

    @staticmethod
    def _weight(count: int) -> float:
        return max(1 / count, LATEST)
