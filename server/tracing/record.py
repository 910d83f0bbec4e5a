"""`TraceRecord`: what a traced request leaves behind when it is over. Spans are made of it later, on another thread.

Times are monotonic nanoseconds, 0 where the request never got that far. Records are plain, since front ends send theirs to the
scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ...core.call import Call, Times
from ...core.errors import JitneyError
from ...core.request import Response
from ...core.tensor import Tensor

#: Bytes of a tensor beyond which a trace has its shape alone.
MAX_TENSOR_BYTES = 1 << 20


class Execution(msgspec.Struct, array_like=True):
    """A request in one model: of an ensemble's own request, from its arrival to its answer. `compute_*` are durations."""

    model: str
    version: str
    arrived: int = 0
    dispatched: int = 0
    answered: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0

    @property
    def computed(self) -> int:
        """Nanoseconds that the worker had it, beside the way there and back."""
        return self.compute_input + self.compute_infer + self.compute_output


class TracedTensor(msgspec.Struct, array_like=True):
    """`activity` is Triton's name for where it was seen; `data` is None where there is too much of it."""

    activity: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | None


class Front(msgspec.Struct, array_like=True):
    """What the dialect knows of a request.

    name      "POST", or a call's path over gRPC;  path: of the URL, "" over gRPC
    status    of HTTP as digits, of gRPC by its name
    received  when it was there as a whole;  sent: when its answer had been handed on
    parent    W3C's headers traceparent and tracestate, "" where the client sent none
    """

    protocol: Literal["http", "grpc"]
    name: str
    path: str
    peer: str
    status: str
    received: int
    sent: int
    parent: str = ""
    state: str = ""


class TraceRecord(msgspec.Struct, array_like=True):
    """`chosen`: its turn had come, so that it counts towards `trace_count`; others are traced because their clients are.

    execution  None where no model took the request;  steps: of an ensemble
    trace_id   once spans have been made of it
    """

    front: Front
    chosen: bool
    request_id: str = ""
    execution: Execution | None = None
    steps: list[Execution] = []
    rows: int = 0
    batch_rows: int = 0
    error: str = ""
    tensors: list[TracedTensor] = []
    trace_id: str = ""


def _execution(model: str, version: str, times: Times) -> Execution:
    return Execution(
        model, version, times.arrived, times.dispatched, times.answered,
        times.compute_input, times.compute_infer, times.compute_output,
    )  # fmt: skip


def record_of(
    front: Front, call: Call | None, answer: Response | JitneyError | None, *, chosen: bool, tensors: bool
) -> TraceRecord:
    """The record of a request that is over. `answer`: its one answer, where it was kept."""
    if call is None:
        return TraceRecord(front, chosen, error=str(answer) if isinstance(answer, JitneyError) else "")
    request, error = call.request, call.error
    made = TraceRecord(front, chosen, request.id, rows=request.rows, batch_rows=call.batch_rows)
    if call.config is not None:
        made.execution = _execution(call.config.name, call.config.version, call.times)
    made.steps = [_execution(*step) for step in call.steps or ()]
    made.error = f"{type(error).__name__}: {error}" if error is not None else ""
    if tensors:
        made.tensors = _traced("TENSOR_QUEUE_INPUT", request.tensors)
        made.tensors += _traced("TENSOR_BACKEND_OUTPUT", answer.tensors if isinstance(answer, Response) else ())
    return made


def _traced(activity: str, tensors: Sequence[Tensor]) -> list[TracedTensor]:
    return [
        TracedTensor(
            activity, tensor.name, tensor.datatype, tuple(tensor.shape),
            bytes(tensor.data) if tensor.nbytes <= MAX_TENSOR_BYTES else None,
        )
        for tensor in tensors
    ]  # fmt: skip
