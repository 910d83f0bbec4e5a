from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from jitney.core.errors import Draining, QueueFull
from jitney.core.tensor import Buffer
from jitney.server.ipc.arena import ALIGNMENT, INLINE, KEEP, Arena, Slot, size_class
from jitney.server.ipc.memory import Region, flat
from jitney.tests.fakes.leftovers import Inventory
from jitney.tools.bench.served import wait_until

PATIENCE = 10.0


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(1 << 20)
    yield arena
    arena.close()


def resident(region: Region) -> int:
    """Bytes of memory that the region really occupies."""
    return os.fstat(region.fd).st_blocks * 512


def test_put_concatenates_and_view_is_writable(arena: Arena) -> None:
    slot = arena.put(b"abc", bytearray(b"de"), memoryview(b"f"))
    assert slot.nbytes == 6
    assert bytes(arena.view(slot)) == b"abcdef"
    arena.view(slot)[0] = ord("X")
    assert bytes(arena.view(slot)) == b"Xbcdef"


def test_put_takes_any_contiguous_or_strided_buffer(arena: Arena) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert bytes(arena.view(arena.put(array.data))) == array.tobytes()
    strided = array[:, ::2]
    assert bytes(arena.view(arena.put(strided.data))) == strided.tobytes()
    assert arena.put(np.empty((0, 3), np.float32).data).nbytes == 0


def test_large_puts_are_copied_too(arena: Arena) -> None:
    data = os.urandom(300_000)
    assert bytes(arena.view(arena.put(data))) == data


@given(st.integers(0, 1 << 40))
def test_size_classes_waste_at_most_an_eighth_and_stay_aligned(nbytes: int) -> None:
    size = size_class(nbytes)
    assert size >= max(nbytes, 1)
    assert size % ALIGNMENT == 0
    assert size <= max(nbytes * 1.125, nbytes + ALIGNMENT)
    assert size_class(size) == size  # a block given back is found again


def test_the_slot_freed_last_is_used_next(arena: Arena) -> None:
    first, second, keep = arena.alloc(1000), arena.alloc(1000), arena.alloc(1000)
    arena.free(first)
    arena.free(second)
    assert arena.alloc(1000).offset == second.offset
    assert arena.alloc(1000).offset == first.offset
    assert keep.offset not in (first.offset, second.offset)


def test_full_is_refused_and_keeps_what_is_there(arena: Arena) -> None:
    slots = [arena.alloc(1 << 18) for _ in range(4)]
    with pytest.raises(QueueFull, match="no room for"):
        arena.alloc(1)
    arena.free(slots[2])
    assert arena.alloc(1 << 18).offset == slots[2].offset


def test_at_the_end_a_larger_free_slot_will_do(arena: Arena) -> None:
    slots = [arena.alloc(1 << 18) for _ in range(4)]
    arena.free(slots[1])
    small = arena.alloc(100)
    assert small.offset == slots[1].offset
    arena.free(small)
    assert arena.alloc(1 << 18).offset == slots[1].offset  # and it is still a large one


def test_double_free_is_detected_also_after_the_place_was_used_again(arena: Arena) -> None:
    keep, slot = arena.alloc(1), arena.alloc(64)
    arena.free(slot)
    with pytest.raises(ValueError, match="freed twice"):
        arena.free(slot)
    again = arena.alloc(64)
    assert again.offset == slot.offset
    with pytest.raises(ValueError, match="freed twice"):
        arena.free(slot)
    arena.free(again)
    arena.free(keep)
    with pytest.raises(ValueError, match="not in use"):
        arena.free(Slot(12345, 1, 1))


def test_put_all_leaves_small_data_out_and_is_all_or_nothing(arena: Arena) -> None:
    assert put_all(arena, [b"x" * (INLINE - 1), b"y"]) == []
    slots = put_all(arena, [b"x" * INLINE, b"y", b""])
    assert [slot.nbytes for slot in slots] == [INLINE, 1, 0]
    with pytest.raises(QueueFull):
        put_all(arena, [b"a" * 900_000, b"b" * 900_000])
    assert arena.slots == 3
    arena.free_all(slots)
    assert arena.slots == arena.used == 0
    with pytest.raises(TypeError, match="expected a slot"):
        arena.free_all([(0, 1)])


def put_all(arena: Arena, buffers: Sequence[Buffer]) -> list[Slot]:
    return cast("list[Slot]", arena.put_all(buffers))


def placed(arena: Arena, content: bytes) -> memoryview:
    view = arena.place(len(content))
    assert view is not None
    view[:] = content
    return view


CONTENT = bytes(range(256)) * 64


def test_a_placed_view_is_taken_over_and_any_other_copied(arena: Arena) -> None:
    view = placed(arena, CONTENT)
    other, own = put_all(arena, [view[:], view])
    assert own.placed is view
    assert bytes(arena.view(other)) == bytes(arena.view(own)) == CONTENT
    view[0] = 77  # it is the slot's own memory
    assert arena.view(own)[0] == 77
    assert arena.view(other)[0] == 0
    (copied,) = put_all(arena, [view])  # it has an owner already
    assert copied.placed is None
    assert arena.slots == 3
    arena.free_all([other, own, copied])
    arena.reclaim(view)  # taken over, so no more to be freed here
    assert arena.slots == arena.used == 0


def test_a_placed_view_that_nobody_took_is_freed_once(arena: Arena) -> None:
    view = placed(arena, CONTENT)
    arena.reclaim(view)
    assert arena.slots == arena.used == 0
    again = arena.alloc(len(CONTENT))  # the same place, with another owner
    arena.reclaim(view)
    assert arena.slots == 1
    arena.free(again)


def test_what_could_not_be_put_whole_is_as_it_was_placed(arena: Arena) -> None:
    view = placed(arena, CONTENT)
    with pytest.raises(QueueFull):
        put_all(arena, [b"x" * 10_000, view, b"y" * (1 << 20)])
    assert arena.slots == 1
    assert bytes(view) == CONTENT
    (slot,) = put_all(arena, [view])
    assert slot.placed is view
    arena.undo([slot])
    assert arena.slots == 1
    arena.reclaim(view)
    assert arena.slots == arena.used == 0


def test_a_view_placed_in_another_arena_is_copied(arena: Arena) -> None:
    other = Arena(1 << 20)
    view = placed(other, CONTENT)
    other.close()  # a model that was replaced meanwhile
    (slot,) = put_all(arena, [view])
    assert bytes(arena.view(slot)) == CONTENT
    arena.free(slot)
    other.reclaim(view)
    assert arena.slots == other.slots == 0


def test_nothing_is_placed_that_travels_in_the_message_or_does_not_fit(arena: Arena) -> None:
    assert arena.place(INLINE) is None
    assert arena.place((1 << 20) + 1) is None
    assert arena.slots == 0
    view = arena.place(INLINE + 1)
    assert view is not None and len(view) == INLINE + 1
    arena.close()
    assert arena.place(INLINE + 1) is None
    view[:] = bytes(len(view))  # what was placed before stays writable
    arena.reclaim(view)
    assert arena.slots == 0


def test_a_placed_view_has_one_taker_of_many_threads(arena: Arena) -> None:
    for _ in range(50):
        view = placed(arena, CONTENT)
        slots: list[Slot] = []
        start = threading.Barrier(4)

        def take(view: memoryview = view, slots: list[Any] = slots, start: threading.Barrier = start) -> None:
            start.wait()
            slots.extend(put_all(arena, [view]))

        def reclaim(view: memoryview = view, start: threading.Barrier = start) -> None:
            start.wait()
            arena.reclaim(view)

        threads = [threading.Thread(target=target) for target in (take, reclaim, reclaim, reclaim)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert arena.slots == 1
        arena.free_all(slots)
        assert arena.slots == arena.used == 0


def test_negative_sizes_are_refused(arena: Arena) -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        arena.alloc(-1)
    with pytest.raises(ValueError, match="must be positive"):
        Arena(0)


def test_an_empty_arena_gives_its_pages_back_if_there_were_many() -> None:
    arena = Arena(4 << 30)
    slots = [arena.put(b"\1" * (8 << 20)) for _ in range(KEEP // (8 << 20) + 1)]
    assert resident(arena.region) > KEEP
    arena.free_all(slots)
    wait_until(lambda: resident(arena.region) == 0 and not arena._clearing, PATIENCE, "the pages")
    slot = arena.put(b"again" * 1000)
    assert slot.offset == 0
    assert 0 < resident(arena.region) < KEEP
    arena.close()


class Held(Region):
    """Gives its pages back when the test says so."""

    def __init__(self, fd: int, nbytes: int) -> None:
        super().__init__(fd, nbytes)
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def discard(self, nbytes: int) -> None:
        self.asked.set()
        assert self.goes_on.wait(PATIENCE)
        super().discard(nbytes)


def giving_back() -> tuple[Arena, Held]:
    """An arena of 256 MiB that has fallen empty, and whose pages are being given back."""
    region = Held.create("held", 256 << 20)
    assert isinstance(region, Held)
    arena = Arena(256 << 20, region)
    arena.free(arena.put(b"\1" * (KEEP + 1)))
    assert region.asked.wait(PATIENCE)
    return arena, region


def test_who_frees_much_does_not_wait_and_what_comes_meanwhile_is_kept() -> None:
    """It takes its time, and who frees is the loop of all connections."""
    arena, region = giving_back()
    gone, kept = arena.put(b"gone" * 5000), arena.put(b"kept" * 5000)
    arena.free(gone)
    region.goes_on.set()
    wait_until(lambda: not arena._clearing, PATIENCE, "the pages")
    assert kept.offset > KEEP and bytes(arena.view(kept)) == b"kept" * 5000
    large = arena.put(bytes(128 << 20))
    assert arena.put(bytes(KEEP)).offset == 0  # there is no room behind it any more
    with pytest.raises(QueueFull):
        arena.put(bytes(KEEP))
    assert bytes(arena.view(kept)) == b"kept" * 5000 and large.offset > kept.offset
    arena.close()


def test_an_arena_that_is_closed_while_its_pages_are_given_back() -> None:
    arena, region = giving_back()
    arena.close()
    region.goes_on.set()
    wait_until(lambda: not arena._clearing, PATIENCE, "the end")


def test_a_large_capacity_costs_nothing_and_has_no_name() -> None:
    arena = Arena(16 << 30)
    assert resident(arena.region) == 0
    assert os.readlink(f"/proc/self/fd/{arena.region.fd}").startswith("/memfd:")  # noqa: PTH115 - no file of any folder
    arena.close()


def test_nobody_can_cut_the_memory_short(arena: Arena) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(arena.region.fd, 10)


def test_close_waits_for_no_view_and_leaves_no_descriptor() -> None:
    before = Inventory()
    arena = Arena(1 << 20)
    view = arena.view(arena.put(b"still here"))
    arena.close()
    assert bytes(view) == b"still here"
    del view, arena
    assert before.new(0) == []


def test_a_closed_arena_takes_slots_back_and_hands_out_none() -> None:
    arena = Arena(4 << 30)
    slot = arena.put(bytes(KEEP + 1))
    arena.close()
    arena.free(slot)
    with pytest.raises(Draining):
        arena.alloc(1)


def test_region_refuses_to_reach_outside(arena: Arena) -> None:
    for offset, nbytes in ((-1, 5), (0, (1 << 20) + 1), (1 << 20, 1), (0, -1)):
        with pytest.raises(ValueError, match="outside"):
            arena.region.view(offset, nbytes)


def test_region_reads_are_private_and_writable_copies() -> None:
    region = Region.create("test", 1 << 20)
    for nbytes in (10, 500_000):
        region.write(64, b"\7" * nbytes)
        data = region.read(64, nbytes)
        region.write(64, b"\0" * nbytes)
        view = memoryview(data)
        assert bytes(view) == b"\7" * nbytes
        assert not view.readonly
    region.close()


def test_flat_refuses_what_is_no_buffer() -> None:
    with pytest.raises(TypeError):
        flat("text")  # type: ignore[arg-type]


def test_threads_share_it_without_overlap(arena: Arena) -> None:
    errors = []

    def work(mark: int) -> None:
        for n in range(300):
            slot = arena.put(bytes([mark]) * (n * 7 % 2000))
            if set(arena.view(slot)) - {mark}:
                errors.append(slot)
            arena.free(slot)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert arena.slots == arena.used == 0


class ArenaMachine(RuleBasedStateMachine):
    """Whatever is allocated and freed in whatever order: slots never overlap, and all memory can be had again."""

    slots = Bundle("slots")
    capacity = 1 << 16

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(self.capacity)
        self.live: dict[Any, Any] = {}

    @rule(target=slots, nbytes=st.one_of(st.integers(0, 300), st.integers(0, 40_000)), mark=st.integers(0, 255))
    def alloc(self, nbytes: int, mark: int) -> Slot | None:
        try:
            slot = self.arena.put(bytes([mark]) * nbytes)
        except QueueFull:
            assert self.arena.used + size_class(nbytes) > 0
            return None
        self.live[slot] = mark
        return slot

    @rule(target=slots, nbytes=st.integers(INLINE + 1, 20_000), mark=st.integers(0, 255), taken=st.booleans())
    def place(self, nbytes: int, mark: int, taken: bool) -> Slot | None:
        view = self.arena.place(nbytes)
        if view is None:
            return None
        view[:] = bytes([mark]) * nbytes
        (slot,) = put_all(self.arena, [view]) if taken else (None,)
        self.arena.reclaim(view)
        if taken:
            self.live[slot] = mark
        return slot

    @rule(slot=consumes(slots))
    def free(self, slot: Slot | None) -> None:
        if slot is None:
            return
        del self.live[slot]
        self.arena.free(slot)
        with pytest.raises(ValueError, match="freed twice"):
            self.arena.free(slot)

    @precondition(lambda self: not self.live)
    @rule()
    def everything_fits_into_an_empty_arena(self) -> None:
        slot = self.arena.alloc(self.capacity // 2)
        self.arena.free(slot)

    @invariant()
    def slots_are_apart_and_untouched(self) -> None:
        end = 0
        for slot in sorted(self.live):
            assert slot.offset % ALIGNMENT == 0
            assert slot.offset >= end
            end = slot.offset + slot.nbytes
            assert bytes(self.arena.view(slot)) == bytes([self.live[slot]]) * slot.nbytes
        assert end <= self.capacity
        assert self.arena.slots == len(self.live)

    def teardown(self) -> None:
        self.arena.free_all(self.live)
        assert self.arena.used == 0
        self.arena.close()


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
