"""`Lane`: the waiting items that may be batched with each other, in the order in which they are to leave.

`BatchKeys`: which requests those are, whose tensors a backend could glue to each other. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from ...core.model_config import ModelConfig
from ...core.request import Request
from .item import Item
from .policy import Policy, Walk


class BatchKeys:
    """Of one model's requests: the names of their inputs, the datatypes, and the shapes without the batch axis.

    The shape of an input with `allow_ragged_batch` does not count (Triton). Where the configuration leaves a request no choice,
    all have the key None.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._uniform = bool(config.inputs) and not any(-1 in spec.dims or spec.optional for spec in config.inputs)
        self._ragged = frozenset(spec.name for spec in config.inputs if spec.ragged)
        self._start = 1 if config.batches else 0

    def key(self, request: Request) -> Hashable:
        if self._uniform or not request.tensors:
            return None
        return tuple(
            [
                (tensor.name, tensor.datatype, None if tensor.name in self._ragged else tensor.shape[self._start :])
                for tensor in request.tensors
            ]
        )


class Lane:
    """One queue for each rank, lower ranks first; see `queue.Batcher` for what a rank is.

    walk    the batch being formed at the head, None while it must be walked anew
    stamp   number of the lane's latest entry in the Batcher's heaps; older entries are void
    """

    # OrderedDicts serve as queues because an item can leave from the middle in constant time.
    __slots__ = ("_last", "key", "queues", "stamp", "walk")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.queues: dict[int, OrderedDict[Item, None]] = {}
        self.walk: Walk | None = None
        self.stamp = 0
        self._last = 0

    def append(self, item: Item) -> bool:
        """Puts the item behind its rank; true where the walk, if there is one, still holds for the items before it."""
        queue = self.queues.get(item.rank)
        if queue is None:
            queue = self.queues[item.rank] = OrderedDict()
        queue[item] = None
        if item.rank >= self._last:
            self._last = item.rank
            return True
        return False

    def remove(self, item: Item) -> None:
        queue = self.queues[item.rank]
        del queue[item]
        if not queue:
            del self.queues[item.rank]

    def take(self, count: int) -> list[Item]:
        """Removes the first `count` items."""
        taken: list[Item] = []
        for rank in self.ranks():
            queue = self.queues[rank]
            if len(taken) + len(queue) > count:
                taken += [queue.popitem(last=False)[0] for _ in range(count - len(taken))]
                break
            taken += queue
            del self.queues[rank]
        return taken

    def ranks(self) -> list[int]:
        return list(self.queues) if len(self.queues) == 1 else sorted(self.queues)

    def rewalk(self, policy: Policy) -> Walk:
        """Forms the head's batch from the start; the lane is not empty."""
        walk = self.walk = Walk(policy)
        self._last = max(self.queues)
        for rank in self.ranks():
            for item in self.queues[rank]:
                walk.add(item)
                if walk.closed is not None:
                    return walk
        return walk

    def __iter__(self) -> Iterator[Item]:
        for rank in self.ranks():
            yield from self.queues[rank]
