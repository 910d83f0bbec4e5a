"""What `threading` and `time` are for code that runs on a `Machine`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any

from .machine import Machine, VirtualTask


class VirtualLock:
    """`threading.Lock`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._owner: object = None
        self._waiting: list[VirtualTask] = []

    def acquire(self) -> bool:
        machine = self.machine
        machine.may_switch()
        while self._owner is not None:
            self._waiting.append(machine.me())
            machine.wait("a lock")
        self._owner = machine.current or self  # a check, between two instants, has no thread
        return True

    def release(self) -> None:
        self.free()
        self.machine.may_switch()

    def free(self) -> None:
        """`release`, but the thread keeps its turn."""
        self._owner = None
        if self._waiting:
            self.machine.wake(self._waiting.pop(0))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class VirtualCondition:
    """`threading.Condition`."""

    def __init__(self, lock: VirtualLock) -> None:
        self.lock, self._machine = lock, lock.machine
        self._sleeping: dict[VirtualTask, None] = {}
        self._late: set[VirtualTask] = set()

    def __enter__(self) -> bool:
        return self.lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        machine, me = self._machine, self._machine.me()
        self._sleeping[me] = None
        timer = None if timeout is None else machine.at(math.ceil(timeout * 1e9), lambda: self._awake(me, late=True))
        self.lock.free()
        machine.wait("a condition")
        if timer is not None:
            timer.cancel()
        woken = me not in self._late
        self._late.discard(me)
        self.lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        until = None if timeout is None else self._machine.now + math.ceil(timeout * 1e9)
        while not (found := predicate()):
            left = None if until is None else (until - self._machine.now) / 1e9
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify(self, count: int = 1) -> None:
        for task in list(self._sleeping)[:count]:
            self._awake(task)

    def notify_all(self) -> None:
        self.notify(len(self._sleeping))

    def _awake(self, task: VirtualTask, late: bool = False) -> None:
        if task in self._sleeping:
            del self._sleeping[task]
            if late:
                self._late.add(task)
            self._machine.wake(task)


class VirtualEvent:
    """`threading.Event`."""

    def __init__(self, machine: Machine) -> None:
        self._condition = VirtualCondition(VirtualLock(machine))
        self._lock = self._condition.lock
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set = True
            self._condition.notify_all()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        with self._lock:
            return self._condition.wait_for(self.is_set, timeout)


class VirtualThread:
    """`threading.Thread`."""

    def __init__(
        self,
        machine: Machine,
        target: Callable[..., object],
        name: str = "",
        args: Iterable[Any] = (),
        daemon: bool | None = None,
    ) -> None:
        self._machine, self._target, self.name, self._arguments = machine, target, name, tuple(args)
        self._task: VirtualTask | None = None

    def start(self) -> None:
        self._task = self._machine.spawn(self.name, self._run)
        self._task.thread = self
        self._machine.may_switch()

    def _run(self) -> None:
        self._target(*self._arguments)

    def join(self, timeout: float | None = None) -> None:
        if self._task is None or self._task.done:
            return
        if timeout is not None:
            raise NotImplementedError("no code on a machine joins a thread with a timeout")
        self._task.joining.append(self._machine.me())
        self._machine.wait(f"the end of {self.name}")

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done


def threading_on(machine: Machine) -> SimpleNamespace:
    """The module `threading`."""
    return SimpleNamespace(
        TIMEOUT_MAX=threading.TIMEOUT_MAX,
        Lock=partial(VirtualLock, machine),
        Condition=lambda lock=None: VirtualCondition(lock or VirtualLock(machine)),
        Event=partial(VirtualEvent, machine),
        Thread=partial(VirtualThread, machine),
        current_thread=lambda: machine.me().thread,
    )


class VirtualTime:
    """The module `time`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def monotonic_ns(self) -> int:
        return self._machine.now

    def monotonic(self) -> float:
        return self._machine.now / 1e9

    time = monotonic
    time_ns = monotonic_ns
    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self._machine.sleep(round(seconds * 1e9))
