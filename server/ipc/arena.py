"""`Arena`: slots of shared memory for the bytes of requests, written by the server and read in place by workers.

A slot's size is rounded up to a class (eight per doubling, at most 1/8 of waste); each class has a stack of free offsets, so
that the memory written last, still in the caches, is used next. What no stack offers is cut from the untouched end.

    0 ........ slots, used or free ........ │ end │ ........ never touched: costs nothing ........ │ capacity
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...core.errors import Draining, QueueFull
from ...core.tensor import Buffer
from ..process.helpers import Helpers
from .memory import Region, copy, flat

ALIGNMENT = 64  #: bytes; a cache line, and the widest vector load
DEFAULT_CAPACITY = 16 << 30
#: An arena that falls empty gives its pages back once it has used more than this.
KEEP = 64 << 20
#: Gives memory of all arenas back, which takes its time: those that free it are loops.
_HELPERS = Helpers("jitney-memory", 1, 1.0)
#: A request whose data is no larger than this altogether travels in its message, which costs less than slots.
INLINE = 8 << 10


class Slot(NamedTuple):
    """A place in an arena. `serial` tells apart the owners that an offset has one after the other; `placed` is `place`'s view."""

    offset: int
    nbytes: int
    serial: int
    placed: memoryview | None = None

    def __hash__(self) -> int:  # writable views have none
        return hash((self.offset, self.serial))


def size_class(nbytes: int) -> int:
    """`nbytes` rounded up to one of eight steps per power of two, and to the alignment."""
    step = max(ALIGNMENT, 1 << max(nbytes.bit_length() - 4, 0))
    return max(-(-nbytes // step) * step, ALIGNMENT)


class Arena:
    """Hands out slots. Thread-safe; every method takes about a microsecond, apart from the copying of `put`."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY, region: Region | None = None) -> None:
        """`region`: the memory, of this capacity, where another process made it."""
        self.capacity = capacity
        self.region = region or Region.create("jitney-arena", capacity)
        self._lock = threading.Lock()
        self._serials = itertools.count(1)
        self._free: dict[int, list[int]] = {}
        self._live: dict[int, tuple[int, int]] = {}  # offset -> (serial, size)
        self._placed: dict[int, Slot] = {}  # that no request has taken over, by the id of their view, which they keep alive
        self._end = 0
        self._clearing = 0  # bytes from the beginning that a helper gives back
        self._used = 0
        self._closed = False

    @property
    def used(self) -> int:
        """Bytes in slots that are not free."""
        return self._used

    @property
    def slots(self) -> int:
        """The number of slots that are not free."""
        return len(self._live)

    def alloc(self, nbytes: int) -> Slot:
        """A slot of `nbytes` to be written through `view`. QueueFull if the arena cannot hold it now, Draining once closed."""
        return self._cut(nbytes)[0]

    def _cut(self, nbytes: int) -> tuple[Slot, memoryview]:
        """A slot and its view, which stays valid when the arena is closed meanwhile."""
        if nbytes < 0:
            raise ValueError(f"a slot cannot have {nbytes} bytes")
        size = size_class(nbytes)
        with self._lock:
            if self._closed:
                raise Draining("the model is being unloaded and accepts no new requests")
            offset, size = self._take(size)
            slot = Slot(offset, nbytes, next(self._serials))
            self._live[offset] = (slot.serial, size)
            self._used += size
            return slot, self.region.view(offset, nbytes)

    def put(self, *buffers: Buffer) -> Slot:
        """A slot with the buffers' bytes, one after the other."""
        sources = [flat(buffer) for buffer in buffers]
        slot, view = self._cut(sum(map(len, sources)))
        at = 0
        for source in sources:
            copy(view[at : at + len(source)], source)
            at += len(source)
        return slot

    def put_all(self, buffers: Sequence[Buffer]) -> list[object]:
        """One slot for each buffer, or none at all where they are so small that they should travel in the message.

        A view that `place` gave is not copied: its slot is taken over. QueueFull if they do not fit; nothing is kept then.
        """
        if sum([len(b) if isinstance(b, bytes | bytearray) else memoryview(b).nbytes for b in buffers]) <= INLINE:
            return []
        slots: list[object] = []
        try:
            for buffer in buffers:
                slots.append(self._adopt(buffer) or self.put(buffer))  # noqa: PERF401 - what was put so far has to be known
        except BaseException:
            self.undo(slots)
            raise
        return slots

    def undo(self, slots: Iterable[object]) -> None:
        """Ends what `put_all` began: frees what it copied; what it took over is again as `place` gave it."""
        for slot in slots:
            if isinstance(slot, Slot) and slot.placed is not None:
                self._placed[id(slot.placed)] = slot
            else:
                self.free_all([slot])

    def place(self, nbytes: int) -> memoryview | None:
        """Memory to be filled with what a request will bring: this very view, in `put_all`, hands its slot over.

        `reclaim` frees the slot of a view that no request took. None where the data would travel in the message, or where the
        arena is full or closed.
        """
        if nbytes <= INLINE:
            return None
        try:
            slot, view = self._cut(nbytes)
        except (QueueFull, Draining):
            return None
        self._placed[id(view)] = slot._replace(placed=view)
        return view

    def reclaim(self, view: memoryview) -> None:
        """Frees a view of `place` that no request took over, once nothing writes to it any more. May be called again."""
        slot = self._adopt(view)
        if slot is not None:
            self.free(slot)

    def _adopt(self, buffer: Buffer) -> Slot | None:
        return self._placed.pop(id(buffer), None)  # atomic: a slot has one taker

    def view(self, slot: Slot) -> memoryview:
        """The slot's bytes, writable; not to be touched after `free`."""
        return self.region.view(slot.offset, slot.nbytes)

    def free(self, slot: Slot) -> None:
        """Takes a slot back. ValueError if it is not in use: freed before, or from another arena."""
        with self._lock:
            serial, size = self._live.get(slot.offset, (0, 0))
            if serial != slot.serial:
                raise ValueError(f"slot at {slot.offset} ({slot.nbytes} bytes) is not in use: freed twice?")
            del self._live[slot.offset]
            self._used -= size
            self._free.setdefault(size, []).append(slot.offset)
            clears = not self._live and self._reset()
        if clears:
            _HELPERS.submit(self._clear)

    def free_all(self, slots: Iterable[object]) -> None:
        """Frees each; TypeError for what is no slot."""
        for slot in slots:
            if not isinstance(slot, Slot):
                raise TypeError(f"expected a slot of an arena, got {type(slot).__name__}")
            self.free(slot)

    def close(self) -> None:
        """Ends the arena: no more slots; those in use may still be freed."""
        with self._lock:
            self._closed = True
        self.region.close()

    def _take(self, size: int) -> tuple[int, int]:
        stack = self._free.get(size)
        if stack:
            return stack.pop(), size
        if self._end + size <= self.capacity:
            offset, self._end = self._end, self._end + size
            return offset, size
        # The end is reached: a larger slot does as well.
        for larger in sorted(other for other, offsets in self._free.items() if other > size and offsets):
            return self._free[larger].pop(), larger
        raise QueueFull(f"no room for {size} bytes: waiting requests hold {self._used} of {self.capacity} bytes of memory")

    def _reset(self) -> bool:
        """Nothing is in use: forget how the memory was cut; whether it was so much that it is to be given back, by a helper."""
        if self._closed or self._clearing:
            return False
        if self._end > KEEP:
            self._free.clear()
            self._clearing = self._end
        elif self._end * 2 > self.capacity:
            self._free.clear()
            self._end = 0
        return self._clearing > 0

    def _clear(self) -> None:
        """Gives the memory back that was used when the arena fell empty; what is cut meanwhile lies behind it. A helper."""
        while self._clearing:
            with contextlib.suppress(ValueError):  # it is closed
                self.region.discard(self._clearing)
            with self._lock:
                cleared, self._clearing = self._clearing, 0
                if self._live:  # behind it: one slot may have all of it
                    self._free.setdefault(cleared, []).append(0)
                    return
                if self._end == cleared:
                    self._end = 0
                self._reset()
