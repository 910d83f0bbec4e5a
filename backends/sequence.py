"""`SequenceBackend`: what a stateful model gets besides its clients' tensors (Triton's `sequence_batching`).

It stands around a worker's backend. The server sends each request with the slot that its sequence keeps in this worker; here the
control tensors (START, END, READY, CORRID) are added, and the implicit state: what the model gave for a state's output is its
input with the sequence's next request. States stay in the worker that holds the sequence, by slot, and never travel.

With the strategy "direct" a sequence's place in the batch is its slot. A slot below the highest used one without a request
gets an empty request (zeros, READY false), whose answer is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from ..core.names import inside
from ..core.request import Failure, Instance, Request, Respond, Response
from ..core.sequence_spec import SequenceControl, SequenceSpec, SequenceState, for_worker
from ..core.tensor import NUMPY_DTYPES, Tensor, expected_bytes, pack_bytes, unpack_bytes
from .base import Backend

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

#: Flags of the request parameter `triton_flags` (Triton's TRITONSERVER_REQUEST_FLAG_SEQUENCE_*).
START, END = 1, 2
#: The folder of a model with the files of initial states (Triton).
INITIAL_STATE_FOLDER = "initial_state"


@dataclass(slots=True)
class _Turn:
    """One request as the model sees it. `index` is its place in the server's batch, None for an empty one."""

    request: Request
    slot: int
    index: int | None
    flags: int = 0


class SequenceBackend(Backend):
    """Runs `inner` for a model with `sequence_batching`."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._states: dict[int, dict[str, Tensor]] = {}  # slot -> input name -> what the next request gets

    def load(self, model: ModelConfig, instance: Instance) -> None:
        self.model, self.spec = model, SequenceSpec.of(model)
        self._lead = (1,) if model.batches else ()
        self._initial = {state.input: self._first(state) for state in self.spec.states}
        self._hidden = {state.output for state in self.spec.states}
        self._inner.host = self.host
        self._inner.load(for_worker(model, self.spec), instance)

    def unload(self) -> None:
        self._inner.unload()

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        turns = self._turns(requests)
        given = [self._given(turn) for turn in turns]
        self._inner.durations = (0, 0, 0)
        try:
            self._inner.execute(given, partial(self._respond, turns, respond))
        finally:
            self.durations = self._inner.durations

    # -- what the model gets ----------------------------------------------------------------------------------------------

    def _turns(self, requests: Sequence[Request]) -> list[_Turn]:
        turns = [
            _Turn(request, int(request.parameters.get("triton_slot", index)), index, _flags(request))
            for index, request in enumerate(requests)
        ]
        if self.spec.strategy == "oldest":
            return turns
        by_slot = {turn.slot: turn for turn in turns}
        empty = Request(tensors=[_zeros_like(tensor) for tensor in requests[0].tensors])
        return [by_slot.get(slot) or _Turn(empty, slot, None) for slot in range(max(by_slot) + 1)]

    def _given(self, turn: _Turn) -> Request:
        request = turn.request
        if turn.flags & START:
            self._states.pop(turn.slot, None)
        kept = self._states.get(turn.slot, {}) if turn.index is not None else {}
        controls = [self._control(control, turn) for control in self.spec.controls]
        states = [kept.get(name, initial) for name, initial in self._initial.items()]
        outputs = (*request.outputs, *sorted(self._hidden - set(request.outputs))) if request.outputs else ()
        return structs.replace(request, tensors=[*request.tensors, *controls, *states], outputs=outputs)

    def _control(self, control: SequenceControl, turn: _Turn) -> Tensor:
        shape = (*self._lead, 1)
        if control.kind == "CORRID":
            return _identifier(control, turn.request.parameters.get("triton_sequence_id", 0), shape)
        is_true = {"START": turn.flags & START, "END": turn.flags & END, "READY": turn.index is not None}[control.kind]
        value = control.values[bool(is_true)]
        return _filled(control, value, shape)

    def _first(self, state: SequenceState) -> Tensor:
        """A state's value for a sequence's first request."""
        shape = (*self._lead, *state.initial_dims)
        if not state.file:
            return Tensor(state.input, state.datatype, shape, _zeros(state.datatype, prod(shape)))
        path = inside(Path(self.model.directory) / INITIAL_STATE_FOLDER, state.file)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"state '{state.input}': cannot read {path}: {error.strerror}") from None
        strings = state.datatype == "BYTES"
        have, wanted = (
            (len(unpack_bytes(data)), prod(shape)) if strings else (len(data), expected_bytes(state.datatype, shape))
        )
        if have != wanted:
            unit = "strings" if strings else "bytes"
            text = f"holds {have} {unit}, expected {wanted} for {state.datatype} {list(state.initial_dims)}"
            raise ValueError(f"state '{state.input}': {path} {text}")
        return Tensor(state.input, state.datatype, shape, data)

    # -- what the model gives ---------------------------------------------------------------------------------------------

    def _respond(self, turns: Sequence[_Turn], respond: Respond, index: int, response: Response) -> None:
        turn = turns[index]
        if turn.index is None:
            return
        problem = self._keep(turn, response)
        if problem:
            respond(turn.index, Response(error=Failure(problem, "BAD_OUTPUT")))
            return
        if turn.flags & END and response.final:
            self._states.pop(turn.slot, None)
        if self._hidden:
            wanted = turn.request.outputs or [spec.name for spec in self.model.outputs]
            shown = [tensor for tensor in response.tensors if tensor.name not in self._hidden or tensor.name in wanted]
            response = structs.replace(response, tensors=shown)
        respond(turn.index, response)

    def _keep(self, turn: _Turn, response: Response) -> str:
        """Keeps a copy of the states that the model gave; what is wrong with them, or ""."""
        given = {tensor.name: tensor for tensor in response.tensors if tensor.name in self._hidden}
        for state in self.spec.states:
            tensor = given.get(state.output)
            if tensor is None:
                continue
            if tensor.datatype != state.datatype:
                return (
                    f"model '{self.model.name}' gave state '{state.output}' as {tensor.datatype}, expected {state.datatype}"
                )
            kept = Tensor(state.input, tensor.datatype, tensor.shape, bytearray(tensor.data))
            self._states.setdefault(turn.slot, {})[state.input] = kept
        return ""


def _flags(request: Request) -> int:
    return int(request.parameters.get("triton_flags", 0))


def _identifier(control: SequenceControl, value: object, shape: tuple[int, ...]) -> Tensor:
    if control.datatype == "BYTES":
        return Tensor(control.name, "BYTES", shape, pack_bytes([str(value)]))
    return _filled(control, value, shape)


def _filled(control: SequenceControl, value: object, shape: tuple[int, ...]) -> Tensor:
    """Writable, as the tensors of real requests are."""
    data = bytearray(np.full(shape, value, NUMPY_DTYPES[control.datatype]).tobytes())
    return Tensor(control.name, control.datatype, shape, data)


def _zeros_like(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.shape, _zeros(tensor.datatype, prod(tensor.shape)))


def _zeros(datatype: str, count: int) -> bytearray:
    """Writable, as the tensors of real requests are."""
    return bytearray(4 * count if datatype == "BYTES" else count * NUMPY_DTYPES[datatype].itemsize)
