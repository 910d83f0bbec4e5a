"""The batch policies that are compared, by name. All but TorchServe's are the production `Batcher`, configured.

zero            no delay: a worker that is idle takes what waits
delay:MS        wait until the oldest request is MS old, or the batch is full
delay:MS:SIZES  the same with preferred batch sizes: delay:5:8,16
ts:MS           TorchServe: the clock starts when a worker takes the first request; one worker collects at a time
alone           no batching
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Protocol

from ...core.model_config import Batching
from ...server.batching.queue import Batch, Batcher, Item, Reason, Step


class Queue(Protocol):
    """What the simulation needs of a batcher."""

    def submit(self, item: Item) -> None: ...
    def poll(self, now: float, idle: int, ahead: int = 0) -> Step: ...


class TorchServeQueue:
    """TorchServe's `pollBatch`, for comparison only.

    A worker blocks for a first request, then collects until `delay` seconds have passed since it took that one. Without a
    delay it takes one more at most. The other idle workers wait until it is done.
    """

    def __init__(self, max_rows: int, delay: float) -> None:
        self._max_rows, self._delay = max_rows, delay
        self._waiting: deque[Item] = deque()
        self._collected: list[Item] = []
        self._ends = inf

    def submit(self, item: Item) -> None:
        self._waiting.append(item)

    def poll(self, now: float, idle: int, ahead: int = 0) -> Step:
        """`ahead` has no effect: a worker of TorchServe has one batch."""
        batches: list[Batch] = []
        most = self._max_rows if self._delay > 0 else min(2, self._max_rows)
        while len(batches) < idle and (self._collected or self._waiting):
            if not self._collected:
                self._collected, self._ends = [self._waiting.popleft()], now + self._delay
            while self._waiting and len(self._collected) < most:
                self._collected.append(self._waiting.popleft())
            if len(self._collected) < most and now < self._ends:
                break
            full = len(self._collected) >= self._max_rows
            batches.append(Batch(self._collected, len(self._collected), Reason.FULL if full else Reason.DELAY))
            self._collected, self._ends = [], inf
        return Step(batches, [], self._ends if self._collected else None)


def make_queue(policy: str, max_rows: int) -> Queue:
    """The queue that a policy's name means; ValueError for another name, or one that no batch can satisfy."""
    kind, _, rest = policy.partition(":")
    if policy in ("zero", "alone"):
        return Batcher(Batching(enabled=policy == "zero"), max_rows)
    delay, _, sizes = rest.partition(":")
    try:
        delay_ms = float(delay)
        preferred = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        delay_ms, preferred = -1.0, ()
    if kind not in ("delay", "ts") or not 0 <= delay_ms < inf or (preferred and kind == "ts"):
        raise ValueError(f"a policy is zero, alone, delay:MS, delay:MS:SIZES or ts:MS, got '{policy}'")
    if kind == "ts":
        return TorchServeQueue(max_rows, delay_ms / 1000)
    batching = Batching(enabled=True, max_queue_delay_us=round(delay_ms * 1000), preferred_batch_size=preferred)
    return Batcher(batching, max_rows)
