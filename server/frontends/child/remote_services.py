"""What the routes of a front end work with besides the data plane: metrics, keys, regions, places and the log."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping

from ....core.call import Times
from ....core.errors import InvalidRequest, QueueFull, Unavailable
from ...http.kserve.shm import ClientRegion, ClientRegions
from ...http.middleware.admission import Places
from ...http.middleware.tokens import Key, Kind, bearer
from ...ipc.coalesce import Coalescer
from ...process.log_format import fields_of, traceback_of
from ..messages import Answered, FrontTimes, Logged, RegionFile, Requested
from ..send_queue import SendQueue
from ..shared_counters import SharedCounters
from .scheduler_client import SchedulerClient


class RemoteRequestMetrics:
    """What the routes count, sent to `metrics.torchserve.TorchServeMetrics`. Never urgent: a scrape asks for it."""

    def __init__(self, send_queue: SendQueue) -> None:
        self._send_queue = send_queue
        self.lock = threading.Lock()
        self.silent = False

    def series_of(self, model: str, version: str | None) -> None:
        """The values are not here, so `RequestCounters` is to call what follows."""

    def responded(self, status: int) -> None:
        self._send_queue.count(status)

    def requested(self, model: str, version: str | None) -> None:
        self._send_queue.put(Requested(model, version), urgent=False)

    def answered(self, model: str, version: str | None, times: Times) -> None:
        known = FrontTimes(times.dispatched, times.compute_input, times.compute_infer, times.compute_output)
        message = Answered(model, version, time.monotonic_ns(), times.arrived, times.answered, known)
        self._send_queue.put(message, urgent=False)


class RemoteTokens:
    """`http.middleware.tokens.Keys`: the scheduler's, asked for when one was renewed."""

    def __init__(self, link: SchedulerClient, counters: SharedCounters) -> None:
        self._link, self._counters = link, counters
        self._known: tuple[int, Mapping[Kind, Key]] = (-1, {})

    def allows(self, kind: Kind, authorization: str | None) -> bool:
        """Whether an Authorization header opens this kind of route."""
        epoch, keys = self._known
        now = self._counters.epoch("keys")
        if now != epoch:
            keys = self._link.ask("keys").keys or {}
            self._known = now, keys
        return kind in keys and keys[kind].matches(bearer(authorization), time.time())


class RemoteRegions(ClientRegions):
    """The scheduler's registered regions, opened here when they are first used."""

    def __init__(self, link: SchedulerClient, counters: SharedCounters, allowed: bool = True) -> None:
        super().__init__(allowed)
        self._link, self._counters = link, counters
        self._epoch = -1

    def find(self, name: str) -> ClientRegion | None:
        now = self._counters.epoch("regions")
        with self._lock:
            if now != self._epoch:
                self._epoch = now
                self._regions.clear()
            found = self._regions.get(name)
        if found is not None:
            return found
        told = self._link.ask("region", name).region
        if told is None:
            return None
        region = _opened(name, told)
        with self._lock:
            if self._epoch == now:
                self._regions[name] = region
        return region


def _opened(name: str, told: RegionFile) -> ClientRegion:
    """The same file that the scheduler has open, whatever its name in /dev/shm stands for by now."""
    try:
        fd = os.open(f"/proc/{os.getppid()}/fd/{told.fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise InvalidRequest(f"Unable to open shared memory region: '{told.key}'") from None
    found = os.fstat(fd)
    region = ClientRegion(name, told.key, told.offset, told.byte_size, fd)  # which closes the file
    if (found.st_dev, found.st_ino) != (told.device, told.inode):
        raise Unavailable(f"shared memory region '{name}' is being unregistered")
    return region


class SharedPlaces(Places):
    """Places that all processes of the server have together. Where several take the last one at once, each may get it."""

    def __init__(self, limit: int, counters: SharedCounters, process: int, coalescer: Coalescer | None = None) -> None:
        super().__init__(limit, coalescer)
        self._counters, self._process = counters, process

    def enter(self) -> None:
        with self._lock:
            if self._counters.waiting() >= self.limit:
                self._coalescer.refused()
                raise QueueFull(f"the server answers {self.limit} requests already, which is all it may hold")
            self._set(self.taken + 1)

    def leave(self) -> None:
        with self._lock:
            self._set(self.taken - 1)

    def _set(self, taken: int) -> None:
        self.taken = taken
        self._counters.set_waiting(self._process, taken)


class RemoteLog(logging.Handler):
    """Sends what is logged here to the scheduler's log."""

    def __init__(self, send_queue: SendQueue, index: int) -> None:
        super().__init__()
        self._send_queue, self._name = send_queue, f"front-{index}"

    def emit(self, record: logging.LogRecord) -> None:
        thread = f"{self._name}:{record.threadName}"
        try:
            message = Logged(
                record.name, record.levelno, record.getMessage(), thread, record.created,
                dict(fields_of(record)), traceback_of(record),
            )  # fmt: skip
            self._send_queue.put(message, urgent=False)
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)
