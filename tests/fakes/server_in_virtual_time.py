"""A server reduced to its batcher and its workers, run in virtual time: which batches leave when, without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from jitney.core.errors import JitneyError
from jitney.server.batching.queue import Batch, Batcher, Item


@dataclass
class Sent:
    """One request: sent at `at` seconds; `hold` seconds of work for the batch that holds it (the longest counts)."""

    at: float
    rows: int = 1
    key: object = "k"
    hold: float = 0.0
    priority: int = 0
    timeout_us: int = 0
    alone: bool = False


@dataclass
class Outcome:
    """When each request was answered, and with which error; which batches left when."""

    answered: dict[int, float] = field(default_factory=dict)
    errors: dict[int, JitneyError | str] = field(default_factory=dict)
    batches: list[tuple[float, Batch]] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        return [batch.rows for _, batch in self.batches]

    @property
    def left(self) -> list[tuple[float, int, str]]:
        """(instant, rows, reason) of each batch."""
        return [(round(at, 6), batch.rows, batch.reason.value) for at, batch in self.batches]

    @property
    def members(self) -> list[list[int]]:
        """The requests' indices, batch by batch."""
        return [[item.payload for item in batch.items] for _, batch in self.batches]


def serve(batcher: Batcher, requests: Sequence[Sent], workers: int = 1, least_s: float = 0.0) -> Outcome:
    """Sends the requests (ordered by `at`) and runs until nothing waits. Every execution takes at least `least_s`."""
    outcome, waiting, busy, number = Outcome(), list(enumerate(requests))[::-1], list[tuple[float, int, Batch]](), 0
    idle, wake_at = workers, None
    while waiting or busy or wake_at is not None:
        soonest = [wake_at] if wake_at is not None else []
        soonest += [busy[0][0]] if busy else []
        soonest += [waiting[-1][1].at] if waiting else []
        now = min(soonest)
        while busy and busy[0][0] <= now:
            idle += 1
            for item in heappop(busy)[2].items:
                outcome.answered[item.payload] = now
        while waiting and waiting[-1][1].at <= now:
            index, sent = waiting.pop()
            expires = batcher.expiry(now, sent.priority, sent.timeout_us)
            try:
                batcher.submit(Item(index, sent.rows, sent.key, now, expires, sent.priority, sent.alone))
            except JitneyError as error:
                outcome.answered[index], outcome.errors[index] = now, error
            break  # one at a time: each submit is followed by a poll, as in the Dispatcher
        step = batcher.poll(now, idle)
        for item in step.expired:
            outcome.answered[item.payload], outcome.errors[item.payload] = now, "expired"
        for batch in step.batches:
            idle, number = idle - 1, number + 1
            outcome.batches.append((now, batch))
            work = max(requests[item.payload].hold for item in batch.items)
            heappush(busy, (now + max(work, least_s), number, batch))
        wake_at = step.wake_at
        if wake_at is not None and wake_at <= now:
            raise AssertionError(f"wake_at {wake_at} is not after {now}")
    return outcome
