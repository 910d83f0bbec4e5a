"""`ModelCache`: which of the models that load on demand stay loaded.

A model goes when no request has come for its `idle_timeout_s`, or as the least recently used one where memory runs short: where
all of them together take more than `max_bytes`, or where the machine has less left than what is loading will take (SageMaker's
multi-model endpoints unload for the same reason in the same order). A model that is answering stays; the limit is kept again
as soon as one is idle.

A model's memory is what its workers take, what they share with others divided by how many share it (the kernel's
`Pss`; a process that several models live in counts for each of them with an equal part); until it is known, what the others take
on average.

Threads: any may call; one thread unloads, which is there while something is loaded.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ..process import threads
from ..workers import capacity
from ..workers.status import Seat

log = logging.getLogger(__name__)

#: Seconds for which a model's measured memory is believed.
_MEASURED_S = 10.0
#: Seconds after which a model that was busy when its time came is looked at again.
_AGAIN_S = 1.0
#: Of the machine's memory that stays free beside what is loading.
RESERVE = 64 << 20


class Model(Protocol):
    """A model version that is loaded on demand (`on_demand.OnDemandDeployment`)."""

    used: float
    memory: int

    @property
    def idle_timeout_s(self) -> float: ...

    @property
    def is_loaded(self) -> bool: ...

    def seats(self) -> list[Seat]: ...

    def unload(self, unused_since: float) -> bool: ...


class Closable(Protocol):
    def close(self, timeout: float) -> None: ...


class ModelCache:
    """`max_bytes`: what all loaded models may take together; 0 = what the machine has."""

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self._changed = threading.Condition()
        self._models: dict[Model, float] = {}  # and when its memory was measured
        self._ended: list[Closable] = []
        self._look = False
        self._thread: threading.Thread | None = None
        self._short = False  # more is taken than there is room for, by models that are busy

    # -- any thread ------------------------------------------------------------------------------------------------------

    def add(self, model: Model) -> None:
        """A model has begun to load. TooFewThreads where the system has no thread left to unload it one day."""
        with self._changed:
            self._models[model] = 0.0
            self._wake(look=True)

    def look(self) -> None:
        """A model has loaded: what it takes can be measured."""
        with self._changed:
            self._wake(look=True)

    def drop(self, model: Model, loaded: Closable) -> None:
        """A model could not be loaded: `loaded` is to be closed, which its own threads cannot do."""
        with self._changed:
            self._models.pop(model, None)
            self._ended.append(loaded)
            self._wake()

    def forget(self, model: Model) -> None:
        """A model has been closed by others."""
        with self._changed:
            self._models.pop(model, None)
            self._wake()

    def loaded(self) -> list[Model]:
        """The models that are loaded, the least recently used one first."""
        with self._changed:
            return sorted(self._models, key=lambda model: model.used)

    def join(self, timeout: float) -> None:
        """Waits until the thread has ended: when all models are closed, or `timeout` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _wake(self, look: bool = False) -> None:
        """With the lock held."""
        self._look = self._look or look
        if self._thread is None and (self._models or self._ended):
            thread = threading.Thread(target=self._run, name="model-cache", daemon=True)
            threads.start(thread, "unloading models")
            self._thread = thread
        self._changed.notify_all()

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            try:
                self._close_ended()
                self._unload_unused()
                self._make_room()
            except Exception:
                log.exception("models could not be unloaded")

    def _wait(self) -> bool:
        """Sleeps until there is something to do; False where nothing is loaded any more."""
        with self._changed:
            soonest = time.monotonic() + _AGAIN_S if self._due(time.monotonic()) else 0.0
            look_at = time.monotonic() + self._look_after()
            while not (self._look or self._ended):
                if not self._models:
                    self._thread = None
                    return False
                now = time.monotonic()
                unused_at = min((model.used + model.idle_timeout_s for model in self._timed()), default=math.inf)
                wake_at = min(max(soonest, unused_at), look_at)
                if wake_at <= now:
                    break
                self._changed.wait(None if wake_at == math.inf else min(wake_at - now, threading.TIMEOUT_MAX))
            self._look = False
            return True

    def _look_after(self) -> float:
        """Seconds until the memory is looked at though nothing was loaded: models grow, and busy ones become idle."""
        if self._short:
            return _AGAIN_S
        return _MEASURED_S if self.max_bytes and len(self._models) > 1 else math.inf

    def _timed(self) -> Iterable[Model]:
        return [model for model in self._models if model.idle_timeout_s]

    def _due(self, now: float) -> list[Model]:
        return [model for model in self._timed() if now - model.used >= model.idle_timeout_s]

    def _close_ended(self) -> None:
        with self._changed:
            ended, self._ended = self._ended, []
        for loaded in ended:
            loaded.close(0.0)

    def _unload_unused(self) -> None:
        now = time.monotonic()
        with self._changed:
            due = self._due(now)
        for model in due:
            self._unload(model, now - model.idle_timeout_s)

    def _unload(self, model: Model, unused_since: float) -> bool:
        gone = model.unload(unused_since)
        with self._changed:
            if not model.is_loaded:  # nor loaded again already
                self._models.pop(model, None)
        return gone

    def _make_room(self) -> None:
        """Unloads the least recently used models until the others fit."""
        order = self.loaded()
        loading = self._measure(order)
        excess = self._excess(order, loading)
        for model in order[:-1]:  # the last one is what is being asked for
            if excess <= 0:
                break
            if model not in loading and self._unload(model, time.monotonic()):
                excess -= model.memory
        was_short, self._short = self._short, excess > 0 and len(order) > 1
        if self._short and not was_short:
            log.warning(
                "models that are loaded on demand take %.0f MiB more than there is room for, and all of them are busy",
                excess / 2**20,
            )

    def _excess(self, models: list[Model], loading: set[Model]) -> int:
        """Bytes by which the models take too much; 0 or less where they fit."""
        over = sum(model.memory for model in models) - self.max_bytes if self.max_bytes else 0
        to_come = sum(model.memory for model in loading)
        short = to_come + RESERVE - capacity.available_memory() if loading else 0
        return max(over, short)

    def _measure(self, models: list[Model]) -> set[Model]:
        """Measures what is loaded; the models that still load, with what they are expected to take."""
        loading, now = set(), time.monotonic()
        for model in models:
            seats = model.seats()
            if not seats:
                loading.add(model)
            elif now - self._models.get(model, now) >= _MEASURED_S:
                model.memory = sum(proportional_memory(seat.pid) // seat.sharers for seat in seats)
                with self._changed:
                    if model in self._models:
                        self._models[model] = now
        known = [model.memory for model in models if model.memory and model not in loading]
        usual = sum(known) // len(known) if known else capacity.WORKER_BYTES
        for model in loading:
            model.memory = model.memory or usual
        return loading


def proportional_memory(pid: int) -> int:
    """Bytes of a process' memory, shared pages divided by how many share them; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
