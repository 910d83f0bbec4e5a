"""What one thread brings together is looked at once; other threads do not notice."""

import threading
from collections.abc import Callable

import pytest

from jitney.core.errors import QueueFull
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching.dispatch import Dispatcher
from jitney.server.batching.item import Batch, Item
from jitney.server.batching.queue import Batcher
from jitney.server.ipc.coalesce import Coalescer

coalescer = Coalescer()


class Site:
    """A dispatcher with workers that never end their batches."""

    def __init__(self, workers: int = 1, queue: int = 0) -> None:
        self.batches: list[Batch] = []
        self.workers = workers
        self.dispatcher = Dispatcher(
            Batcher(Batching(enabled=True, default_queue_policy=QueuePolicy(max_queue_size=queue)), 8),
            idle=lambda: self.workers - len(self.batches),
            deliver=self.batches.append,
            expire=lambda _: None,
            coalescer=coalescer,
        )

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.dispatcher.submit(Item(None, 1, None, 0.0))

    @property
    def sizes(self) -> list[int]:
        return [batch.rows for batch in self.batches]


@pytest.fixture
def site() -> Site:
    return Site()


def test_without_gathering_the_first_request_leaves_alone(site: Site) -> None:
    site.submit(3)
    assert site.sizes == [1] and site.dispatcher.pending() == 2


def test_gathered_requests_leave_together(site: Site) -> None:
    coalescer.plug()
    site.submit(3)
    assert site.sizes == [] and site.dispatcher.pending() == 3
    coalescer.unplug()
    assert site.sizes == [3]


def test_gathering_ends_for_good(site: Site) -> None:
    coalescer.plug()
    coalescer.unplug()
    site.submit(1)
    assert site.sizes == [1]
    coalescer.unplug()  # nothing was begun


def test_every_queue_concerned_is_woken_once() -> None:
    sites = [Site(), Site()]
    coalescer.plug()
    for _ in range(2):
        for site in sites:
            site.submit(2)
    coalescer.unplug()
    assert [site.sizes for site in sites] == [[4], [4]]


def test_more_than_a_batch_is_shared_out() -> None:
    site = Site(workers=3)
    coalescer.plug()
    site.submit(20)
    coalescer.unplug()
    assert site.sizes == [8, 8, 4]


def test_other_threads_do_not_gather(site: Site) -> None:
    coalescer.plug()
    other = threading.Thread(target=site.submit, args=(1,))
    other.start()
    other.join()
    assert site.sizes == [1]
    coalescer.unplug()


def test_a_flush_is_the_turn_of_quick_models_only(site: Site) -> None:
    quick = Site()
    quick.dispatcher.low_latency = True
    coalescer.plug()
    for both in (site, quick):
        both.submit(3)
    coalescer.flush()
    assert (site.sizes, quick.sizes) == ([], [3])
    quick.workers = 2
    for both in (site, quick):
        both.submit(2)
    coalescer.flush()
    assert (site.sizes, quick.sizes) == ([], [3, 2])
    coalescer.unplug()
    assert (site.sizes, quick.sizes) == ([5], [3, 2])


def test_the_end_is_the_turn_of_quick_models_too(site: Site) -> None:
    site.dispatcher.low_latency = True
    coalescer.plug()
    site.submit(3)
    coalescer.unplug()
    assert site.sizes == [3]


def test_a_flush_where_nothing_is_gathered_changes_nothing(site: Site) -> None:
    coalescer.flush()
    site.submit(1)
    assert site.sizes == [1]


def test_gathering_goes_on_after_a_flush_that_fails() -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    coalescer.plug()
    coalescer.defer(fail, low_latency=True)
    with pytest.raises(RuntimeError):
        coalescer.flush()
    later: list[str] = []
    assert coalescer.defer(lambda: later.append("now"))
    coalescer.unplug()
    assert later == ["now"]


def test_a_full_batch_waits_for_nobody(site: Site) -> None:
    """Whatever else the thread brings: this batch could not hold more."""
    coalescer.plug()
    site.submit(7)
    assert site.sizes == []
    site.submit(1)
    assert site.sizes == [8]
    coalescer.unplug()


def test_a_lane_that_is_not_full_is_still_gathered_for(site: Site) -> None:
    coalescer.plug()
    for _ in range(5):
        site.dispatcher.submit(Item(None, 1, "a", 0.0))
        site.dispatcher.submit(Item(None, 1, "b", 0.0))
    assert site.sizes == []
    coalescer.unplug()
    assert site.sizes == [5]


def test_a_queue_is_full_only_when_what_was_gathered_for_it_cannot_leave() -> None:
    site = Site(workers=2, queue=3)
    coalescer.take_refusals()  # of other tests
    coalescer.plug()
    site.submit(3)
    assert site.sizes == []
    site.submit(2)  # makes room for itself: two workers are idle
    assert site.sizes == [3] and site.dispatcher.pending() == 2
    site.dispatcher.refuse_if_full()
    site.submit(4)
    assert site.sizes == [3, 3] and site.dispatcher.pending() == 3
    refusals: list[Callable[[], object]] = [lambda: site.submit(1), site.dispatcher.refuse_if_full]
    for refused in refusals:
        with pytest.raises(QueueFull):
            refused()
    coalescer.unplug()
    assert coalescer.take_refusals() == 2 and coalescer.take_refusals() == 0


def test_what_is_refused_early_is_what_would_be_refused(site: Site) -> None:
    batching = Batching(
        enabled=True,
        priority_levels=2,
        default_priority_level=2,
        priority_queue_policy={1: QueuePolicy(max_queue_size=1), 2: QueuePolicy(max_queue_size=2)},
    )
    queue = Batcher(batching, 8)
    told = []
    for priority in (1, 2, 0):
        queue.submit(Item(None, 1, None, 0.0, priority=priority))
        told.append([queue.is_full(level) for level in (1, 2, 0, None)])
    assert told == [[True, False, False, False], [True, False, False, False], [True, True, True, True]]
