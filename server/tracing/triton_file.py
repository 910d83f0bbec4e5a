"""`TritonFile`: traces as Triton's own trace APIs write them, for its `trace_summary.py` and what else reads such files.

One array of objects: `{"id", "model_name", "model_version", "request_id"?, "parent_id"?}`, then one object for each timestamp and
tensor, all with the trace's id (Triton's user guide, "JSON Trace Output"). Timestamps are of the monotonic clock.

The file is valid JSON after every write, where Triton's is when the server has ended. With `log-frequency` each file has so many
traces and a number behind its name, as Triton writes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ...core.tensor import NUMPY_DTYPES, unpack_bytes
from .record import Execution, TracedTensor, TraceRecord
from .timeline import stamps

if TYPE_CHECKING:
    from .settings import TraceSettings

Json = dict[str, Any]


class TritonFile:
    """A `collector.Sink`. A failure is told, and the next traces are tried again."""

    def __init__(self, path: str, settings: TraceSettings) -> None:
        self._path, self._settings = Path(path), settings
        self._ids, self._numbers = itertools.count(1), itertools.count(0)
        self._begun = False
        self._waiting: list[bytes] = []  # traces of the next numbered file

    def write(self, records: list[TraceRecord]) -> str:
        traces = [b",".join(map(orjson.dumps, self._trace(record))) for record in records if record.execution is not None]
        try:
            self._write(traces)
        except OSError as error:
            return f"the trace file '{error.filename or self._path}' cannot be written: {error.strerror}"
        return ""

    def _write(self, traces: list[bytes]) -> None:
        frequency = self._settings.log_frequency()
        if not frequency:
            self._append(traces)
            return
        self._waiting += traces
        while len(self._waiting) >= frequency:
            self._next_file(self._waiting[:frequency])
            del self._waiting[:frequency]

    def _append(self, traces: list[bytes]) -> None:
        if not traces:
            return
        with self._path.open("r+b" if self._begun else "wb") as file:
            if self._begun:
                file.seek(-1, 2)  # before the bracket that closes the array
            file.write((b"," if self._begun else b"[") + b",".join(traces) + b"]")
        self._begun = True

    def _next_file(self, traces: list[bytes]) -> None:
        path = self._path.with_name(f"{self._path.name}.{next(self._numbers)}")
        path.write_bytes(b"[" + b",".join(traces) + b"]")

    def interrupt(self) -> None:
        """A write to a file does not last."""

    def close(self) -> None:
        if self._waiting:
            self._next_file(self._waiting)
            self._waiting = []

    # -- a trace -----------------------------------------------------------------------------------------------------------

    def _trace(self, record: TraceRecord) -> Iterator[Json]:
        """The objects of one request, and of the models of its steps."""
        front, execution = record.front, record.execution
        if execution is None:
            return
        own = next(self._ids)
        yield from self._model(own, execution, record.request_id)
        begin, end = ("GRPC_WAITREAD", "GRPC_SEND") if front.protocol == "grpc" else ("HTTP_RECV", "HTTP_SEND")
        for name, ns in (
            (f"{begin}_START", front.received), (f"{begin}_END", front.received),
            (f"{end}_START", front.sent), (f"{end}_END", front.sent),
        ):  # fmt: skip
            yield _stamp(own, name, ns)
        for tensor in record.tensors:
            yield {"id": own, "activity": tensor.activity, "tensor": _tensor(tensor)}
        for step in record.steps:
            yield from self._model(next(self._ids), step, record.request_id, own)

    def _model(self, number: int, execution: Execution, request_id: str, parent: int = 0) -> Iterator[Json]:
        version = int(execution.version) if execution.version.isdecimal() else execution.version
        told: Json = {"id": number, "model_name": execution.model, "model_version": version}
        yield told | ({"request_id": request_id} if request_id else {}) | ({"parent_id": parent} if parent else {})
        yield from (_stamp(number, name, ns) for name, ns in stamps(execution))


def _stamp(number: int, name: str, ns: int) -> Json:
    return {"id": number, "timestamps": [{"name": name, "ns": ns}]}


def _tensor(tensor: TracedTensor) -> Json:
    shape = ",".join(map(str, tensor.shape))
    return {"name": tensor.name, "data": _text(tensor), "shape": shape, "dtype": tensor.datatype}


def _text(tensor: TracedTensor) -> str:
    """The elements with commas between them; text in quotes. "" where there is too much, or numpy has no such numbers."""
    if tensor.data is None or tensor.datatype == "BF16":
        return ""
    if tensor.datatype == "BYTES":
        return ",".join(f'"{element.decode(errors="replace")}"' for element in unpack_bytes(tensor.data))
    found = np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype])
    return ",".join(map(str, (found.astype(int) if tensor.datatype == "BOOL" else found).tolist()))
