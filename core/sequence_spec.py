"""`SequenceSpec`: a model's `sequence_batching`, read from its configuration for the scheduler and for its workers. Pure.

An archive with `sequenceBatching` is described by the same document, "oldest" with an entry "archive" (`handler_config`).
The repository has checked the control inputs (`sequences.py`); what only the combination shows to be wrong is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import InvalidConfig, InvalidRequest
from .model_config import ModelConfig, TensorSpec, WarmupInput

Kind = Literal["START", "END", "READY", "CORRID"]

#: Triton's default of max_sequence_idle_microseconds.
IDLE_S = 1.0
_PREFIX = "CONTROL_SEQUENCE_"
_VALUES = (("int32_false_true", "INT32"), ("fp32_false_true", "FP32"), ("bool_false_true", "BOOL"))
#: Smallest and largest id that a CORRID input of this datatype can hold.
_ID_LIMITS = {
    "UINT64": (0, 2**64 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT32": (0, 2**32 - 1),
    "INT32": (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class SequenceControl:
    """A tensor of one element that tells the model where its sequence stands. `values` are those for false and true."""

    name: str
    kind: Kind
    datatype: str
    values: tuple[float, float] = (0, 1)


@dataclass(frozen=True)
class SequenceState:
    """A tensor that the model gives and gets back with the sequence's next request. `dims` leave out the batch axis.

    file  the first request's value, in the model's `initial_state` folder; "" = zeros (or empty strings)
    """

    input: str
    output: str
    datatype: str
    dims: tuple[int, ...]
    initial_dims: tuple[int, ...]
    file: str = ""


@dataclass(frozen=True)
class SequenceSpec:
    """How a model's sequences are scheduled; times in seconds.

    slots        sequences that one worker holds at a time; others wait for one of them to end
    preferred, preserve_ordering  of the strategy "oldest"
    implicit     any request of an unknown sequence begins it (TorchServe); else it needs the START flag (Triton)
    lifetime, most, queue  a sequence's longest life, how many there may be, how many of its requests may wait; 0 = any
    utilization  of the strategy "direct": the share of its slots that must have a request, or `delay` must have passed
    """

    strategy: Literal["direct", "oldest"]
    slots: int
    idle: float
    delay: float
    utilization: float = 0.0
    preferred: tuple[int, ...] = ()
    preserve_ordering: bool = False
    implicit: bool = False
    lifetime: float = 0.0
    most: int = 0
    queue: int = 0
    controls: tuple[SequenceControl, ...] = ()
    states: tuple[SequenceState, ...] = ()

    @classmethod
    def of(cls, config: ModelConfig) -> SequenceSpec:
        """ValueError for a model without `sequence_batching`, InvalidConfig for one that cannot work."""
        document = config.sequence
        if document is None:
            raise ValueError(f"model '{config.name}' has no sequence_batching")
        idle = int(document.get("max_sequence_idle_microseconds", 0)) / 1e6 or IDLE_S
        archive: Mapping[str, Any] = document.get("archive") or {}
        controls = tuple(_controls(document))
        states = tuple(_state(state, config.name) for state in document.get("state", ()))
        _check_names(config, controls, states)
        width = max(1, config.max_batch_size)
        oldest: Mapping[str, Any] | None = document.get("oldest")
        if oldest is None:
            direct = document.get("direct") or {}
            delay = int(direct.get("max_queue_delay_microseconds", 0)) / 1e6
            return cls(
                "direct",
                width,
                idle,
                delay,
                float(direct.get("minimum_slot_utilization", 0.0)),
                controls=controls,
                states=states,
            )
        return cls(
            "oldest",
            int(oldest.get("max_candidate_sequences", 0)) or width,
            idle,
            int(oldest.get("max_queue_delay_microseconds", 0)) / 1e6,
            preferred=tuple(oldest.get("preferred_batch_size", ())),
            preserve_ordering=bool(oldest.get("preserve_ordering", False)),
            implicit=bool(archive),
            lifetime=int(archive.get("lifetime_microseconds", 0)) / 1e6,
            most=int(archive.get("sequences", 0)),
            queue=int(archive.get("queue", 0)),
            controls=controls,
            states=states,
        )

    def check_id(self, model: str, sequence: int | str) -> None:
        """Raises InvalidRequest where the model's CORRID input cannot hold this id; a string input holds numbers too."""
        for control in self.controls:
            if control.kind == "CORRID" and control.datatype in _ID_LIMITS:
                least, most = _ID_LIMITS[control.datatype]
                if not isinstance(sequence, int) or not least <= sequence <= most:
                    text = f"an integer from {least} to {most}, as its input '{control.name}' is {control.datatype}"
                    raise InvalidRequest(f"sequence id {sequence!r} does not fit model '{model}': expected {text}")


def for_worker(config: ModelConfig, spec: SequenceSpec) -> ModelConfig:
    """The configuration as the model's own code sees it: control tensors and states are inputs and outputs like others.

    In warm-up requests they are zeros.
    """
    inputs = [TensorSpec(control.name, control.datatype, (1,)) for control in spec.controls]
    inputs += [TensorSpec(state.input, state.datatype, state.dims) for state in spec.states]
    outputs = [TensorSpec(state.output, state.datatype, state.dims) for state in spec.states]
    added = tuple(output for output in outputs if config.output(output.name) is None)
    zeros = [WarmupInput(s.name, s.datatype, tuple(max(1, size) for size in s.dims)) for s in inputs]
    warmup = tuple(
        replace(entry, inputs=(*entry.inputs, *(z for z in zeros if all(z.name != given.name for given in entry.inputs))))
        for entry in config.warmup
    )
    return replace(config, inputs=(*config.inputs, *inputs), outputs=(*config.outputs, *added), warmup=warmup)


def _controls(document: Mapping[str, Any]) -> list[SequenceControl]:
    found = []
    for tensor in document.get("control_input", ()):
        for control in tensor["control"]:
            kind: Kind = control["kind"].removeprefix(_PREFIX)
            if kind == "CORRID":
                found.append(SequenceControl(tensor["name"], kind, _datatype(control["data_type"])))
                continue
            field, datatype = next(pair for pair in _VALUES if control.get(pair[0]))
            false, true = control[field]
            found.append(SequenceControl(tensor["name"], kind, datatype, (false, true)))
    return found


def _state(document: Mapping[str, Any], model: str) -> SequenceState:
    name, dims = document["input_name"], tuple(int(size) for size in document.get("dims", ()))
    initial = list(document.get("initial_state", ()))
    if len(initial) > 1:
        raise InvalidConfig(f"state '{name}' of model '{model}' has {len(initial)} entries of initial_state, expected one")
    first = initial[0] if initial else {}
    initial_dims = tuple(int(size) for size in first.get("dims", ())) or dims
    datatype = _datatype(document["data_type"])
    if first and _datatype(first["data_type"]) != datatype:
        raise InvalidConfig(f"initial_state of state '{name}' of model '{model}' must be {datatype} like the state")
    if first.get("data_file") and min(initial_dims, default=1) < 0:
        raise InvalidConfig(f"initial_state of state '{name}' of model '{model}' needs dims without -1")
    known = tuple(max(size, 1) if size < 0 else size for size in initial_dims)
    return SequenceState(name, document["output_name"], datatype, dims, known, first.get("data_file", ""))


def _check_names(config: ModelConfig, controls: tuple[SequenceControl, ...], states: tuple[SequenceState, ...]) -> None:
    names = [spec.name for spec in config.inputs]
    for what, name in [("control input", c.name) for c in controls] + [("state", s.input) for s in states]:
        if not name or name in names:
            raise InvalidConfig(f"{what} '{name}' of model '{config.name}' needs a name that no other input has")
        names.append(name)
    outputs = [state.output for state in states]
    if len(set(outputs)) != len(outputs) or "" in outputs:
        raise InvalidConfig(f"the states of model '{config.name}' need output names, each its own, got {outputs}")


def _datatype(name: str) -> str:
    return name.removeprefix("TYPE_").replace("STRING", "BYTES")
