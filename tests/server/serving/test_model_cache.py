"""`ModelCache`: what is unloaded, when and in which order, with models that only remember that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jitney.server.serving import model_cache
from jitney.server.serving.model_cache import RESERVE, ModelCache
from jitney.server.workers import capacity
from jitney.server.workers.status import Seat
from jitney.tools.bench import served

MIB = 1 << 20


def wait_until(true: Callable[[], bool]) -> None:
    served.wait_until(true, 20, "what the test expects")


class Fake:
    """A model whose one worker, if it has one, takes `taken` bytes. `gone` lists the models in the order of their unloading."""

    def __init__(self, pid: int, gone: list[int], idle_timeout_s: float = 0.0) -> None:
        self.pid, self.gone, self.idle_timeout_s = pid, gone, idle_timeout_s
        self.used, self.memory = time.monotonic(), 0
        self.is_loaded, self.loading, self.busy, self.sharers = True, False, False, 1

    def seats(self) -> list[Seat]:
        return [Seat(9000, self.pid, self.pid, self.sharers)] if self.is_loaded and not self.loading else []

    def unload(self, unused_since: float) -> bool:
        if not self.is_loaded or self.busy or self.used > unused_since:
            return False
        self.is_loaded = False
        self.gone.append(self.pid)
        return True


class Closed:
    def __init__(self) -> None:
        self.event = threading.Event()

    def close(self, timeout: float) -> None:
        self.event.set()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """What each process takes; the machine has room for everything."""
    found: dict[int, int] = {}
    monkeypatch.setattr(model_cache, "proportional_memory", lambda pid: found.get(pid, 10 * MIB))
    monkeypatch.setattr(capacity, "available_memory", lambda: 1 << 40)
    yield found


def models(cache: ModelCache, count: int, gone: list[int], **fields: float) -> list[Fake]:
    """So many models, the first of them the least recently used one."""
    made = []
    for number in range(count):
        made.append(Fake(number, gone, **fields))
        made[-1].used = time.monotonic() - 100 + number
        cache.add(made[-1])
    return made


def settle(cache: ModelCache) -> None:
    """Until the thread has looked: it has begun to look again."""
    for _ in range(2):
        cache.look()
        wait_until(lambda: not cache._look)


@pytest.mark.usefixtures("taken")
def test_without_limits_everything_stays() -> None:
    gone: list[int] = []
    cache = ModelCache()
    made = models(cache, 5, gone)
    settle(cache)
    assert not gone
    assert cache.loaded() == made
    for each in made:
        cache.forget(each)
    cache.join(5)


@pytest.mark.usefixtures("taken")
def test_what_is_not_used_goes_when_its_time_has_come_and_the_thread_with_the_last() -> None:
    gone: list[int] = []
    cache = ModelCache()
    one, two = Fake(1, gone, 0.2), Fake(2, gone, 0.05)
    cache.add(one)
    cache.add(two)
    wait_until(lambda: gone == [2])
    wait_until(lambda: gone == [2, 1])
    assert time.monotonic() - one.used >= 0.2
    cache.join(5)
    assert "model-cache" not in {thread.name for thread in threading.enumerate()}
    cache.add(again := Fake(3, gone, 0.01))
    wait_until(lambda: gone == [2, 1, 3])
    assert not again.is_loaded
    cache.join(5)


def test_a_process_that_models_share_counts_for_each_with_its_part(taken: dict[int, int]) -> None:
    gone: list[int] = []
    cache = ModelCache(100 * MIB)
    made = [Fake(number, gone) for number in range(4)]
    for each in made:
        each.sharers, taken[each.pid] = 4, 80 * MIB
        cache.add(each)
    settle(cache)
    assert not gone and [each.memory for each in made] == [20 * MIB] * 4
    for each in made:
        cache.forget(each)
    cache.join(5)


@pytest.mark.usefixtures("taken")
def test_a_model_that_is_busy_or_was_used_since_stays() -> None:
    gone: list[int] = []
    cache = ModelCache()
    busy, used = Fake(1, gone, 0.05), Fake(2, gone, 0.05)
    busy.busy = True
    cache.add(busy)
    cache.add(used)
    for _ in range(10):
        used.used = time.monotonic()
        time.sleep(0.02)
    assert not gone
    busy.busy = False
    wait_until(lambda: sorted(gone) == [1, 2])
    cache.join(5)


def test_the_least_recently_used_go_until_the_others_fit(taken: dict[int, int]) -> None:
    gone: list[int] = []
    cache = ModelCache(max_bytes=35 * MIB)
    made = models(cache, 3, gone)
    settle(cache)
    assert not gone, "three of 10 MiB fit"
    made[0].used = time.monotonic()  # asked again: the second is the oldest now
    taken[3] = 20 * MIB
    newest = Fake(3, gone)
    cache.add(newest)
    wait_until(lambda: gone == [1, 2])
    settle(cache)
    assert cache.loaded() == [made[0], newest]
    for each in (made[0], newest):
        cache.forget(each)
    cache.join(5)


def test_a_model_larger_than_the_limit_is_served_alone(taken: dict[int, int]) -> None:
    gone: list[int] = []
    cache = ModelCache(max_bytes=35 * MIB)
    models(cache, 2, gone)
    taken[7] = 100 * MIB
    cache.add(large := Fake(7, gone))
    wait_until(lambda: gone == [0, 1])
    settle(cache)
    assert large.is_loaded
    cache.forget(large)
    cache.join(5)


def test_busy_models_are_passed_over_and_said_once(taken: dict[int, int], caplog: pytest.LogCaptureFixture) -> None:
    gone: list[int] = []
    cache = ModelCache(max_bytes=15 * MIB)
    made = models(cache, 1, gone)
    made[0].busy = True
    cache.add(newest := Fake(1, gone))
    settle(cache)
    settle(cache)
    assert not gone
    assert caplog.text.count("take 5 MiB more than there is room for, and all of them are busy") == 1
    made[0].busy = False
    wait_until(lambda: gone == [0])  # nothing else has happened that would be a reason to look
    cache.forget(newest)
    cache.join(5)


@pytest.mark.usefixtures("taken")
def test_what_is_loading_makes_the_machines_memory_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that still loads is expected to take what the others do."""
    gone: list[int] = []
    cache = ModelCache()
    made = models(cache, 3, gone)
    settle(cache)
    monkeypatch.setattr(capacity, "available_memory", lambda: RESERVE + 4 * MIB)
    settle(cache)
    assert not gone, "what is loaded has its memory already"
    loading = Fake(9, gone)
    loading.loading = True
    cache.add(loading)
    wait_until(lambda: gone == [0])
    assert loading.memory == 10 * MIB
    for each in (*made, loading):
        cache.forget(each)
    cache.join(5)


@pytest.mark.usefixtures("taken")
def test_what_could_not_be_loaded_is_closed() -> None:
    cache, failed = ModelCache(), Closed()
    model = Fake(1, [])
    cache.add(model)
    cache.drop(model, failed)
    assert failed.event.wait(5)
    cache.join(5)
    assert not cache.loaded()


def test_a_process_is_measured_by_its_share() -> None:
    import os

    own = model_cache.proportional_memory(os.getpid())
    rollup = Path("/proc/self/smaps_rollup").read_text()
    assert 1 * MIB < own <= int(rollup.split("Rss:")[1].split()[0]) << 10
    assert model_cache.proportional_memory(2**22 + 1) == 0


def test_models_that_grow_are_noticed(taken: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "_MEASURED_S", 0.1)
    gone: list[int] = []
    cache = ModelCache(max_bytes=35 * MIB)
    made = models(cache, 3, gone)
    settle(cache)
    assert not gone
    taken[2] = 20 * MIB
    wait_until(lambda: gone == [0])
    for each in made:
        cache.forget(each)
    cache.join(5)
