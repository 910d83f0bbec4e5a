"""A pool with real worker processes, and the proof that nothing of it is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jitney.core.call import Call
from jitney.core.errors import JitneyError, WorkerDied
from jitney.core.model_config import ModelConfig
from jitney.core.request import Part, Request
from jitney.core.tensor import Tensor
from jitney.server.http.engine.loop import Loop
from jitney.server.ipc.arena import Arena
from jitney.server.ipc.io_context import IoContext
from jitney.server.workers.pool import Pool
from jitney.server.workers.running_calls import BatchReport
from jitney.server.workers.shared_process import Groups
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.worker_backends import factory

LIMIT_S = 30.0


def eventually(condition: Callable[..., Any], limit: float = LIMIT_S) -> Any:
    """Waits until `condition()` is true; fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
    return value


def call_to(do: str = "echo", *, tensors: Iterable[Any] = (), parts: Iterable[Any] = (), **parameters: Any) -> Call:
    """A call whose request tells the `Obedient` backend what to do."""
    named = [Tensor.from_numpy(f"x{n}", np.asarray(array)) for n, array in enumerate(tensors)]
    request = Request(tensors=named, parts=[Part(*part) for part in parts], parameters={"do": do, **parameters})
    return Call(request)


def error_of(call: Call, kind: type[JitneyError] = WorkerDied) -> Any:
    """The error of this kind with which the call ends."""
    with pytest.raises(kind) as caught:
        call.result(LIMIT_S)
    return caught.value


class Bench:
    """One model's pool with its arena, and a record of what it reported."""

    def __init__(
        self,
        backend: str = "obedient",
        gpus: Sequence[int] = (),
        host: Any = None,
        capacity: int = 1 << 30,
        io: IoContext | None = None,
        groups: Groups | None = None,
        name: str = "m",
        **config: Any,
    ) -> None:
        self.arena = Arena(capacity)
        self.reports: list[BatchReport] = []
        self.fatal: list[Call] = []
        self.returned: list[Sequence[Call]] = []
        self.events: list[tuple[Any, Any]] = []
        self.states = 0
        self.idle_times = 0
        self.config = ModelConfig(name, "1", "python", **config)
        self.pool = Pool(
            self.config,
            self.arena,
            on_idle=self._idle,
            on_batch=self._done,
            on_fatal=self.fatal.append,
            on_returned=self.returned.append,
            on_event=lambda kind, payload: self.events.append((kind, payload)),
            on_state=self._state,
            factory=factory(backend),
            host=host,
            gpus=gpus,
            io=io,
            groups=groups,
        )

    def _idle(self) -> None:
        self.idle_times += 1

    def _state(self) -> None:
        self.states += 1

    def _done(self, report: BatchReport) -> None:
        for call in report.calls:
            self.arena.free_all(call.slots)
        self.reports.append(report)

    def up(self, count: int = 1) -> Bench:
        self.pool.start(count)
        self.pool.wait_ready(LIMIT_S)
        return self

    def send(self, *calls: Call) -> tuple[Call, ...]:
        """Executes the calls as one batch, data in the arena where it is large enough."""
        for call in calls:
            call.slots.extend(
                self.arena.put_all(
                    [*(tensor.data for tensor in call.request.tensors), *(part.data for part in call.request.parts)]
                )
            )
        self.pool.execute(calls)
        return calls

    def ask(self, do: Any = "echo", **fields: Any) -> Any:
        """One request alone; its answer."""
        (call,) = self.send(call_to(do, **fields))
        return call.result(LIMIT_S)

    def pids(self) -> list[Any]:
        return [worker.pid for worker in self.pool.workers() if worker.pid]

    def close(self) -> None:
        self.pool.stop(LIMIT_S)
        assert self.arena.slots == 0, "slots were not given back"
        self.arena.close()


@pytest.fixture(params=["reader", "reactor"])
def reading(request: pytest.FixtureRequest) -> Iterator[IoContext]:
    """Who reads what workers send: a thread for each, or all of it the loop of a listener, to which they lend their sockets."""
    io = IoContext()
    if request.param == "reader":
        yield io
        return
    loop = Loop("test")
    idle = SimpleNamespace(active_channels={}, holds_off=False, maintenance=lambda now: None)
    thread = threading.Thread(target=loop.run, args=(idle, 1.0), name="test-loop")
    thread.start()
    io.reactors.offer(loop)
    yield io
    io.reactors.withdraw(loop)
    loop.stop()
    thread.join(LIMIT_S)
    loop.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes pools; afterwards no descriptor, thread, process or slot of theirs may be left."""
    io = request.getfixturevalue("reading") if "reading" in request.fixturenames else None
    before, benches = Inventory(), []

    def make(*args: Any, **kwargs: Any) -> Bench:
        benches.append(Bench(*args, **{"io": io, **kwargs}))
        return benches[-1]

    yield make
    for made in benches:
        made.close()
    assert Inventory().children <= before.children
    benches.clear()
    assert before.new(2.0) == []  # the logs' threads end a moment after their last process
