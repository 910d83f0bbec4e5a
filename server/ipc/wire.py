"""Requests and responses as messages, and back. Pure: memory is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...core.call import Target
from ...core.request import Part, Request, Response
from ...core.tensor import Buffer, Tensor, expected_bytes
from .arena import Slot
from .memory import flat
from .messages import Data, WirePart, WireRequest, WireResponse, WireTensor

#: Decides how bytes travel: themselves, or a place they were written to.
Place = Callable[[Buffer], Data]


class Fetch(Protocol):
    """Finds or copies the bytes of a place (`into` memory of their size, where given); the identity for bytes that came along."""

    def __call__(self, data: Data, into: memoryview | None = None, /) -> Buffer: ...


def by_value(data: Data, into: memoryview | None = None) -> Buffer:
    """The `Fetch` for messages without shared memory."""
    if isinstance(data, tuple):
        raise ValueError("a message without shared memory refers to it")
    return data


def inline(data: Buffer) -> Data:
    """The `Place` for messages without shared memory."""
    return flat(data)


def request_to_wire(request: Request, slots: Sequence[object]) -> WireRequest:
    """`slots` hold the data of the tensors, then of the parts; none = the data travels in the message."""
    if slots:
        tensors, parts = _with_places(request, [_place(slot) for slot in slots])
    else:
        tensors = [WireTensor(t.name, t.datatype, t.shape, _bytes(t.data)) for t in request.tensors]
        parts = [WirePart(p.name, p.content_type, _bytes(p.data)) for p in request.parts]
    headers, parameters = request.headers, request.parameters
    return WireRequest(
        request.id,
        tensors,
        parts,
        headers if type(headers) is dict else dict(headers),
        parameters if type(parameters) is dict else dict(parameters),
        request.outputs,
        request.rows,
    )


def _with_places(request: Request, places: Sequence[Data]) -> tuple[list[WireTensor], list[WirePart]]:
    count = len(request.tensors)
    if len(places) != count + len(request.parts):
        raise ValueError(f"{len(places)} slots for {count} tensors and {len(request.parts)} parts")
    tensors = [WireTensor(t.name, t.datatype, t.shape, place) for t, place in zip(request.tensors, places, strict=False)]
    parts = [WirePart(p.name, p.content_type, place) for p, place in zip(request.parts, places[count:], strict=True)]
    return tensors, parts


def _bytes(data: Buffer) -> Buffer:
    """What the encoder takes as it is, without a view for the usual kinds."""
    return data if type(data) is bytes or type(data) is bytearray else flat(data)


def _place(slot: object) -> Data:
    if not isinstance(slot, Slot):
        raise TypeError(f"expected a slot of an arena, got {type(slot).__name__}")
    return slot.offset, slot.nbytes


def request_from_wire(wire: WireRequest, fetch: Fetch) -> Request:
    return Request(
        wire.id,
        [Tensor(t.name, t.datatype, t.shape, fetch(t.data) if isinstance(t.data, tuple) else t.data) for t in wire.tensors],
        [Part(p.name, fetch(p.data), p.content_type) for p in wire.parts] if wire.parts else [],
        wire.headers,
        wire.parameters,
        wire.outputs,
        wire.rows,
    )


def response_to_wire(response: Response, place: Place) -> WireResponse:
    """TypeError or ValueError if the model made something that cannot be sent. `place` gets bytes, or a flat view of them."""
    body = response.body
    return WireResponse(
        [_tensor_to_wire(tensor, place) for tensor in response.tensors] if response.tensors else [],
        None if body is None else place(body if type(body) is bytes else flat(body)),
        response.status,
        response.reason,
        dict(response.headers) if response.headers else {},
        dict(response.parameters) if response.parameters else {},
        response.error,
        response.final,
    )


def _tensor_to_wire(tensor: Tensor, place: Place) -> WireTensor:
    shape = tuple(map(int, tensor.shape))
    data = tensor.data if type(tensor.data) is bytes else flat(tensor.data)
    wanted = expected_bytes(tensor.datatype, shape)
    if wanted is not None and wanted != len(data):
        raise ValueError(
            f"output '{tensor.name}' has {len(data)} bytes, expected {wanted} for {tensor.datatype} of shape {list(shape)}"
        )
    return WireTensor(tensor.name, tensor.datatype, shape, place(data))


def response_from_wire(wire: WireResponse, fetch: Fetch, target: Target | None = None) -> Response:
    """`target` says where tensors in shared memory are copied to; None = memory of their own."""
    return Response(
        [Tensor(t.name, t.datatype, t.shape, _fetched(t, fetch, target)) for t in wire.tensors] if wire.tensors else [],
        None if wire.body is None else fetch(wire.body),
        wire.status,
        wire.reason,
        wire.headers,
        wire.parameters,
        wire.error,
        wire.final,
    )


def _fetched(tensor: WireTensor, fetch: Fetch, target: Target | None) -> Buffer:
    if target is None or not isinstance(tensor.data, tuple):
        return fetch(tensor.data)
    return fetch(tensor.data, target(tensor.name, tensor.data[1]))
