"""Parameters of an infer request: those with a meaning here, and the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ....core.errors import InvalidRequest, Unsupported
from ....core.request import Parameter
from .documents import MAX_INT64, Document, checked, unsigned

_RESERVED = "triton_"
#: Triton's request flags, as `pb_utils` numbers them.
_SEQUENCE_START, _SEQUENCE_END = 1, 2
#: Bytes of the longest text that names a sequence (core's `SequenceId`).
_LONGEST_ID = 128


@dataclass(slots=True)
class Sequence:
    """To which sequence a request belongs; an `id` of 0 or "" is none."""

    id: int | str = 0
    start: bool = False
    end: bool = False


@dataclass(slots=True)
class Parameters:
    """`priority` 0 = the model's default, `timeout_us` 0 = the model's; `custom` is what the model sees."""

    priority: int = 0
    timeout_us: int = 0
    binary_output: bool = False
    sequence: Sequence = field(default_factory=Sequence)
    custom: dict[str, Parameter] = field(default_factory=dict)

    def for_model(self) -> dict[str, Parameter]:
        """What travels with the request: the model's own parameters, and for Python models what pb_utils shows besides."""
        sequence = self.sequence
        if not (self.timeout_us or sequence.id or sequence.start or sequence.end):
            return self.custom
        hidden: dict[str, Parameter] = {
            "triton_timeout": self.timeout_us,
            "triton_sequence_id": sequence.id,
            "triton_flags": _SEQUENCE_START * sequence.start | _SEQUENCE_END * sequence.end,
        }
        return self.custom | {name: value for name, value in hidden.items() if value}


def own(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Without those that only server and backends exchange."""
    return {name: value for name, value in parameters.items() if not name.startswith(_RESERVED)}


def read(document: Document) -> Parameters:
    """Sorts a request's `parameters`; raises InvalidRequest for a wrong type or a reserved name."""
    found = Parameters()
    for name, value in document.items():
        match name:
            case "priority":
                found.priority = unsigned(value, name)
            case "timeout":
                found.timeout_us = unsigned(value, name)
            case "binary_data_output":
                found.binary_output = checked(value, name, bool)
            case "sequence_id":
                found.sequence.id = sequence_text(value) if type(value) is str else unsigned(value, name)
            case "sequence_start":
                found.sequence.start = checked(value, name, bool)
            case "sequence_end":
                found.sequence.end = checked(value, name, bool)
            case _:
                found.custom[name] = custom(name, value)
    return found


def sequence_text(value: str) -> str:
    """A text as a sequence's id; raises Unsupported beyond the length that Triton's core takes."""
    if len(value.encode()) > _LONGEST_ID:
        raise Unsupported(f"string correlation ID cannot be longer than {_LONGEST_ID} characters")
    return value


def custom(name: str, value: object) -> Parameter:
    """A parameter of the model's own: a string, a boolean, a 64-bit integer or a double.

    Larger integers, as a seed of 64 bits may be, are doubles (Triton 2.51).
    """
    if name.startswith(_RESERVED):
        raise InvalidRequest(
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
        )
    if isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if -MAX_INT64 - 1 <= value <= MAX_INT64 else float(value)
    raise InvalidRequest(f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.")
