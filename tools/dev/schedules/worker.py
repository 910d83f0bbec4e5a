"""`SimulatedProcess`: a worker process behind its socket, with the server's own `WorkerProcess` on this side of it.

`Side` is the process: it loads, executes its batches one after the other and answers, or does what the faults of its schedule
say: it crashes, hangs, cannot load, is killed or stopped. A message takes a moment on its way; those of one direction keep their
order, and the end of the process is seen after all that it had sent.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ....core.errors import JitneyError
from ....core.model_config import ModelConfig
from ....core.request import Failure, Instance, Response
from ....core.tensor import Tensor
from ....server.ipc.arena import Arena
from ....server.ipc.io_context import IoContext
from ....server.ipc.messages import Message, WireRequest
from ....server.ipc.wire import inline, response_to_wire
from ....server.process import exits
from ....server.workers.messages import Cancel, Execute, Load, Loaded, Recall, Recalled, Results, Stop
from ....server.workers.own_process import is_crash
from ....server.workers.shared_process import Groups
from ....server.workers.worker_process import WorkerProcess
from .faults import Faults
from .machine import Machine
from .reading import Channel

_REQUEST = msgspec.msgpack.Decoder(WireRequest)
_ENCODER = msgspec.msgpack.Encoder()
#: How long a message is on its way at most, and how long it takes until the end of a process is seen.
_ON_ITS_WAY_NS, SEEN_NS = 300_000, 5_000_000


class Watch(Protocol):
    """Is told what workers do."""

    def got(self, side: Side, batch: int, requests: Sequence[WireRequest]) -> None: ...

    def began(self, side: Side, batch: int, requests: Sequence[WireRequest]) -> None: ...

    def finished(self, side: Side, batch: int) -> None: ...

    def gave_back(self, side: Side, batch: int) -> None: ...

    def ended(self, side: Side, code: int) -> None: ...


class Side:
    """The worker's process. Its methods are called by events and by the server's threads; none waits."""

    def __init__(
        self, machine: Machine, faults: Faults, watch: Watch, config: ModelConfig, arena: Arena, number: int
    ) -> None:
        self.machine, self.faults, self.watch, self.config, self.arena = machine, faults, watch, config, arena
        self.pid = number
        self.code: int | None = None
        self.loaded = self.stopped = False
        self.held: collections.deque[tuple[int, list[WireRequest]]] = collections.deque()  # the first is being executed
        self.open: dict[int, int] = {}  # batches whose `execute` has returned: requests without an answer
        self.channel = Channel(machine, self)
        self._leaving = False
        self._ns = 0  # how long the present batch takes
        self._arrives = self._leaves = 0  # no message of a direction arrives before the one that was sent before
        self._put_off: list[Callable[[], None]] = []

    @property
    def alive(self) -> bool:
        return self.code is None

    # ---- what happens to it

    def die(self, code: int) -> None:
        if self.code is not None:
            return
        self.code = code
        self.watch.ended(self, code)
        self._leaves = max(self._leaves, self.machine.now + self.machine.dice.randrange(SEEN_NS))
        self.machine.at(self._leaves - self.machine.now, lambda: self.channel.arrived(None))

    def stop(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False
        put_off, self._put_off = self._put_off, []
        for event in put_off:
            self.machine.at(0, lambda event=event: self._unless_stopped(event))  # type: ignore[misc]

    def _in(self, ns: int, event: Callable[[], None]) -> None:
        self.machine.at(ns, lambda: self._unless_stopped(event))

    def _unless_stopped(self, event: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.stopped:
            self._put_off.append(event)
        else:
            event()

    # ---- messages

    def sent(self, message: Message) -> None:
        """The server has sent something."""
        if isinstance(message, Execute):
            self.watch.got(self, message.batch, [_REQUEST.decode(raw) for raw in message.requests])
        self._arrives = max(self._arrives, self.machine.now + self.machine.dice.randrange(_ON_ITS_WAY_NS))
        self._in(self._arrives - self.machine.now, lambda: self._take(message))

    def _send(self, message: Message) -> None:
        self._leaves = max(self._leaves, self.machine.now + self.machine.dice.randrange(_ON_ITS_WAY_NS))
        self.machine.at(self._leaves - self.machine.now, lambda: self.channel.arrived(message))

    def _take(self, message: Message) -> None:
        if isinstance(message, Load):
            self._load()
        elif isinstance(message, Execute):
            self.held.append((message.batch, [_REQUEST.decode(raw) for raw in message.requests]))
            if len(self.held) == 1:
                self._execute()
        elif isinstance(message, Recall):
            self._give_back(message.batch)
        elif isinstance(message, Stop):
            self._leaving = True
            self._leave_if_free()
        elif not isinstance(message, Cancel):
            raise TypeError(f"{type(message).__name__} was sent to a worker")

    def _give_back(self, number: int) -> None:
        """As `worker.inbox` does: what has begun stays, and what hangs may read nothing any more."""
        waiting = [held for held in list(self.held)[1:] if held[0] == number]
        if waiting and not self.faults.is_deaf():
            self.held.remove(waiting[0])
            self.watch.gave_back(self, number)
            self._in(self.machine.dice.randrange(_ON_ITS_WAY_NS), lambda: self._send(Recalled(number)))  # by another thread

    # ---- loading

    def _load(self) -> None:
        does, ns = self.faults.loading()
        if does == "load":
            self._in(ns, self._loaded)
        elif does == "refuse":
            self._in(ns, self._refuse)
        elif does == "crash":
            self._in(ns, lambda: self.die(exits.CRASHED))

    def _loaded(self) -> None:
        self.loaded = True
        self._send(Loaded())

    def _refuse(self) -> None:
        self._send(Loaded("the model's file is damaged"))
        self._in(1_000_000, lambda: self.die(exits.LOAD_FAILED))

    # ---- executing

    def _execute(self) -> None:
        batch, requests = self.held[0]
        self.watch.began(self, batch, requests)
        does, ns = self.faults.executing(len(requests))
        self._ns = ns
        if does == "crash":
            self._in(ns, lambda: self.die(-11))
        elif does == "partly":
            self._in(ns // 2, lambda: self._partly(batch, requests, ns))
        elif does == "fail":
            self._in(
                ns, lambda: self._over(batch, [Response(error=Failure("the model failed", "INTERNAL")) for _ in requests])
            )
        elif does == "open":
            self._in(ns, lambda: self._return(batch, requests, ns))
        elif does == "answer":
            self._in(ns, lambda: self._over(batch, [self._response(request) for request in requests]))

    def _response(self, request: WireRequest) -> Response:
        """The request's own bytes, as they are in the arena now."""
        (tensor,) = request.tensors
        data = tensor.data
        found = bytes(self.arena.region.view(*data) if isinstance(data, tuple) else data)
        return Response([Tensor("OUT", tensor.datatype, tensor.shape, found)])

    def _over(self, batch: int, responses: Sequence[Response], first: int = 0) -> None:
        self._send(Results(batch, _encoded(responses, first), True, True, infer_ns=self._ns))
        self._next(batch)
        self.watch.finished(self, batch)

    def _next(self, batch: int) -> None:
        """The next batch is being executed."""
        if self.held and self.held[0][0] == batch:
            self.held.popleft()
            if self.held:
                self._execute()
        self._leave_if_free()

    def _partly(self, batch: int, requests: list[WireRequest], ns: int) -> None:
        """The first answer goes ahead of the others."""
        only = len(requests) == 1
        self._send(Results(batch, _encoded([self._response(requests[0])]), only, only, infer_ns=self._ns))
        if len(requests) == 1:
            self._next(batch)
            self.watch.finished(self, batch)
        elif self.faults.dies_between():
            self._in(ns // 2, lambda: self.die(-11))
        else:
            self._in(ns // 2, lambda: self._over(batch, [self._response(request) for request in requests[1:]], 1))

    def _return(self, batch: int, requests: list[WireRequest], ns: int) -> None:
        """`execute` returns; the answers follow, each when it pleases."""
        self.open[batch] = len(requests)
        self._send(Results(batch, [], False, True))
        self._next(batch)
        for index, request in enumerate(requests):
            self._in(self.machine.dice.randrange(2 * ns + 1), lambda i=index, r=request: self._one(batch, i, r))  # type: ignore[misc]

    def _one(self, batch: int, index: int, request: WireRequest) -> None:
        self.open[batch] -= 1
        over = not self.open[batch]
        self._send(Results(batch, _encoded([self._response(request)], index), over, True, 1, 1, 1))
        if over:
            del self.open[batch]
            self.watch.finished(self, batch)
        self._leave_if_free()

    def _leave_if_free(self) -> None:
        if self._leaving and not self.held and not self.open and self.alive:
            self._in(self.faults.unloading(), lambda: self.die(exits.STOPPED))


def _encoded(responses: Sequence[Response], first: int = 0) -> list[tuple[int, msgspec.Raw]]:
    return [
        (first + n, msgspec.Raw(_ENCODER.encode(response_to_wire(response, inline)))) for n, response in enumerate(responses)
    ]


class _Life:
    """`workers.own_process.Life`, of a process that nobody shares."""

    sharers = 1
    innocent = False

    def __init__(self, side: Side) -> None:
        self._side, self.pid = side, side.pid
        self.code: int | None = None

    @property
    def crashed(self) -> bool:
        return is_crash(self.code)

    def blame(self) -> str:
        return ""

    def begin(self) -> None: ...

    def left(self, code: int) -> None: ...

    def kill(self, cause: JitneyError | None) -> None:
        self._side.die(-9)

    def wait(self, timeout: float) -> bool:
        self.code = self._side.code
        return self.code is not None

    def last_words(self) -> str:
        return ""

    def bury(self, timeout: float | None = None) -> None: ...

    def abandon(self) -> None:
        self._side.die(-9)


class _Socket:
    """Socket and reply memory, which nobody looks into."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None: ...


class SimulatedProcess(WorkerProcess):
    """`WorkerProcess` with a `Side` in the place of its process. OSError where its schedule says that none can be started."""

    def __init__(
        self,
        config: ModelConfig,
        instance: Instance,
        arena: Arena,
        factory: str,
        on_message: Callable[[WorkerProcess, Message], None],
        on_exit: Callable[[WorkerProcess], None],
        io: IoContext,
        groups: Groups,
        *,
        side: Side,
    ) -> None:
        self.name, self._model, self._io, self.side = instance.name, config.name, io, side
        self.started, self.serial = side.machine.now / 1e9, side.pid
        self.loaded, self.load_seconds, self.heard, self.spared = False, 0.0, -math.inf, -math.inf
        self.cause = self.refusal = None
        self._on_message, self._on_exit = on_message, on_exit
        self._copied = self._untold = 0
        nothing: Any = _Socket(side.pid)
        channel: Any = side.channel
        loop: Any = io.threads.loop
        loop.channels[side.pid] = side.channel
        self._reply = self._socket = nothing
        self._life, self._channel = _Life(side), channel
        self._killing = threading.Lock()
        self._returns, self._left_over, self._failure = False, None, None
        self._hello = Load(config, instance, arena.capacity, 0, factory)

    @property
    def frozen(self) -> bool:
        return self.side.stopped and self.side.alive

    @property
    def is_heard(self) -> bool:
        return not self.side.channel.has_input
