"""`World`: one schedule being run, and what is checked meanwhile.

a call      ends once; its answer has its own bytes; one that a worker never had does not fail for a worker's death
a worker    has no batch above the model's size, no more batches than it may, no request that it must not have again
the queue   nothing waits that may leave while a worker is idle, and nothing beyond its deadline
a sequence  is executed in order, one request at a time, by one worker
the end     after the last fault the model is ready again, answers, and ends; no memory, thread or process is left
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from ....core.errors import Cancelled, JitneyError, LoadFailed
from ....core.request import Request, Response
from ....core.tensor import Tensor
from ....server.ipc.arena import Arena
from ....server.ipc.io_context import IoContext
from ....server.ipc.messages import WireRequest
from ....server.lifecycle.rollout import Rollout
from ....server.serving.dataplane import DataPlane
from ....server.serving.deployment import Options
from ....server.serving.registry import Registry
from ....server.serving.worker_deployment import WorkerDeployment
from . import checks
from .asked import Asked
from .machine import EPOCH_NS, Machine, Violation, VirtualTask
from .plan import LARGE, MODEL, SMALL, Act, Ask, Plan
from .stage import server_on
from .threading_kit import VirtualLock
from .worker import SEEN_NS, Side, SimulatedProcess

#: Virtual seconds: what counts as a hang; how long the model may take to be ready again once nothing goes wrong any more: the
#: longest pause between two starts, and what was under way.
HANG_S, READY_S, DRAIN_S = 600.0, 40.0, 30.0


class World:
    """Runs `plan` once."""

    def __init__(self, plan: Plan, trace: list[str] | None = None) -> None:
        self.plan, self.trace = plan, trace
        self.machine = Machine(plan.turns, plan.preempt, plan.stall, round(HANG_S * 1e9))
        self.machine.on_quiet = self._quiet
        with server_on(self.machine, self._process, self._arena):
            io = IoContext()
        self.registry, self.options = Registry(), Options(gpus=(), io=io)
        self.plane = DataPlane(self.registry)
        self.rollout = Rollout(self.registry, self.plane, self.options)
        self.asked: list[Asked] = []
        self.sides: list[Side] = []
        self.arenas: list[Arena] = []
        self.sequences = checks.Sequences()
        self._asks = iter(plan.asks)
        self._series: dict[int, int] = collections.defaultdict(int)  # client -> which of its sequences it is at
        self._turns: dict[int, VirtualLock] = {}
        self._going: set[int] = set()  # clients whose sequence has begun
        self._got: dict[tuple[int, int], list[Asked]] = {}  # (process, batch) -> requests
        self._operations: list[Act] = []
        self._operator: VirtualTask | None = None
        self._loading = False

    def run(self) -> None:
        """Raises Violation."""
        with server_on(self.machine, self._process, self._arena):
            try:
                self.machine.run(self._main)
            finally:
                for arena in self.arenas:
                    arena.close()

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{(self.machine.now - EPOCH_NS) / 1e6:12.6f} ms  {text}")

    # ---- what the server is given

    def _process(self, config: Any, instance: Any, arena: Arena, *rest: Any) -> SimulatedProcess:
        if self.plan.faults.cannot_start():
            raise OSError(11, "Resource temporarily unavailable")
        side = Side(self.machine, self.plan.faults, self, config, arena, 100 + len(self.sides))
        self.sides.append(side)
        self.say(f"process {side.pid} starts")
        return SimulatedProcess(config, instance, arena, *rest, side=side)

    def _arena(self, capacity: int) -> Arena:
        self.arenas.append(Arena(capacity))
        return self.arenas[-1]

    # ---- the course

    def _main(self) -> None:
        plan, faults = self.plan, self.plan.faults
        if not plan.rough:
            self._load(calm=True)
        for act in plan.acts:
            self.machine.at(act.at_ns, partial(self._happen, act))
        if plan.rough:
            with contextlib.suppress(LoadFailed):
                self._load()
        self.machine.sleep(plan.end_ns)
        faults.end()
        self.say("nothing goes wrong any more")
        for side in self.sides:
            side.go_on()
        self.machine.sleep(SEEN_NS)  # until ends that have happened are known
        self._recover()
        self._all_answered()
        self._recover()  # workers that hung have been ended meanwhile
        self._probe()
        self.say("closing")
        self.plane.close(DRAIN_S)
        self._all_answered()
        self._nothing_left()

    def _load(self, calm: bool = False) -> None:
        before = self.plan.faults
        if calm:
            self.plan.faults = type(before)(before.dice, before.batch_ns, before.load_ns, before.overlaps)
        self._loading = True
        try:
            self.rollout.replace(MODEL, [self.plan.config], afresh=True, settled=lambda *_: None)
        finally:
            self._loading = False
            self.plan.faults = before

    def _happen(self, act: Act) -> None:
        """An event: clients have threads of their own, the operator does one thing after the other."""
        if act.what == "ask":
            self.machine.spawn("client", partial(self._ask, [next(self._asks) for _ in range(act.number)]))
        elif act.what in ("scale", "scale again", "reload"):
            self._operations.append(act)
            if self._operator is None or self._operator.done:
                self._operator = self.machine.spawn("operator", self._operate)
        else:
            self._strike(act)

    def _strike(self, act: Act) -> None:
        there = [side for side in self.sides if side.alive]
        for side in there if act.what == "kill all" else there[act.number % len(there) :][:1] if there else []:
            self.say(f"{act.what}: process {side.pid}")
            if act.what == "stop":
                side.stop()
            else:
                side.die(-9)

    def _operate(self) -> None:
        while self._operations:
            act = self._operations.pop(0)
            self.say(f"{act.what} {act.number}")
            try:
                if act.what == "reload":
                    self._load()
                else:
                    again = act.what == "scale again"
                    self._deployment().scale(max(1, act.number) if again else act.number, retry=again)
            except JitneyError as error:
                self.say(f"{act.what}: {error}")

    def _deployment(self) -> WorkerDeployment:
        found = self.registry.deployment(MODEL)
        if not isinstance(found, WorkerDeployment):
            raise TypeError("the model runs in no workers")
        return found

    # ---- clients

    def _ask(self, asks: Sequence[Ask]) -> None:
        """A client's thread; several requests come together, as from one read of many sockets."""
        with self.options.io.coalescer.together() if len(asks) > 1 else contextlib.nullcontext():
            for ask in asks:
                self._send(ask)

    def _send(self, ask: Ask) -> Asked:
        """Who sends a sequence sends one request after the other."""
        if not ask.sequence:
            return self._submit(ask)
        with self._turns.setdefault(ask.sequence, VirtualLock(self.machine)):
            return self._submit(ask)

    def _submit(self, ask: Ask) -> Asked:
        client, start = ask.sequence, False
        if client:
            start = ask.start or client not in self._going
            self._series[client] += start
            self._going.add(client)
            if ask.end:
                self._going.discard(client)
        number = len(self.asked)
        width = (LARGE if ask.lane == 2 else SMALL) + ask.lane
        data = number.to_bytes(4, "big") * (-(-ask.rows * width // 4))
        data = data[: ask.rows * width]
        asked = Asked(number, ask, data, (client, self._series[client]), start)
        self.asked.append(asked)
        shape = (ask.rows, width) if self.plan.config.batches else (ask.rows * width,)
        flags = (1 if start else 0) | (2 if ask.end else 0)
        parameters: dict[str, Any] = {"triton_sequence_id": client, "triton_flags": flags} if client else {}
        request = Request(str(number), [Tensor("IN", "UINT8", shape, data)], parameters=parameters)
        self.say(f"request {number}: {ask.rows} rows, sequence {asked.sequence}, start {start}, end {ask.end}")
        try:
            asked.call = self.plane.infer(
                MODEL,
                None,
                request,
                priority=ask.priority,
                timeout_us=ask.timeout_us,
                on_answer=partial(self._answered, asked),
            )
        except JitneyError as error:
            self._refused(asked, error)
        else:
            if ask.cancel_ns:
                self.machine.at(ask.cancel_ns, lambda: self._leave(asked))
        return asked

    def _leave(self, asked: Asked) -> None:
        call = asked.call
        if call is not None and not asked.over:
            self.machine.spawn("leaving client", lambda: self.say(f"request {asked.number} is cancelled: {call.cancel()}"))

    def _refused(self, asked: Asked, error: JitneyError) -> None:
        self.say(f"request {asked.number} is refused: {error!r}")
        if asked.answers:
            raise Violation(f"{asked} was refused, and had an answer")
        asked.refused, asked.over = error, True
        self._begin_anew(asked)

    def _answered(self, asked: Asked, answer: Response | JitneyError) -> None:
        error = answer if isinstance(answer, JitneyError) else None
        self.say(f"request {asked.number} is answered: {error!r}" if error else f"request {asked.number} is answered")
        if asked.over:
            raise Violation(f"{asked} was answered again: {answer!r}")
        asked.answers.append(answer)
        if isinstance(answer, Response):
            asked.over = answer.final
            if bytes(answer.tensors[0].data) != asked.data:
                raise Violation(f"{asked} got the answer of another one, or of memory that was used again")
            if not asked.begun:
                raise Violation(f"{asked} was answered, and no worker has executed it")
            return
        asked.over = True
        checks.error_is_due(self.plan, asked, answer, self.machine.now / 1e9)
        self._begin_anew(asked)

    def _begin_anew(self, asked: Asked) -> None:
        """A client whose sequence was cut, or who took back its beginning or its end, begins another one."""
        client, series = asked.sequence
        cut = not isinstance(asked.error, Cancelled) or asked.start or asked.ask.end
        if client and series == self._series[client] and cut:
            self._going.discard(client)

    # ---- what workers tell (`worker.Watch`)

    def _of(self, requests: Sequence[WireRequest]) -> list[Asked]:
        return [self.asked[int(request.id)] for request in requests]

    def got(self, side: Side, batch: int, requests: Sequence[WireRequest]) -> None:
        self.say(f"process {side.pid} gets batch {batch}: {[request.id for request in requests]}")
        self._got[side.pid, batch] = self._of(requests)
        holds = sum(pid == side.pid for pid, _ in self._got)
        checks.batch_fits(self.plan, side, requests, holds)

    def began(self, side: Side, batch: int, requests: Sequence[WireRequest]) -> None:
        self.say(f"process {side.pid} begins batch {batch}")
        asked = self._of(requests)
        for each in asked:
            each.begun += 1
        checks.not_again(self.plan, asked)
        if self.plan.config.sequence is not None:
            self.sequences.began(side.pid, asked, requests)

    def finished(self, side: Side, batch: int) -> None:
        self.say(f"process {side.pid} finishes batch {batch}")
        asked = self._got.pop((side.pid, batch))
        if self.plan.config.sequence is not None:
            self.sequences.finished(asked)

    def gave_back(self, side: Side, batch: int) -> None:
        self.say(f"process {side.pid} gives batch {batch} back")
        del self._got[side.pid, batch]

    def ended(self, side: Side, code: int) -> None:
        self.say(f"process {side.pid} ends: {code}")
        for (pid, batch), asked in self._got.items():
            if pid == side.pid:
                for each in asked:
                    each.in_dead_worker = True
                    each.spared = bool(side.held) and side.held[0][0] != batch and batch not in side.open
                if self.plan.config.sequence is not None:
                    self.sequences.finished(asked)

    # ---- checks

    def _quiet(self) -> None:
        for deployment in self.registry.deployments():
            if isinstance(deployment, WorkerDeployment):
                checks.queue_is_right(deployment, self.machine.now / 1e9)

    def _wait(self, what: str, seconds: float, true: Any) -> None:
        until = self.machine.now + round(seconds * 1e9)
        while not true():
            if self.machine.now >= until:
                raise Violation(f"{what} not within {seconds:g} s")
            self.machine.sleep(50_000_000)

    def _recover(self) -> None:
        """What an operator does where the model was never loaded, or scaled to nothing; anything else mends itself."""
        self._wait("the operator was done", READY_S, lambda: self._operator is None or self._operator.done)
        record = dict(self.registry.records()).get(MODEL)
        if record is None or not record.serving or self._deployment().state == "UNAVAILABLE":
            self._load()
        elif not self._deployment().pool.target():
            self._deployment().scale(self.plan.workers)
        self._wait("the model was ready", READY_S, lambda: self.plane.model_ready(MODEL))
        pool = self._deployment().pool
        for _ in range(2):  # one that hung may just have been ended for that, which is not known at once
            self._wait("all workers were ready", READY_S, lambda: pool.ready() == pool.target())
            self._wait("no worker hung any more", READY_S, lambda: not pool.busy())
            self.machine.sleep(SEEN_NS)

    def _all_answered(self) -> None:
        with contextlib.suppress(Violation):
            self._wait("", READY_S, lambda: all(asked.over for asked in self.asked))
        left = [asked for asked in self.asked if not asked.over]
        if left:
            raise Violation(f"never answered: {left}")

    def _probe(self) -> None:
        """Now every request is answered, and rightly."""
        for _ in range(2 * self._deployment().pool.target()):
            asked = self._send(Ask(1, 0, 0, 0, 0, sequence=9 if self.plan.config.sequence is not None else 0, end=True))
            self._wait(f"an answer to {asked}", READY_S, lambda asked=asked: asked.over)
            if asked.error is not None:
                raise Violation(f"after the faults: {asked}")
        if self.plan.harmless:
            checks.all_right(self.plan, self.asked)

    def _nothing_left(self) -> None:
        self._wait("the processes' end", DRAIN_S + READY_S, lambda: not any(side.alive for side in self.sides))
        self.machine.sleep(1_000_000_000)
        held = [arena.used for arena in self.arenas if arena.used]
        if held:
            raise Violation(f"bytes of requests that nobody freed: {held}")
