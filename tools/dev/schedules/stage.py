"""The server's own scheduler, supervisor and rollout on a `Machine`: their modules are given its clock, locks and workers.

What is simulated are the machine's processor, its clock and the worker processes behind their sockets. Everything between a
request's `DataPlane.infer` and the messages on a worker's socket is the server's code as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from ....core import call
from ....server.batching import dispatch
from ....server.ipc import shared_threads
from ....server.lifecycle import rollout
from ....server.metrics import statistics
from ....server.process import alarms, cores, helpers
from ....server.serving import (
    dataplane,
    fatal_inputs,
    ordering,
    registry,
    response_cache,
    sequence_deployment,
    worker_deployment,
)
from ....server.workers import capacity, delivery, pool, roster, running_calls, supervisor, worker_process
from .machine import Machine, Violation
from .reading import VirtualLoop
from .threading_kit import VirtualTime, threading_on

#: Modules whose threads and locks are the machine's. Those of `core.call` and `statistics` are held for no longer than a few
#: lines, in which nothing else of these is done.
_THREADED = (
    dispatch, supervisor, worker_deployment, worker_process, rollout, ordering, fatal_inputs, registry,
    shared_threads, alarms, helpers,
)  # fmt: skip
#: Modules whose clock is the machine's.
_TIMED = (
    dispatch, pool, delivery, running_calls, supervisor, worker_process, worker_deployment, sequence_deployment, call, statistics,
    dataplane, fatal_inputs, alarms, helpers,
)  # fmt: skip


class _Defects(logging.Handler):
    """What the server logs with a traceback is an exception that it caught because it must go on: a defect."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(logging.ERROR)
        self._machine = machine

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception) and self._machine.failure is None:
            logged = Violation(f"logged: {record.getMessage()} ({type(error).__name__}: {error})")
            self._machine.failure = error if isinstance(error, Violation) else logged
            self._machine.failure.__cause__ = error


@contextlib.contextmanager
def server_on(machine: Machine, processes: Callable[..., Any], arenas: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, the server's modules run on `machine`; `processes` stands in for `WorkerProcess`, `arenas` for `Arena`."""
    threading, time = threading_on(machine), VirtualTime(machine)
    changes: list[tuple[ModuleType, str, Any]] = [
        *((module, "threading", threading) for module in _THREADED),
        *((module, "time", time) for module in _TIMED),
        (supervisor, "WorkerProcess", processes),
        (shared_threads, "ReadingLoop", partial(VirtualLoop, machine)),
        (supervisor, "usable_cores", lambda: 4),
        (cores, "usable_cores", lambda: 4),
        (capacity, "check", lambda *_: None),
        (capacity, "shortage", lambda *_: ""),
        (worker_deployment, "Arena", arenas),
        (worker_deployment, "Dispatcher", partial(dispatch.Dispatcher, clock=time.monotonic)),
        (worker_deployment, "FatalInputs", partial(fatal_inputs.FatalInputs, clock=time.monotonic)),
        (response_cache, "_generations", itertools.count(1)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    log, numbers = logging.getLogger("jitney"), roster._IDS
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    try:
        for module, name, stand_in in changes:
            setattr(module, name, stand_in)
        roster.number_from(9000)
        log.handlers, log.propagate = [_Defects(machine)], False
        log.setLevel(logging.ERROR)
        yield
    finally:
        for module, name, own in before:
            setattr(module, name, own)
        roster._IDS = numbers
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
