"""The workers of a stateful model as its scheduler sees them: their slots, and the sequences that hold them. Pure.

One of them says which of its sequences' first requests leave together, and when; the two strategies differ in nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf

from ...core.model_config import Batching
from ...core.sequence_spec import SequenceSpec
from .item import Batch, Item, Reason
from .queue import Batcher

#: One life of one worker: a worker that was replaced is another seat.
Seat = Hashable


@dataclass(slots=True, eq=False, kw_only=True)
class SequenceItem(Item):
    """One request of a sequence. `slot` is set when it leaves; `lost` says why it never ran."""

    sequence: int | str
    start: bool = False
    end: bool = False
    slot: int = field(default=0, init=False)
    lost: str = field(default="", init=False)
    owner: SequenceState | None = field(default=None, init=False, repr=False)


@dataclass(slots=True, eq=False)
class SequenceBatch(Batch):
    """A batch for the worker in `seat`, in the order of slots (direct) or of leaving (oldest)."""

    seat: Seat
    running: list[SequenceState] = field(repr=False)


@dataclass(slots=True, eq=False)
class SequenceState:
    """`open`: its next request need not be a START. `began`, `since`: when its first request came, and when one last came or
    finished, for the limits."""

    id: int | str
    since: float
    began: float
    queue: deque[SequenceItem] = field(default_factory=deque)
    instance: InstanceSlots | None = None
    slot: int = 0
    busy: bool = False
    open: bool = True

    @property
    def idle(self) -> bool:
        return not self.queue and not self.busy


#: The sequences whose first requests leave together, and why.
Leaving = tuple[list[SequenceState], Reason]


class InstanceSlots:
    """One worker: its slots, and the batch that it runs."""

    def __init__(self, seat: Seat, spec: SequenceSpec) -> None:
        self.seat, self.spec = seat, spec
        self.slots: list[SequenceState | None] = [None] * spec.slots
        self.batch: SequenceBatch | None = None

    def free(self) -> int | None:
        """The lowest free slot."""
        return next((slot for slot, sequence in enumerate(self.slots) if sequence is None), None)

    def line_up(self, sequence: SequenceState) -> None:
        """The sequence's first request may leave."""

    def withdraw(self, item: SequenceItem) -> None:
        """A request that had lined up is taken back."""

    def form(self, now: float) -> tuple[Leaving | None, float]:
        """The sequences whose first requests leave now, with the reason; else None and when to ask again (inf = never)."""
        raise NotImplementedError


class DirectSlots(InstanceSlots):
    """Waits for `minimum_slot_utilization` of its slots, at most `delay`. Requests of another shape wait for the next batch."""

    def form(self, now: float) -> tuple[Leaving | None, float]:
        ready = [sequence for sequence in self.slots if sequence is not None and sequence.queue and not sequence.busy]
        if not ready:
            return None, inf
        first = min(ready, key=lambda sequence: sequence.queue[0].arrived).queue[0]
        late_at = first.arrived + self.spec.delay
        enough = len(ready) >= self.spec.utilization * len(self.slots)
        if not enough and now < late_at:
            return None, late_at
        chosen = [sequence for sequence in ready if sequence.queue[0].key == first.key]
        if len(chosen) == len(self.slots):
            return (chosen, Reason.FULL), inf
        return (chosen, Reason.IDLE if enough else Reason.DELAY), inf


class OldestSlots(InstanceSlots):
    """Forms dynamic batches of the first requests of its sequences."""

    def __init__(self, seat: Seat, spec: SequenceSpec, max_rows: int, name: str) -> None:
        super().__init__(seat, spec)
        batching = Batching(
            enabled=max_rows > 0, max_queue_delay_us=round(spec.delay * 1e6), preferred_batch_size=spec.preferred
        )
        self._batcher = Batcher(batching, max_rows, name=name)

    def line_up(self, sequence: SequenceState) -> None:
        if sequence.queue[0].lane is None:
            self._batcher.submit(sequence.queue[0])

    def withdraw(self, item: SequenceItem) -> None:
        self._batcher.cancel(item)

    def form(self, now: float) -> tuple[Leaving | None, float]:
        step = self._batcher.poll(now, 1)
        if not step.batches:
            return None, inf if step.wake_at is None else step.wake_at
        (batch,) = step.batches
        owners = [item.owner for item in batch.items if isinstance(item, SequenceItem) and item.owner is not None]
        return (owners, batch.reason), inf
