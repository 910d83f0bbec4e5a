"""Requests and responses as messages, and back. Large data lies in an arena of the sender. Pure: memory is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.request import Part, Request, Response
from ...core.tensor import Buffer, Tensor
from ..ipc.arena import Arena, Slot
from ..ipc.memory import flat
from .messages import Data, FrontPart, FrontRequest, FrontResponse, FrontTensor

#: Finds the bytes of a place; ValueError where it is outside of the memory.
Fetch = Callable[[int, int], Buffer]


def request_to_wire(request: Request, arena: Arena) -> tuple[FrontRequest, list[Slot]]:
    """The message, and the slots that hold its data; QueueFull where they do not fit."""
    pieces: list[Tensor | Part] = [*request.tensors, *request.parts]
    data, slots = _place([piece.data for piece in pieces], arena)
    count = len(request.tensors)
    return FrontRequest(
        request.id,
        _tensors_to_wire(request.tensors, data),
        [FrontPart(p.name, p.content_type, d) for p, d in zip(request.parts, data[count:], strict=True)],
        dict(request.headers),
        dict(request.parameters),
        request.outputs,
        request.rows,
    ), slots


def request_from_wire(wire: FrontRequest, fetch: Fetch) -> Request:
    """The data is where `fetch` finds it, or in the message."""
    return Request(
        wire.id,
        _tensors_from_wire(wire.tensors, fetch),
        [Part(part.name, _fetched(part.data, fetch), part.content_type) for part in wire.parts],
        wire.headers,
        wire.parameters,
        wire.outputs,
        wire.rows,
    )


def response_to_wire(response: Response, arena: Arena) -> tuple[FrontResponse, list[Slot]]:
    """The message, and the slots that hold its data; QueueFull where they do not fit."""
    buffers = [tensor.data for tensor in response.tensors]
    if response.body is not None:
        buffers.append(response.body)
    data, slots = _place(buffers, arena)
    return FrontResponse(
        _tensors_to_wire(response.tensors, data),
        None if response.body is None else data[-1],
        response.status,
        response.reason,
        dict(response.headers),
        dict(response.parameters),
        response.error,
        response.final,
    ), slots


def response_from_wire(wire: FrontResponse, fetch: Fetch) -> Response:
    return Response(
        _tensors_from_wire(wire.tensors, fetch),
        None if wire.body is None else _fetched(wire.body, fetch),
        wire.status,
        wire.reason,
        wire.headers,
        wire.parameters,
        wire.error,
        wire.final,
    )


def places(wire: FrontResponse) -> list[int]:
    """The offsets of what lies in shared memory."""
    data = [tensor.data for tensor in wire.tensors]
    if wire.body is not None:
        data.append(wire.body)
    return [place[0] for place in data if isinstance(place, tuple)]


def _place(buffers: Sequence[Buffer], arena: Arena) -> tuple[list[Data], list[Slot]]:
    slots = [slot for slot in arena.put_all(buffers) if isinstance(slot, Slot)]
    if slots:
        return [(slot.offset, slot.nbytes) for slot in slots], slots
    return [flat(buffer) for buffer in buffers], []


def _tensors_to_wire(tensors: Sequence[Tensor], data: Sequence[Data]) -> list[FrontTensor]:
    return [FrontTensor(t.name, t.datatype, t.shape, d) for t, d in zip(tensors, data, strict=False)]


def _tensors_from_wire(tensors: Sequence[FrontTensor], fetch: Fetch) -> list[Tensor]:
    return [Tensor(t.name, t.datatype, t.shape, _fetched(t.data, fetch)) for t in tensors]


def _fetched(data: Data, fetch: Fetch) -> Buffer:
    return fetch(*data) if isinstance(data, tuple) else data
