"""The machine that schedules run on: one thread at a time, a clock that moves by itself, and everything decided by the dice."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from jitney.tools.dev.schedules.machine import EPOCH_NS, Machine, Violation
from jitney.tools.dev.schedules.threading_kit import VirtualTime, threading_on

SECOND = 1_000_000_000


def machine(seed: int = 1, preempt: float = 0.0, limit_s: int = 100) -> Machine:
    return Machine(random.Random(seed), preempt, 0.5, limit_s * SECOND)


def on(made: Machine, main: Callable[[SimpleNamespace, VirtualTime], None]) -> float:
    """Runs `main(threading, time)`; the seconds that passed for it."""
    made.run(lambda: main(threading_on(made), VirtualTime(made)))
    return (made.now - EPOCH_NS) / 1e9


def test_hours_pass_at_once_and_in_order() -> None:
    seen: list[tuple[str, float]] = []

    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        def sleeper(name: str, seconds: float) -> None:
            time.sleep(seconds)
            seen.append((name, time.monotonic() - EPOCH_NS / 1e9))

        threads = [threading.Thread(target=sleeper, args=(str(s), s), name=str(s)) for s in (30.0, 10.0, 20.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
            assert not thread.is_alive()

    assert on(machine(), main) == 30
    assert seen == [("10.0", 10.0), ("20.0", 20.0), ("30.0", 30.0)]


def counted(seed: int, preempt: float) -> tuple[int, list[int]]:
    """Two threads that read, and later write, what they have not locked in between; and who was when at work."""
    box, order = [0], []

    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        lock = threading.Lock()

        def add(name: int) -> None:
            for _ in range(20):
                found = box[0]
                with lock:
                    order.append(name)
                box[0] = found + 1

        threads = [threading.Thread(target=add, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    on(machine(seed, preempt), main)
    return box[0], order


def test_a_race_is_found_where_threads_lose_their_turn_and_every_run_can_be_repeated() -> None:
    assert counted(1, 0.0)[0] == 40
    runs = [counted(seed, 0.5) for seed in range(10)]
    assert all(count < 40 for count, _ in runs)
    assert len({tuple(order) for _, order in runs}) == 10
    assert [counted(seed, 0.5) for seed in range(10)] == runs


def test_a_condition_is_notified_or_times_out() -> None:
    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        lock = threading.Lock()
        condition, event = threading.Condition(lock), threading.Event()
        with lock:
            assert not condition.wait(5.0)
            assert not condition.wait_for(event.is_set, 2.0)
        assert not event.wait(1.0)
        threading.Thread(target=lambda: (time.sleep(1.0), event.set())).start()
        assert event.wait(50.0)

    assert on(machine(preempt=0.3), main) < 10


def test_threads_that_wait_for_each_other_are_told() -> None:
    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        one, other = threading.Lock(), threading.Lock()

        def take(first: object, second: object) -> None:
            with first, Between(time), second:  # type: ignore[attr-defined]
                pass

        threading.Thread(target=take, args=(one, other), name="a").start()
        threading.Thread(target=take, args=(other, one), name="b").start()

    with pytest.raises(Violation, match=r"never ended: a \(a lock\), b \(a lock\)"):
        on(machine(), main)


class Between:
    def __init__(self, time: VirtualTime) -> None:
        self._time = time

    def __enter__(self) -> None:
        self._time.sleep(1.0)

    def __exit__(self, *_: object) -> None: ...


def test_what_goes_on_for_longer_than_the_limit_is_told() -> None:
    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        while True:
            time.sleep(1.0)

    with pytest.raises(Violation, match="it hangs"):
        on(machine(), main)


def test_an_exception_of_a_thread_and_of_a_check_ends_the_run() -> None:
    def main(threading: SimpleNamespace, time: VirtualTime) -> None:
        threading.Thread(target=lambda: 1 / 0, name="divides").start()
        time.sleep(1.0)

    with pytest.raises(Violation, match="thread divides ended by ZeroDivisionError"):
        on(machine(), main)

    def check() -> None:
        raise Violation("so it is not")

    checked = machine()
    checked.on_quiet = check
    with pytest.raises(Violation, match="so it is not"):
        on(checked, lambda threading, time: time.sleep(1.0))
