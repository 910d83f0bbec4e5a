"""`Machine`: one virtual processor, whose threads take turns and whose clock moves when nothing can run.

Each of its threads has a real one to carry it, but only the one that has the turn runs; who is next, and where a thread loses its
turn, the dice decide. So a run is a function of its seed. A thread gives its turn away where it waits (a lock, a condition, the
end of another thread) and, by chance, where it takes or releases a lock: there other threads can come between on a real machine.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable

#: Where the clock begins, in nanoseconds: no instant is 0, which means "never" in many places.
EPOCH_NS = 1_000_000_000_000
#: Real seconds that a run may take before it counts as stuck outside of virtual time.
STUCK_S = 120.0


class Violation(Exception):
    """What the server may not do, and did."""


class _Abandoned(BaseException):
    """Unwinds the threads of a run that is over."""


class Timer:
    """An event to come; `cancel` takes it back."""

    __slots__ = ("event",)

    def __init__(self, event: Callable[[], None]) -> None:
        self.event: Callable[[], None] | None = event

    def cancel(self) -> None:
        self.event = None


class VirtualTask:
    """One thread of the machine."""

    __slots__ = ("carrier", "done", "function", "joining", "name", "thread", "waits_for")

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self.name, self.function = name, function
        self.carrier: _Carrier | None = None
        self.done = False
        self.joining: list[VirtualTask] = []
        self.thread: object = None  # what `threading.current_thread` gives in it
        self.waits_for = ""


class Machine:
    """`preempt`: how likely a thread loses its turn at a lock; `stall`: how likely it then stays away for up to `stall_ns`.

    on_quiet  called when no thread can run and the clock is about to move; raises Violation
    limit_ns  what counts as a hang, in virtual time
    """

    def __init__(self, dice: random.Random, preempt: float, stall: float, limit_ns: int, stall_ns: int = 3_000_000) -> None:
        self.dice, self.now = dice, EPOCH_NS
        self.on_quiet: Callable[[], None] = lambda: None
        self.current: VirtualTask | None = None
        self.failure: BaseException | None = None
        self._preempt, self._stall, self._stall_ns = preempt, stall, stall_ns
        self._limit = EPOCH_NS + limit_ns
        self._events: list[tuple[int, int, Timer]] = []
        self._numbers = itertools.count()
        self._ready: list[VirtualTask] = []
        self._tasks: dict[VirtualTask, None] = {}  # that have not ended
        self._stalled = 0
        self._quiet = False
        self._over = threading.Event()
        self._abandoning = False
        self.turns = 0

    # ---- from outside

    def run(self, main: Callable[[], None]) -> None:
        """Runs `main` in a thread of the machine, until nothing is left to do. Raises what went wrong there."""
        self.spawn("main", main)
        self._hand(self._next())
        if not self._over.wait(STUCK_S):
            raise RuntimeError(f"the run is stuck outside of virtual time: {self._waiting()}")
        if self.failure is None and self._tasks:
            self.failure = Violation(f"threads that never ended: {self._waiting()}")
        self._abandon()
        if self.failure is not None:
            raise self.failure

    def _waiting(self) -> str:
        return ", ".join(f"{task.name} ({task.waits_for or 'runs'})" for task in self._tasks)

    def _abandon(self) -> None:
        """Unwinds what is left, so that its carriers can be used again."""
        self._abandoning = True
        for task in list(self._tasks):
            if task.carrier is not None:
                self._over.clear()
                task.carrier.turn.release()
                self._over.wait(STUCK_S)
        self._tasks.clear()

    # ---- from threads and events

    def spawn(self, name: str, function: Callable[[], None]) -> VirtualTask:
        task = VirtualTask(name, function)
        self._tasks[task] = None
        self._ready.append(task)
        return task

    def at(self, delay_ns: int, event: Callable[[], None]) -> Timer:
        """Has `event` called in so many nanoseconds; it must not wait for anything."""
        timer = Timer(event)
        heapq.heappush(self._events, (self.now + max(0, delay_ns), next(self._numbers), timer))
        return timer

    def wake(self, task: VirtualTask) -> None:
        """A thread that waits can go on."""
        self._ready.append(task)

    def wait(self, reason: str) -> None:
        """The current thread waits until it is woken."""
        if self._abandoning:
            raise _Abandoned
        me = self.current
        if me is None:
            raise RuntimeError(f"an event or a check waits for {reason}")
        me.waits_for = reason
        following = self._next()
        if following is not me:
            carrier = me.carrier
            if carrier is None:
                raise RuntimeError("a thread without a carrier runs")
            self._hand(following)
            carrier.turn.acquire()
        if self._abandoning:
            raise _Abandoned
        me.waits_for, self.current = "", me

    def sleep(self, ns: int) -> None:
        """The current thread sleeps."""
        me = self.me()
        self.at(ns, lambda: self.wake(me))
        self.wait("time")

    def may_switch(self) -> None:
        """A place where the current thread may lose its turn."""
        if not self._preempt or self.current is None or self.dice.random() >= self._preempt:
            return
        me = self.current
        if self.dice.random() >= self._stall:
            self.wake(me)
            self.wait("its turn")
            return
        self._stalled += 1
        try:
            self.sleep(self.dice.randrange(self._stall_ns))
        finally:
            self._stalled -= 1

    def me(self) -> VirtualTask:
        """The thread that runs."""
        if self.current is None:
            raise RuntimeError("no thread of the machine runs")
        return self.current

    # ---- whoever has the turn

    def _next(self) -> VirtualTask | None:
        """The thread whose turn it is now; None where the run is over."""
        self.current = None
        try:
            while self.failure is None:
                if self._ready:
                    self._quiet = False
                    self.turns += 1
                    if self.turns > 500_000:
                        raise Violation(f"no end after {self.turns} turns: {self._waiting()}")
                    ready = self._ready
                    return ready.pop(self.dice.randrange(len(ready)) if len(ready) > 1 else 0)
                if not self._step():
                    break
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self.failure = error
        return None

    def _step(self) -> bool:
        """Lets the next event happen; false where there is none."""
        while self._events and self._events[0][2].event is None:
            heapq.heappop(self._events)
        if not self._events:
            return False
        due = self._events[0][0]
        if due > self.now:
            if not self._quiet and not self._stalled:
                self._quiet = True
                self.on_quiet()
            if due > self._limit:
                raise Violation(f"it hangs: nothing has ended after the limit; {self._waiting()}")
            self.now = due
        event = heapq.heappop(self._events)[2].event
        if event is not None:
            event()
        return True

    def _hand(self, task: VirtualTask | None) -> None:
        """Gives the turn to a thread: to its carrier, or where it has not begun to an idle one. None ends the run."""
        if task is None:
            self._over.set()
            return
        carrier = task.carrier
        if carrier is None:
            carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            carrier.machine, carrier.task = self, task
        carrier.turn.release()

    def _carry(self, task: VirtualTask) -> None:
        """Runs a thread from its beginning to its end."""
        self.current = task
        try:
            if not self._abandoning:
                task.function()
        except _Abandoned:
            pass
        except Violation as error:
            self.failure = self.failure or error
        except BaseException as error:  # noqa: BLE001 - a thread that ends by an exception is a finding
            if not self._abandoning:
                self.failure = self.failure or Violation(f"thread {task.name} ended by {type(error).__name__}: {error}")
                self.failure.__cause__ = error
        task.done, self.current = True, None
        self._tasks.pop(task, None)
        for other in task.joining:
            self.wake(other)


class _Carrier:
    """A real thread that carries the threads of machines, one after the other."""

    idle: list[_Carrier] = []  # noqa: RUF012 - of all machines

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.machine: Machine | None = None
        self.task: VirtualTask | None = None
        threading.Thread(target=self._run, name="schedules-carrier", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.turn.acquire()
            machine, task, self.machine, self.task = self.machine, self.task, None, None
            while machine is not None and task is not None and task.carrier is None:
                task.carrier = self
                machine._carry(task)
                if not machine._abandoning:
                    task = machine._next()
            _Carrier.idle.append(self)
            if machine is None:
                continue
            if machine._abandoning:
                machine._over.set()
            else:
                machine._hand(task)
