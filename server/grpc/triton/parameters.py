"""Parameters of requests and answers: a name, and a value of one of five kinds. Texts and checks are Triton's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....core.errors import InvalidRequest
from ....core.request import FINAL_MARK, Parameter
from ...http.kserve.parameters import Parameters, own, sequence_text

_RESERVED = "triton_"
_EMPTY_FINAL = "triton_enable_empty_final_response"
_KIND = "parameter_choice"


@dataclass(slots=True)
class Given:
    """What a request's parameters say. `empty_final`: whether a stream's end is told by an answer of its own."""

    parameters: Parameters
    empty_final: bool = False


def read(parameters: Mapping[str, Any]) -> Given:
    """Sorts a request's parameters; InvalidRequest for a value of the wrong kind, or a reserved name."""
    found = Given(Parameters())
    if not parameters:
        return found
    known = found.parameters
    for name in sorted(parameters):
        value = parameters[name]
        match name:
            case "sequence_id":
                given = _value(name, value, "int64_param", "string_param")
                # the field is signed, the id is not
                known.sequence.id = given % (1 << 64) if isinstance(given, int) else sequence_text(given)
            case "sequence_start":
                known.sequence.start = _value(name, value, "bool_param")
            case "sequence_end":
                known.sequence.end = _value(name, value, "bool_param")
            case "priority":
                known.priority = _value(name, value, "int64_param", "uint64_param")
                if known.priority < 0:
                    raise InvalidRequest("invalid value for 'priority', expected value >= 0.")
            case "timeout":
                known.timeout_us = max(0, _value(name, value, "int64_param"))
            case _ if name == _EMPTY_FINAL:
                found.empty_final = _value(name, value, "bool_param")
            case _:
                known.custom[name] = _custom(name, value)
    return found


def _value(name: str, parameter: Any, *kinds: str) -> Any:
    kind = parameter.WhichOneof(_KIND)
    if kind not in kinds:
        raise InvalidRequest(f"invalid value type for '{name}' parameter, expected {' or '.join(kinds)}.")
    return getattr(parameter, kind)


def _custom(name: str, parameter: Any) -> Parameter:
    if name.startswith(_RESERVED):
        raise InvalidRequest(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
            f"'triton_' are allowed: {_EMPTY_FINAL}"
        )
    kind = parameter.WhichOneof(_KIND)
    if kind not in ("int64_param", "bool_param", "string_param", "double_param"):
        raise InvalidRequest(
            f"invalid value type for '{name}' parameter, expected int64_param, bool_param, or string_param."
        )
    value: Parameter = getattr(parameter, kind)
    return value


def write(target: Any, parameters: Mapping[str, Parameter]) -> None:
    """Enters a model's own parameters into an answer's."""
    for name, value in own(parameters).items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            target[name].int64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            target[name].string_param = value


def mark_final(target: Any, final: bool) -> None:
    """Says in an answer of a stream whether it is the last to its request."""
    target[FINAL_MARK].bool_param = final
