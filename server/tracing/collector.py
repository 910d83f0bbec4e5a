"""`Collector`: takes the records of traced requests, and has a thread of its own make traces of them.

What does not fit into the queue is dropped and counted: tracing never slows a request down. A record waits until the others of
its batch have had time to come, since their spans are linked to each other.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Protocol

from ...core.errors import InvalidConfig
from ..metrics.models import Exemplars, Traced
from ..metrics.text import Exemplar, Family
from ..process import threads
from ..settings.trace import OPENTELEMETRY, TraceConfig
from .otlp import OtlpSink, is_installed
from .record import TraceRecord
from .settings import TraceSettings
from .triton_file import TritonFile

log = logging.getLogger(__name__)

#: How long after its batch's answer a record may be taken.
SETTLE_NS = 200_000_000
#: OpenTelemetry's defaults of its BatchSpanProcessor: requests that may wait, milliseconds between exports, requests in one.
_BSP = {"bsp_max_queue_size": 2048, "bsp_schedule_delay": 5000, "bsp_max_export_batch_size": 512}
#: Traced requests of one model version that metrics may show.
EXEMPLARS = 64
#: Seconds between two warnings of traces that were lost.
_WARN_S = 60.0


class Sink(Protocol):
    """Where traces go. One thread calls it, but for `interrupt`."""

    def write(self, records: list[TraceRecord]) -> str:
        """Makes traces of these; why they are lost, or ""."""

    def interrupt(self) -> None:
        """Has `write` give up soon."""

    def close(self) -> None: ...


def limit(config: TraceConfig, name: str) -> int:
    """A setting of the queue: as given, as OTEL_BSP_* of the environment says, or OpenTelemetry's default."""
    given: int | None = getattr(config, name)
    if given is not None:
        return given
    variable = f"OTEL_{name.upper()}"
    text = os.environ.get(variable, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise InvalidConfig(f"{variable} is {text!r}, expected a number above 0")
    return int(text) if text else _BSP[name]


def sink_of(config: TraceConfig, settings: TraceSettings) -> Sink:
    """Where this configuration sends traces. InvalidConfig where that cannot be."""
    if config.mode != OPENTELEMETRY:
        return TritonFile(config.file, settings)
    if not is_installed():
        raise InvalidConfig("trace_config mode=opentelemetry needs OpenTelemetry's exporter: pip install 'jitney[otel]'")
    return OtlpSink(config)


class Collector:
    """Threads: any calls `put`. `close` writes what is there and ends the thread."""

    def __init__(self, settings: TraceSettings, sink: Sink | None = None) -> None:
        config = settings.config
        self._settings, self._sink = settings, sink or sink_of(config, settings)
        self._capacity = limit(config, "bsp_max_queue_size")
        self._delay = limit(config, "bsp_schedule_delay") / 1000
        self._at_once = min(limit(config, "bsp_max_export_batch_size"), self._capacity)
        self._records: list[TraceRecord] = []
        self._news = threading.Condition()
        self._outcomes = Counter({"written": 0, "dropped": 0, "failed": 0})
        self._latest: dict[tuple[str, str], deque[Traced]] = {}
        self._closed, self._warned = False, 0.0
        self._thread: threading.Thread | None = None

    def put(self, record: TraceRecord) -> None:
        """Takes a record, or drops it where too many wait."""
        if not self._settings.count(record):
            return
        with self._news:
            if self._closed or len(self._records) >= self._capacity:
                self._outcomes["dropped"] += 1
                return
            self._records.append(record)
            if self._thread is None:
                self._start()
            elif len(self._records) in (1, self._at_once):
                self._news.notify()

    def _start(self) -> None:
        """The first trace starts the thread; with the lock held."""
        thread = threading.Thread(target=self._run, name="traces", daemon=True)
        try:
            threads.start(thread, "traces")
        except Exception as error:  # noqa: BLE001 - a request must not suffer from it
            log.warning("%s", error)
            self._records.clear()
            self._outcomes["dropped"] += 1
        else:
            self._thread = thread

    def families(self) -> Iterator[Family]:
        """What a scrape shows."""
        family = Family("jitney_traces_total", "counter", "Traces of requests: written, dropped before that, or not taken.")
        with self._news:
            for outcome, count in self._outcomes.items():
                family.add({"outcome": outcome}, count)
        yield family

    def exemplars(self) -> Exemplars:
        """Of each model version the latest traced requests whose spans were taken."""
        with self._news:
            return {version: list(latest) for version, latest in self._latest.items()}

    def _keep(self, records: list[TraceRecord]) -> None:
        """With the lock held."""
        wall = time.time() - time.monotonic()
        for record in records:
            execution = record.execution
            if record.trace_id and execution is not None and execution.computed and not record.steps:
                queued, at = (execution.dispatched - execution.arrived) / 1e9, wall + execution.answered / 1e9
                latest = self._latest.setdefault((execution.model, execution.version), deque(maxlen=EXEMPLARS))
                computed = Exemplar(record.trace_id, execution.computed / 1e9, at)
                latest.append(Traced(Exemplar(record.trace_id, max(0.0, queued), at), computed))

    def close(self, timeout: float) -> None:
        """Writes what is there, for at most `timeout` seconds."""
        with self._news:
            self._closed = True
            self._news.notify()
        if self._thread is None:
            self._sink.close()
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._sink.interrupt()
            self._thread.join(1.0)

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while records := self._next():
            try:
                reason = self._sink.write(records)
            except Exception as error:
                log.exception("traces cannot be made")
                reason = f"{type(error).__name__}: {error}"
            with self._news:
                self._outcomes["failed" if reason else "written"] += len(records)
                if not reason:
                    self._keep(records)
            if reason:
                self._warn(len(records), reason)
        self._sink.close()

    def _next(self) -> list[TraceRecord]:
        """The records of the next export; none at the end."""
        with self._news:
            self._news.wait_for(lambda: self._records or self._closed)
            self._news.wait_for(lambda: len(self._records) >= self._at_once or self._closed, self._delay)
            while True:
                if self._closed:
                    found, self._records = self._records, []
                    return found
                settled = time.monotonic_ns() - SETTLE_NS
                found = [record for record in self._records if record.front.sent <= settled][: self._at_once]
                if found:
                    taken = set(map(id, found))
                    self._records = [record for record in self._records if id(record) not in taken]
                    return found
                self._news.wait(SETTLE_NS / 1e9)

    def _warn(self, count: int, reason: str) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_S or not self._warned:
            self._warned = now
            log.warning("%d traces are lost: %s; jitney_traces_total counts those that follow", count, reason)


def collector_of(traces: TraceSettings) -> Collector | None:
    """What takes traces; None where no setting could ever have one made: there is no file, and none can be named later.

    InvalidConfig where OpenTelemetry's exporter is missing.
    """
    config = traces.config
    return Collector(traces) if config.mode == OPENTELEMETRY or config.file else None
