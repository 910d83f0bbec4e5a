"""`SequenceBatcher`: stateful requests, so that a sequence's requests reach one worker, in order, one at a time. Pure.

A sequence begins with a request that has the START flag and ends with one that has END, or when it was idle for too long. It
takes one of the slots that each worker has and keeps it to its end; where no slot is free it waits in the backlog, first come,
first served. What leaves, and when, is up to the strategy (Triton's `sequence_batching`):

    direct   a worker's batch has one row for each of its slots; it leaves when enough slots have a request, or after a delay
    oldest   each sequence's next request joins the worker's dynamic batch, which a `Batcher` of its own forms

An item comes out exactly once: in a batch, in a step's `expired` (with the reason in `lost` where its deadline had not passed),
by `cancel`, or by `clear`. Time is an argument; the owner says which workers there are (`place`) and which batch is over.

The file is long since every event of a sequence changes the same books.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from math import inf
from typing import Any

from ...core.errors import InvalidRequest, QueueFull, WorkerDied
from ...core.sequence_spec import SequenceSpec
from .item import Batch, Item, Step
from .sequence_slots import (
    DirectSlots,
    InstanceSlots,
    Leaving,
    OldestSlots,
    Seat,
    SequenceBatch,
    SequenceItem,
    SequenceState,
)

__all__ = ["Seat", "SequenceBatch", "SequenceBatcher", "SequenceItem"]


class SequenceBatcher:
    """The queue of one stateful model version. Not thread-safe; see `dispatch.Dispatcher`, whose `Queue` it is."""

    def __init__(self, spec: SequenceSpec, max_rows: int, name: str = "") -> None:
        self._spec, self._max_rows, self._name = spec, max_rows, name
        self._sequences: dict[int | str, SequenceState] = {}
        self._backlog: dict[SequenceState, None] = {}
        self._instances: dict[Seat, InstanceSlots] = {}
        self._lost: dict[int | str, float] = {}  # ids of sequences that went with their worker, and when
        self._casualties: list[SequenceItem] = []  # told by the next poll
        self._expiring: dict[SequenceItem, None] = {}
        self._count = 0

    # -- what the owner may ask -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Requests waiting."""
        return self._count + len(self._casualties)

    @property
    def rows(self) -> int:
        """Rows waiting; a request of a sequence has one."""
        return len(self)

    @property
    def fills_batch(self) -> bool:
        """Never for certain: which sequences are to leave together is the strategy's decision."""
        return False

    def is_full(self, priority: int | None = None) -> bool:
        """Never: Triton has no queue policy for sequences."""
        return False

    def oldest(self) -> float | None:
        return min((s.queue[0].arrived for s in self._sequences.values() if s.queue), default=None)

    def lines(self) -> list[tuple[Hashable, int, list[Item]]]:
        """None: requests wait for their sequence's turn, not in lanes."""
        return []

    def expiry(self, arrived: float, priority: int = 0, timeout_us: int = 0) -> float | None:
        """Never: Triton has no queue policy for sequences."""
        return None

    # -- workers ----------------------------------------------------------------------------------------------------------

    def place(self, seats: Iterable[Seat], now: float) -> None:
        """The workers that are there now. Sequences of those that are gone are lost; what they had queued is told so."""
        wanted = dict.fromkeys(seats)
        for seat in [seat for seat in self._instances if seat not in wanted]:
            for sequence in self._instances.pop(seat).slots:
                if sequence is not None:
                    self._lose(sequence, now)
        for seat in wanted:
            if seat not in self._instances:
                self._instances[seat] = self._slots_of(seat)

    def _slots_of(self, seat: Seat) -> InstanceSlots:
        if self._spec.strategy == "direct":
            return DirectSlots(seat, self._spec)
        return OldestSlots(seat, self._spec, self._max_rows, self._name)

    def returned(self, batch: SequenceBatch) -> None:
        """The batch's worker may have the next one, though answers are still to come, for which its sequences wait."""
        instance = self._instances.get(batch.seat)
        if instance is not None and instance.batch is batch:
            instance.batch = None

    def finished(self, batch: SequenceBatch, now: float, left_out: Collection[Any] = ()) -> None:
        """All requests of the batch are answered: its sequences go on.

        `left_out`: payloads of those that its worker was not given, as their clients had left.
        """
        self.returned(batch)
        instance = self._instances.get(batch.seat)
        if instance is None:
            return  # its worker is gone, and so are its sequences
        for item, sequence in zip(batch.items, batch.running, strict=True):
            if sequence.instance is instance:
                sequence.busy, sequence.since = False, now
                if isinstance(item, SequenceItem) and item.payload in left_out:
                    self._taken_out(sequence, item, 0)
                self._go_on(sequence)

    # -- coming and going -------------------------------------------------------------------------------------------------

    def submit(self, item: Item) -> None:
        """Lets the item wait. InvalidRequest for one that no sequence can take, WorkerDied where its sequence was lost."""
        if not isinstance(item, SequenceItem):
            raise TypeError("expected a SequenceItem")
        sequence = self._sequence_for(item)
        if sequence is None:
            sequence = self._sequences[item.sequence] = SequenceState(item.sequence, item.arrived, item.arrived)
            self._backlog[sequence] = None
        self._lost.pop(item.sequence, None)
        sequence.queue.append(item)
        sequence.since, sequence.open = item.arrived, not item.end
        item.owner = sequence
        self._count += 1
        if item.expires is not None:
            self._expiring[item] = None
        if len(sequence.queue) == 1 and sequence.instance is not None and not sequence.busy:
            sequence.instance.line_up(sequence)

    def _sequence_for(self, item: SequenceItem) -> SequenceState | None:
        """The sequence that the item goes on with, None where it begins one."""
        if not item.sequence:
            raise InvalidRequest(
                f"inference request to model '{self._name}' must specify a non-zero or non-empty correlation ID"
            )
        if item.rows != 1:
            raise InvalidRequest(
                f"inference request to model '{self._name}' must specify batch-size 1 due to requirements of sequence batcher"
            )
        sequence = self._sequences.get(item.sequence)
        if sequence is not None and self._timed_out(sequence, item.arrived):
            self._end(sequence)
            sequence = None
        if self._spec.implicit:
            return self._implicit(item, sequence)
        if item.start or (sequence is not None and sequence.open):
            return sequence
        self._forget_lost(item.arrived)
        if item.sequence in self._lost:
            raise WorkerDied(_lost_text(self._name, item.sequence, self._spec.implicit))
        raise InvalidRequest(
            f"inference request for sequence {item.sequence} to model '{self._name}' must specify the START flag on the first "
            "request of the sequence"
        )

    def _implicit(self, item: SequenceItem, sequence: SequenceState | None) -> SequenceState | None:
        """Where any request may begin a sequence; a client whose sequence was lost is told so once."""
        if sequence is not None:
            if len(sequence.queue) >= self._spec.queue > 0:
                raise QueueFull(f"sequence {item.sequence} has {len(sequence.queue)} requests waiting, as many as it may")
            return sequence
        if self._lost.pop(item.sequence, None) is not None:
            raise WorkerDied(_lost_text(self._name, item.sequence, self._spec.implicit))
        if len(self._sequences) >= self._spec.most > 0:
            self._reap(item.arrived)
            if len(self._sequences) >= self._spec.most:
                raise QueueFull(f"model '{self._name}' has {len(self._sequences)} sequences, as many as it may")
        return None

    def cancel(self, item: Item) -> bool:
        """Takes the item out if it is still waiting. Without its START the rest of a sequence has no beginning: it is lost."""
        if not isinstance(item, SequenceItem) or item.owner is None:
            return False
        sequence = item.owner
        if item is sequence.queue[0] and sequence.instance is not None and not sequence.busy:
            sequence.instance.withdraw(item)
        at = sequence.queue.index(item)
        del sequence.queue[at]
        self._leave(item)
        self._taken_out(sequence, item, at)
        self._go_on(sequence)
        return True

    def _taken_out(self, sequence: SequenceState, item: SequenceItem, at: int) -> None:
        """A request that will not be executed was at this place of its sequence's queue."""
        if item.start:
            self._behead(sequence, at)
            sequence.open = sequence.open and at < len(sequence.queue)
        elif item.end and at == len(sequence.queue):
            sequence.open = True

    def clear(self) -> list[Item]:
        """Takes everything out, in the order in which it came, and forgets all sequences."""
        items = [*self._casualties, *(item for sequence in self._sequences.values() for item in sequence.queue)]
        for item in items:
            item.owner = None
        for store in (self._sequences, self._backlog, self._casualties, self._expiring, self._instances):
            store.clear()
        self._count = 0
        return sorted(items, key=lambda item: item.arrived)

    # -- deciding -----------------------------------------------------------------------------------------------------------

    def poll(self, now: float, idle: int = 0, ahead: int = 0) -> Step:
        """Decides what leaves at `now`. Which workers are idle is known from `place` and `finished`; the numbers say nothing."""
        due = [item for item in self._expiring if item.expires is not None and item.expires <= now]
        expired = [item for item in due if self.cancel(item)]
        expired += self._casualties
        self._casualties = []
        if self._backlog:
            self._reap(now)
            self._assign()
        batches: list[Batch] = []
        wake_at = min((item.expires for item in self._expiring if item.expires is not None), default=inf)
        for instance in self._instances.values():
            if instance.batch is None:
                leaving, ripe_at = instance.form(now)
                wake_at = min(wake_at, ripe_at)
                if leaving is not None:
                    batches.append(self._dispatch(instance, leaving))
        wake_at = min(wake_at, self._next_slot()) if self._backlog else wake_at
        return Step(batches, list[Item](expired), None if wake_at == inf else wake_at)

    def _dispatch(self, instance: InstanceSlots, leaving: Leaving) -> SequenceBatch:
        sequences, reason = leaving
        items: list[Item] = []
        for sequence in sequences:
            item = sequence.queue.popleft()
            self._leave(item)
            item.slot, sequence.busy = sequence.slot, True
            items.append(item)
        instance.batch = SequenceBatch(items, len(items), reason, instance.seat, sequences)
        return instance.batch

    def _assign(self) -> None:
        """Gives free slots to the backlog: the lowest first, so that sequences spread over the workers (Triton)."""
        for sequence in list(self._backlog):
            free = [
                (slot, n, instance)
                for n, instance in enumerate(self._instances.values())
                if (slot := instance.free()) is not None
            ]
            if not free:
                return
            slot, _, instance = min(free, key=lambda place: place[:2])
            del self._backlog[sequence]
            instance.slots[slot], sequence.instance, sequence.slot = sequence, instance, slot
            instance.line_up(sequence)

    # -- ends of sequences ----------------------------------------------------------------------------------------------------

    def _timed_out(self, sequence: SequenceState, now: float) -> bool:
        return sequence.idle and self._until(sequence) <= now

    def _until(self, sequence: SequenceState) -> float:
        """When an idle sequence ends by itself."""
        until = sequence.since + self._spec.idle
        return min(until, sequence.began + self._spec.lifetime) if self._spec.lifetime else until

    def _reap(self, now: float) -> None:
        """Ends idle sequences; only needed where others wait for their slots."""
        for sequence in [each for each in self._sequences.values() if self._timed_out(each, now)]:
            self._end(sequence)

    def _next_slot(self) -> float:
        """When the next slot becomes free because its sequence was idle for too long."""
        return min((self._until(s) for s in self._sequences.values() if s.idle), default=inf)

    def _go_on(self, sequence: SequenceState) -> None:
        """The sequence's head, or its being busy, changed: its next request lines up, or the sequence is over."""
        if sequence.busy:
            return
        if not sequence.queue:
            if not sequence.open or sequence.instance is None:
                self._end(sequence)
        elif sequence.instance is not None:
            sequence.instance.line_up(sequence)

    def _end(self, sequence: SequenceState) -> None:
        self._sequences.pop(sequence.id, None)
        self._backlog.pop(sequence, None)
        if sequence.instance is not None:
            sequence.instance.slots[sequence.slot] = None
            sequence.instance = None

    def _lose(self, sequence: SequenceState, now: float) -> None:
        """Its worker is gone: what was to go on with it cannot; what begins it anew waits for another worker."""
        if sequence.queue and sequence.instance is not None and not sequence.busy:
            sequence.instance.withdraw(sequence.queue[0])
        sequence.instance, sequence.busy = None, False
        self._behead(sequence, 0)
        if sequence.queue:
            self._backlog[sequence] = None
            return
        self._sequences.pop(sequence.id, None)
        self._forget_lost(now)
        if sequence.open:
            self._lost[sequence.id] = now

    def _behead(self, sequence: SequenceState, at: int) -> None:
        """From `at` on, drops what comes before the next START."""
        while at < len(sequence.queue) and not sequence.queue[at].start:
            item = sequence.queue[at]
            del sequence.queue[at]
            self._leave(item)
            item.lost = _lost_text(self._name, sequence.id, self._spec.implicit)
            self._casualties.append(item)

    def _forget_lost(self, now: float) -> None:
        """After the idle limit a lost sequence is one that was never begun."""
        while self._lost and next(iter(self._lost.values())) + self._spec.idle <= now:
            del self._lost[next(iter(self._lost))]

    def _leave(self, item: SequenceItem) -> None:
        item.owner = None
        self._count -= 1
        self._expiring.pop(item, None)


def _lost_text(model: str, sequence: int | str, implicit: bool) -> str:
    again = "begin it again" if implicit else "begin it again with the START flag"
    return (
        f"sequence {sequence} of model '{model}' was lost with the worker, or the request, that held its beginning; {again}"
    )
