"""`RequestCounters`: what every request of one model version changes in TorchServe's metrics, with the series looked up once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from ...core.call import Times

#: The values of a metric, the labels' values of one of them, and whether it is a counter.
Series = tuple[dict[tuple[str, ...], float], tuple[str, ...], bool]


class RequestMetrics(Protocol):
    """Where routes count: `TorchServeMetrics` in the scheduler's process, in a front end what sends it there. Thread-safe.

    silent   what is counted for a model has no reader
    lock     held while the values of `series_of` are changed
    """

    lock: threading.Lock

    @property
    def silent(self) -> bool: ...

    def series_of(self, model: str, version: str | None) -> Sequence[Series] | None:
        """The series that a model's requests change, in `RequestCounters`' order; None where it is to call what follows."""

    def requested(self, model: str, version: str | None) -> None:
        """A request for a model that exists."""

    def answered(self, model: str, version: str | None, times: Times) -> None:
        """A request that was answered with success."""

    def responded(self, status: int) -> None:
        """An answer with this HTTP status."""


class RequestCounters:
    """Counts requests as `RequestMetrics.requested`, `answered` and `responded` do. `version` as the request named it.

    Where the metrics go to a log, or are declared in another form than TorchServe's own, it hands on to these methods.
    """

    def __init__(self, metrics: RequestMetrics, model: str, version: str | None) -> None:
        self._metrics, self._model, self._version = metrics, model, version
        found = metrics.series_of(model, version)
        self._requests: Series | None = None
        self._answers: list[Series] = []
        if found is not None:
            self._requests, *self._answers = found

    def requested(self) -> None:
        """A request for a model that exists."""
        if self._requests is None:
            if not self._metrics.silent:
                self._metrics.requested(self._model, self._version)
            return
        values, key, _ = self._requests
        with self._metrics.lock:
            values[key] = values.get(key, 0.0) + 1.0

    def answered(self, times: Times) -> None:
        """A request that was answered with success."""
        if not self._answers:
            if not self._metrics.silent:
                self._metrics.answered(self._model, self._version, times)
                self._metrics.responded(200)
            return
        queued = max(0, times.dispatched - times.arrived)
        in_worker = times.compute_input + times.compute_infer + times.compute_output
        on_the_way = max(0, times.answered - times.dispatched - in_worker)
        (inference, a, _), (queue, b, _), (queue_ms, c, _), (way_ms, d, _), (responses, e, _) = self._answers
        with self._metrics.lock:
            inference[a] = inference.get(a, 0.0) + (time.monotonic_ns() - times.arrived) / 1000
            queue[b] = queue.get(b, 0.0) + queued / 1000
            queue_ms[c] = float(queued // 1_000_000)
            way_ms[d] = float(on_the_way // 1_000_000)
            responses[e] = responses.get(e, 0.0) + 1.0
