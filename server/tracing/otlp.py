"""`OtlpSink`: records as OpenTelemetry's spans, exported over OTLP/HTTP.

    InferRequest              of the server; the child of the client's span where it sent a traceparent
    ├─ decode                 from the request's arrival as a whole to its place in the queue
    ├─ MODEL                  what Triton calls the model's span; of an ensemble, one for each step lies in it
    │  ├─ queue               until its batch left
    │  └─ batch               until the batch was answered; linked to all other traced requests of the batch
    │     └─ compute          in the worker
    └─ encode                 from the model's answer until the client's had been handed on

Names and events of InferRequest, MODEL and compute are Triton's. The library is imported when the first trace is made.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ... import __version__
from ..settings.trace import TraceConfig
from .record import Execution, TraceRecord
from .timeline import compute_start, stamps

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

#: Where an address says nothing else, OTLP is taken here.
PATH = "/v1/traces"
#: Links of one batch's span (OpenTelemetry's limit).
MAX_LINKS = 128
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def is_installed() -> bool:
    try:
        return importlib.util.find_spec(f"{_EXPORTER}.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def endpoint(url: str) -> str | None:
    """The whole address of what `--trace-config opentelemetry,url=` names; None leaves it to OTEL_EXPORTER_OTLP_ENDPOINT."""
    if not url:
        return None
    whole = url if "://" in url else f"http://{url}"
    scheme, _, rest = whole.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash + path if path else PATH}"


class OtlpSink:
    """A `collector.Sink`."""

    def __init__(self, config: TraceConfig) -> None:
        self._config = config
        self._library: _Library | None = None

    def write(self, records: list[TraceRecord]) -> str:
        if self._library is None:
            self._library = _Library(self._config)
        return self._library.export(records)

    def interrupt(self) -> None:
        if self._library is not None:
            self._library.stop()

    def close(self) -> None:
        self.interrupt()


class _Reason(logging.Handler):
    """Keeps the first thing that the exporter says of an export: the cause, and not that it gave up. The collector tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


class _Library:
    """What is OpenTelemetry's."""

    def __init__(self, config: TraceConfig) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.api, self._propagator = trace, TraceContextTextMapPropagator()
        self._failed = SpanExportResult.FAILURE
        own = Resource({SERVICE_NAME: "triton-inference-server", SERVICE_VERSION: __version__})
        resource = own.merge(OTELResourceDetector().detect()).merge(Resource(dict(config.resource)))
        self._spans = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, resource, False, span_limits=SpanLimits(max_links=MAX_LINKS))
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = provider.get_tracer("jitney", __version__)
        self.exporter = OTLPSpanExporter(endpoint=endpoint(config.url))
        self._reason = _Reason()
        for name in (_EXPORTER, "opentelemetry.exporter.otlp.common"):
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.addHandler(self._reason)

    def export(self, records: list[TraceRecord]) -> str:
        """Why the spans of these records were not taken, or ""."""
        wall = time.time_ns() - time.monotonic_ns()
        batches: dict[tuple[str, str, int], list[Span]] = {}
        made = [_Trace(self, record, lambda ns: wall + ns) for record in records]
        for trace in made:
            for execution, span in trace.models:
                if execution.computed:
                    batches.setdefault(_batch(execution), []).append(span)
        for trace in made:
            trace.finish(batches)
        spans = self._spans.get_finished_spans()
        self._spans.clear()
        self._reason.text = ""
        if self.exporter.export(spans) is self._failed:
            return self._reason.text or "the collector did not take them"
        return ""

    def stop(self) -> None:
        """Ends an export that waits to be tried again."""
        stop: Callable[[], object] = self.exporter.shutdown
        stop()

    def context_of(self, record: TraceRecord) -> Context:
        """The client's span, where there is one."""
        headers = {"traceparent": record.front.parent, "tracestate": record.front.state}
        return self._propagator.extract({name: value for name, value in headers.items() if value})


def _batch(execution: Execution) -> tuple[str, str, int]:
    """What the requests of one batch have in common: a model's batches leave one after another."""
    return execution.model, execution.version, execution.dispatched


class _Trace:
    """The spans of one request. `models`: those of its models, whose contexts others link to."""

    def __init__(self, library: _Library, record: TraceRecord, wall: Callable[[int], int]) -> None:
        self._library, self._record, self._wall = library, record, wall
        self.root = self._start("InferRequest", record.front.received, None, kind=library.api.SpanKind.SERVER)
        record.trace_id = f"{self.root.get_span_context().trace_id:032x}"
        self.models: list[tuple[Execution, Span]] = []
        if record.execution is not None:
            own = self._model(record.execution, self.root)
            for step in record.steps:
                self._model(step, own)

    def _model(self, execution: Execution, parent: Span) -> Span:
        span = self._start(execution.model, execution.arrived, parent)
        self.models.append((execution, span))
        return span

    def finish(self, batches: Mapping[tuple[str, str, int], list[Span]]) -> None:
        """Makes the spans within, and ends all."""
        record, front = self._record, self._record.front
        if (execution := record.execution) is not None:
            self._between("decode", front.received, execution.arrived, self.root)
            if execution.answered:
                self._between("encode", execution.answered, front.sent, self.root)
        for execution, span in self.models:
            self._within(execution, span, batches)
        self._describe()
        self.root.end(self._wall(max(front.received, front.sent)))

    def _within(self, execution: Execution, span: Span, batches: Mapping[tuple[str, str, int], list[Span]]) -> None:
        """The spans of one model."""
        record, is_ensemble = self._record, bool(self._record.steps) and execution is self._record.execution
        span.set_attribute("triton.model_name", execution.model)
        span.set_attribute("triton.model_version", execution.version)
        if record.request_id:
            span.set_attribute("triton.request_id", record.request_id)
        events = stamps(execution)
        for name, ns in events:
            if not name.startswith("COMPUTE"):
                span.add_event(name, timestamp=self._wall(ns))
        if execution.dispatched and not is_ensemble:
            self._between("queue", execution.arrived, execution.dispatched, span)
            if execution.answered:
                self._batch(execution, span, batches, [event for event in events if event[0].startswith("COMPUTE")])
        span.end(self._wall(execution.answered or record.front.sent))

    def _batch(
        self, execution: Execution, span: Span, batches: Mapping[tuple[str, str, int], list[Span]],
        events: list[tuple[str, int]],
    ) -> None:  # fmt: skip
        link, record = self._library.api.Link, self._record
        others = [other for other in batches.get(_batch(execution), ()) if other is not span][:MAX_LINKS]
        links = [link(other.get_span_context()) for other in others]
        batch = self._start("batch", execution.dispatched, span, links=links)
        batch.set_attribute("jitney.batch.id", f"{execution.model}/{execution.version}/{execution.dispatched}")
        if record.batch_rows and execution is record.execution:
            batch.set_attribute("jitney.batch.rows", record.batch_rows)
            batch.set_attribute("jitney.request.rows", record.rows)
        if execution.computed:
            begins = compute_start(execution)
            compute = self._start("compute", begins, batch)
            for name, ns in events:
                compute.add_event(name, timestamp=self._wall(ns))
            compute.end(self._wall(begins + execution.computed))
        batch.end(self._wall(execution.answered))

    def _describe(self) -> None:
        """Attributes of the root: OpenTelemetry's semantic conventions for HTTP and RPC servers."""
        front, root = self._record.front, self.root
        host, _, port = front.peer.rpartition(":")
        if front.protocol == "http":
            root.set_attributes({"http.request.method": front.name, "url.path": front.path})
            if front.status:
                root.set_attribute("http.response.status_code", int(front.status))
        else:
            root.set_attributes({"rpc.system.name": "grpc", "rpc.method": front.name})
            if front.status:
                root.set_attribute("rpc.response.status_code", front.status)
        if host:
            root.set_attribute("client.address", host.strip("[]"))
        if port.isdecimal():
            root.set_attribute("client.port", int(port))
        begin, end = (
            ("GRPC_WAITREAD_END", "GRPC_SEND_END") if front.protocol == "grpc" else ("HTTP_RECV_END", "HTTP_SEND_END")
        )
        root.add_event(begin, timestamp=self._wall(front.received))
        root.add_event(end, timestamp=self._wall(front.sent))
        self._set_status()

    def _set_status(self) -> None:
        """A server's failures are errors; what the client did wrong is not (semantic conventions)."""
        front, error = self._record.front, self._record.error
        failed = front.status >= "500" if front.protocol == "http" else front.status in _FAILURES
        if error:
            self.root.set_attribute("error.type", error.partition(":")[0])
        if failed:
            self.root.set_status(self._library.api.StatusCode.ERROR, error or None)

    # -- spans -------------------------------------------------------------------------------------------------------------

    def _start(self, name: str, ns: int, parent: Span | None, **more: Any) -> Span:
        library = self._library
        context = library.context_of(self._record) if parent is None else library.api.set_span_in_context(parent)
        return library.tracer.start_span(name, context, start_time=self._wall(ns), **more)

    def _between(self, name: str, begin: int, end: int, parent: Span) -> None:
        """Clocks of two processes are one clock; all the same no span ends before it begins."""
        if begin:
            self._start(name, begin, parent).end(self._wall(max(begin, end)))


#: Statuses of gRPC that say that the server failed (OpenTelemetry's semantic conventions).
_FAILURES = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
