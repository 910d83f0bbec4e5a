"""A collector of OpenTelemetry's: takes OTLP over HTTP and decodes it with the official messages."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from jitney.tools.bench.served import wait_until

PATIENCE = 20.0


@dataclass
class Span:
    """A span as it came, with its resource's attributes."""

    proto: Any
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.proto.name)

    @property
    def trace(self) -> str:
        return str(self.proto.trace_id.hex())

    @property
    def id(self) -> str:
        return str(self.proto.span_id.hex())

    @property
    def parent(self) -> str:
        return str(self.proto.parent_span_id.hex())

    @property
    def attributes(self) -> dict[str, Any]:
        return attributes(self.proto.attributes)

    @property
    def events(self) -> list[str]:
        return [event.name for event in self.proto.events]

    @property
    def links(self) -> set[str]:
        return {link.span_id.hex() for link in self.proto.links}


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@dataclass
class Collector:
    """`status` is what it answers; `paths` are the paths that it was asked."""

    url: str = ""
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for entry in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = attributes(entry.resource.attributes)
            self.spans += [Span(proto, resource) for scope in entry.scope_spans for proto in scope.spans]

    def roots(self) -> list[Span]:
        return [span for span in self.spans if span.name == "InferRequest"]

    def wait(self, count: int) -> list[Span]:
        """The first spans of so many requests, once all of them are here."""
        wait_until(lambda: len(self.roots()) >= count, PATIENCE, f"{count} traces, of which {len(self.roots())} came")
        return self.roots()

    def children(self, parent: Span) -> dict[str, Span]:
        """The spans right below one, by name."""
        return {span.name: span for span in self.spans if span.parent == parent.id and span.trace == parent.trace}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free loopback port."""
    found = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.paths.append(self.path)
            if found.status == 200:
                found.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            """The test's output is not its place."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
